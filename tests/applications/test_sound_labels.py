"""Zero-shot classification: the softmax by hand, windows and means, an index, and real recordings."""

import csv

import numpy as np
import pytest
import soundfile as sf
import torch

from diffusion_link_hf import SoundSearchPipeline, classify_sounds, index_sounds
from diffusion_link_hf.errors import InputError
from support.models import make_everyday_clap, make_pipeline

RATE = 48_000
LABELS = ["dog", "rain", "engine"]


@pytest.fixture(scope="module")
def pipe():
    return SoundSearchPipeline.from_pipe(make_pipeline())


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for k, (name, seconds) in enumerate((("a.wav", 1), ("b.wav", 21))):
        sf.write(folder / name, np.random.default_rng(k).normal(0, 0.05, seconds * RATE), RATE)
    (folder / "bad.wav").write_bytes(b"not audio")
    return folder


@pytest.mark.parametrize("bridge", [False, True])
def test_probabilities_are_the_softmax_of_scaled_cosines(pipe, sounds, bridge):
    rows = index_sounds(pipe, sounds).windows()[0]
    rows = pipe.bridge_rows(rows) if bridge else rows
    texts = pipe.encode_text([f"I hear {label}" for label in LABELS])
    logits = pipe.clap.model.logit_scale_a.exp().item() * rows.double() @ texts.double().T
    expected = logits.softmax(-1)
    options = {"template": "I hear {}", "bridge": bridge}
    windows = [one for one in classify_sounds(pipe, sounds, LABELS, each_window=True, **options) if one.error is None]
    found = torch.tensor([[one.probabilities[label] for label in LABELS] for one in windows], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-5)
    assert [(one.start, one.end) for one in windows] == [(0, 1), (0, 10), (10, 20), (20, 21)]
    _, whole, bad = classify_sounds(pipe, sounds, LABELS, **options)
    means = torch.tensor([whole.probabilities[label] for label in LABELS], dtype=torch.float64)
    assert torch.allclose(means, expected[1:].mean(0), atol=1e-5)
    assert list(whole.probabilities.values()) == sorted(whole.probabilities.values(), reverse=True)
    assert bad.probabilities == {}
    assert "bad.wav" in bad.error


@pytest.mark.parametrize("each_window", [False, True])
def test_an_index_says_the_same(pipe, sounds, each_window):
    direct = [one for one in classify_sounds(pipe, sounds, LABELS, each_window=each_window) if one.error is None]
    indexed = list(classify_sounds(pipe, index_sounds(pipe, sounds), LABELS, each_window=each_window))
    assert [(one.file, one.start, one.end) for one in indexed] == [(one.file, one.start, one.end) for one in direct]
    for one, other in zip(indexed, direct, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_batches_and_the_order_of_labels_do_not_matter(pipe, sounds):
    expected = [one.probabilities for one in classify_sounds(pipe, sounds, LABELS)]
    for labels, batch_size in ((LABELS[::-1], 32), (LABELS, 1)):
        found = classify_sounds(pipe, sounds, labels, batch_size=batch_size)
        for one, probabilities in zip(found, expected, strict=True):
            assert one.probabilities == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["dog"], {}, "at least two"),
        (["dog", " dog"], {}, "at least two"),
        (["dog", " "], {}, "none of them empty"),
        ("dog", {}, "list of texts"),
        (LABELS, {"template": "no place"}, "Write {} once"),
        (LABELS, {"logit_scale": 0}, "above 0"),
        (LABELS, {"logit_scale": float("nan")}, "above 0"),
    ],
)
def test_options_out_of_range(pipe, sounds, labels, options, words):
    with pytest.raises(InputError, match=words):
        classify_sounds(pipe, sounds, labels, **options)


def test_a_clap_without_a_scale_has_that_of_the_docs(sounds):
    pipe = SoundSearchPipeline(make_everyday_clap())
    found = next(classify_sounds(pipe, sounds, LABELS))
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found == next(classify_sounds(pipe, sounds, LABELS, logit_scale=20.0))


def test_real_recordings_get_their_labels(shared_data):
    """Chance is 10 %. ``tiny`` was trained on these recordings: this shows that the parts fit, not how good it is."""
    pipe = SoundSearchPipeline.from_pretrained("tiny")
    with (shared_data / "esc10" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::8]
    labels = sorted({row["label"].replace("_", " ") for row in rows})
    assert len(labels) == 10
    files = [shared_data / "esc10" / row["file_name"] for row in rows]
    found = classify_sounds(pipe, files, labels, template="{}")
    right = [
        next(iter(one.probabilities)) == row["label"].replace("_", " ") for one, row in zip(found, rows, strict=True)
    ]
    assert sum(right) / len(right) > 0.5
