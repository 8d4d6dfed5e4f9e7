"""A small captioned cache, a recipe whose decoders train on it in a second, and hand-made runs with their scores."""

from pathlib import Path

import numpy as np
import torch

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.analysis.captioning import FinishedRun, HeldOut, Run
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.experiments.caption_runs import CaptioningRecipe
from diffusion_link_hf.metrics import CaptionScores
from diffusion_link_hf.training.bridge import train_bridge
from support.training import WORDS, make_base, make_cache

EVENTS = {word: [word] for word in WORDS}
SMALL_BRIDGE = {"steps": 3, "batch_size": 16, "learning_rate": 1e-3}
SMALL_DECODER = {
    "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "max_steps": 4,
    "warmup_steps": 1,
    "batch_size": 8,
    "learning_rate": 1e-2,
}


def make_captioned_cache(recordings: int = 40, seed: int = 0) -> EmbeddingCache:
    """Two captions of each recording: "a dog" and "the dog"."""
    one = make_cache(recordings, seed)
    rows = torch.arange(recordings).repeat_interleave(2)
    text = torch.nn.functional.normalize(
        one.text[rows]
        + 0.05 * torch.randn(len(rows), one.embedding_dim, generator=torch.Generator().manual_seed(seed)),
        dim=1,
    )
    captions = [f"{article} {one.captions[row]}" for row in range(recordings) for article in ("a", "the")]
    return EmbeddingCache(one.audio, text, rows, captions, one.audio_names, one.manifest)


def make_recipe(folder: Path, **changes) -> CaptioningRecipe:
    options = {
        "base_model": str(make_base(folder / "base")),
        "instruction": "Say: ",
        "bridge": SMALL_BRIDGE,
        "decoder": SMALL_DECODER,
        "generation": {"num_beams": 1, "max_new_tokens": 6},
    }
    return CaptioningRecipe(**{**options, **changes})


def fit_small(train: EmbeddingCache):
    """What `CaptionRuns` fits bridges with."""
    pairs = EmbeddingPairs.from_cache(train)
    return lambda method, seed, output: train_bridge(
        method, pairs, output, seed=seed, validation_fraction=0.0, progress=False, **SMALL_BRIDGE
    )


def make_held_out(count: int = 12) -> HeldOut:
    return HeldOut.from_cache(make_captioned_cache(count))


def make_finished(method: str, seed: int, captions: list[str], mode: str = "zeroshot") -> FinishedRun:
    seconds = {"bridge": None if method == "none" else 0.5, "decoder": 2.0 + seed, "captions": 0.25}
    return FinishedRun(Run(mode, method, seed), captions, None if method == "none" else "LinearBridge", 0, seconds)


def make_scores(cider: np.ndarray, meteor: np.ndarray) -> CaptionScores:
    """Per-caption scores, and a corpus METEOR that is not their mean."""
    return CaptionScores(
        {"meteor": float(meteor.mean()) / 2, "cider_d": float(cider.mean())}, {"meteor": meteor, "cider_d": cider}
    )
