"""The caption scorer: calibration, hedging, folders, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf import CaptionScorer, InputError, ModelFolderError


def drawn(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of the usual sizes, whether the captions are right, and the probability of that."""
    rng = np.random.default_rng(seed)
    features = np.stack(
        [
            rng.uniform(0.1, 0.95, count),
            -rng.exponential(0.8, count),
            rng.integers(4, 20, count),
            -rng.exponential(0.3, count),
        ],
        1,
    )
    probability = 1 / (
        1 + np.exp(-(-3 + 6 * features[:, 0] + 1.2 * features[:, 1] - 0.05 * features[:, 2] + features[:, 3]))
    )
    right = rng.random(count) < probability
    return torch.from_numpy(features).float(), torch.from_numpy(right), torch.from_numpy(probability)


def test_fitted_scores_are_calibrated():
    features, right, _ = drawn(20_000)
    scorer = CaptionScorer.fit(features, right)
    unheard, now_right, now_probability = drawn(20_000, seed=1)
    scores = scorer.scores(unheard)
    assert (scores - now_probability).abs().mean() < 0.02
    for part in scores.argsort().chunk(10):
        assert abs(scores[part].mean() - now_right[part].double().mean()) < 0.03
    assert scores.dtype == torch.float64


def test_a_feature_that_separates_all_keeps_weights_finite():
    features = torch.tensor([[0.9, -1.0, 5.0, 0], [0.8, -1.0, 5.0, 0], [0.2, -1.0, 5.0, 0], [0.1, -1.0, 5.0, 0]])
    scorer = CaptionScorer.fit(features, torch.tensor([True, True, False, False]))
    assert all(np.isfinite([scorer.config.bias, *scorer.config.weights]))


@settings(max_examples=100, deadline=None)
@given(caption=st.text(max_size=30), score=st.floats(0, 1), threshold=st.floats(0, 1))
def test_only_captions_below_the_threshold_are_hedged(caption, score, threshold):
    scorer = CaptionScorer(0.0, [1.0, 1.0, 1.0, 1.0], unknown_below=threshold)
    hedged = scorer.hedge(caption, score)
    assert (hedged == caption) == (score >= threshold)
    assert hedged.startswith("An unknown sound") or hedged == caption
    assert scorer.hedge(caption, score, unknown_below=0.0) == caption


@pytest.mark.parametrize(
    ("caption", "said"),
    [("A dog barks", "a dog barks"), ("TV noise", "TV noise"), ("Rain", "rain"), ("A", "a"), ("I sing", "i sing")],
)
def test_a_hedged_caption_goes_on_in_the_sentence(caption, said):
    assert CaptionScorer(0, [1, 1, 1, 1]).hedge(caption, 0.0) == f"An unknown sound, perhaps {said}"


def test_a_folder_keeps_all_settings(tmp_path):
    scorer = CaptionScorer(-1.5, [2.0, 0.5, -0.1, 0.3], unknown_below=0.3, silence_dbfs=-50.0)
    scorer.save_pretrained(tmp_path)
    loaded = CaptionScorer.from_pretrained(tmp_path)
    features = drawn(10)[0]
    assert torch.equal(loaded.scores(features), scorer.scores(features))
    assert loaded.config.unknown_below == 0.3
    assert loaded.config.silence_dbfs == -50.0


@pytest.mark.parametrize(
    "change", [{"weights": [1.0]}, {"bias": "much"}, {"unknown_below": 2}, {"stranger": 1}, {"silence_dbfs": True}]
)
def test_a_damaged_folder_is_refused(tmp_path, change):
    CaptionScorer(-1.5, [2.0, 0.5, -0.1, 0.3]).save_pretrained(tmp_path)
    path = tmp_path / "scorer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFolderError, match="scorer"):
        CaptionScorer.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ModelFolderError, match="missing"):
        CaptionScorer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": [1, 2]}, "weights"),
        ({"bias": float("nan")}, "bias"),
        ({"weights": [1, float("inf"), 2, 3]}, "log_probability"),
        ({"unknown_below": -0.1}, "unknown_below"),
        ({"unknown_below": True}, "unknown_below"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        CaptionScorer(**{"bias": 0.0, "weights": [1.0, 1.0, 1.0, 1.0], **options})


def test_what_cannot_be_fitted_is_refused():
    features, right, _ = drawn(20)
    with pytest.raises(InputError, match="shape"):
        CaptionScorer.fit(features[:, :2], right)
    with pytest.raises(InputError, match="the same of all"):
        CaptionScorer.fit(features, torch.ones(20, dtype=torch.bool))
