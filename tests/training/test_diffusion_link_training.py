"""What the training of Diffusion-Link writes, its figures, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from diffusion_link_hf import DiffusionLinkPipeline, EmbeddingCache
from diffusion_link_hf.bridges.linear import RIDGE_STRENGTHS
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, RecipeError
from diffusion_link_hf.training.train import train
from support.models import EMBEDDING_DIM
from support.training import bridge_arguments, make_cache


def unpaired_but(keep: int) -> EmbeddingCache:
    """A cache of which ``keep`` captions have a recording."""
    whole = make_cache(40)
    owners = torch.full((40,), -1)
    owners[:keep] = torch.arange(keep)
    return EmbeddingCache(whole.audio[:keep], whole.text, owners, whole.captions, whole.audio_names[:keep], {})


def test_the_output_is_a_pipeline(tmp_path):
    cache = make_cache(40)
    cache.manifest["clap"] = "0123"
    cache.save(tmp_path / "cache")
    metrics = train(bridge_arguments(tmp_path / "cache", tmp_path / "out", max_steps=2))
    pipeline = DiffusionLinkPipeline.from_pretrained(tmp_path / "out")
    text = cache.split(0.2, 0)[1].text
    bridged = pipeline(text, "text").embeds
    cosine = (bridged * pipeline.link.target(text)).sum(1).mean().item()
    assert metrics["matched_text"] == pytest.approx(cosine, abs=1e-5)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert (metrics["clap"], metrics["steps"]) == ("0123", 2)


def test_ridge_is_the_closed_form(tmp_path):
    """Against numpy's least squares on the augmented system, for some strength of the grid."""
    cache = make_cache()
    cache.save(tmp_path / "cache")
    found = train(bridge_arguments(tmp_path / "cache", tmp_path / "out", max_steps=1))["ridge"]
    fitted, validation = EmbeddingPairs.from_cache(cache).split(0.2, 0)

    def normalized(rows, mean):
        rows = rows.double().numpy() - mean.double().numpy()
        return 5 * rows / np.linalg.norm(rows, axis=1, keepdims=True)

    means = [rows.double().mean(0) for rows in (fitted.source, fitted.target)]
    x, y = normalized(fitted.source, means[0]), normalized(fitted.target, means[1])
    x_held, y_held = normalized(validation.source, means[0]), normalized(validation.target, means[1])
    cosines = []
    for strength in RIDGE_STRENGTHS:
        rows = np.sqrt(strength * len(x)) * np.eye(EMBEDDING_DIM)
        weights = np.linalg.lstsq(np.vstack([x, rows]), np.vstack([y, np.zeros_like(rows)]), rcond=None)[0]
        z = x_held @ weights
        cosines.append((z * y_held).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(y_held, axis=1))
    means = np.mean(cosines, axis=1)
    assert np.abs(means - found).min() < 1e-5
    assert found > np.median(means)


@pytest.mark.parametrize(
    ("paired", "figures"), [(0, set()), (1, set()), (2, {"raw", "matched_audio"}), (3, {"raw", "ridge"})]
)
def test_few_recordings(tmp_path, paired, figures):
    """Half of the recordings are held out: of two, one is left to train on, which is no ridge regression."""
    unpaired_but(paired).save(tmp_path / "cache")
    metrics = train(bridge_arguments(tmp_path / "cache", tmp_path / "out", max_steps=2, validation_fraction=0.4))
    assert figures <= metrics.keys()
    assert ("ridge" in metrics) == (paired == 3)
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert (tmp_path / "out" / "link").is_dir()


def test_nothing_held_out(tmp_path):
    make_cache(40).save(tmp_path / "cache")
    metrics = train(bridge_arguments(tmp_path / "cache", tmp_path / "out", max_steps=2, validation_fraction=0))
    assert "matched_audio" not in metrics


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"depth": 3}}, "model.depth.*num_blocks"),
        ({"model": {"embedding_dim": 512}}, f"model.embedding_dim: is 512, the data say {EMBEDDING_DIM}"),
        ({"model": {"width": "wide"}}, "model.width: is 'wide'"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(tmp_path, changes, words):
    make_cache(40).save(tmp_path / "cache")
    with pytest.raises(RecipeError, match=words):
        train(bridge_arguments(tmp_path / "cache", tmp_path / "out", **changes))
    same = {"embedding_dim": EMBEDDING_DIM, "width": 8, "time_embed_dim": 8}
    train(bridge_arguments(tmp_path / "cache", tmp_path / "out", max_steps=1, model=same))


def test_nothing_to_learn_from_is_refused(tmp_path):
    unpaired_but(0).save(tmp_path / "cache")
    with pytest.raises(RecipeError, match="text_to_text"):
        train(bridge_arguments(tmp_path / "cache", tmp_path / "out", loss={"text_to_text": False}))
    with pytest.raises(DataError, match="no such file or folder"):
        train(bridge_arguments(tmp_path / "nowhere", tmp_path / "out"))
