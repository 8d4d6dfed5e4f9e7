"""A small set of pairs with several captions per recording, split, with a few fitted bridges."""

import torch

from diffusion_link_hf.analysis.gap_measures import FittedBridge, GapSettings
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.training.bridge import build_bridge
from support.bridges import make_bridge, make_pairs, make_rows
from support.models import EMBEDDING_DIM

CAPTIONS = 2
QUICK = GapSettings(resamples=40, kl_components=4)


def make_pairs_with_captions(recordings: int = 120) -> EmbeddingPairs:
    """One source and two targets per recording."""
    source, target = make_pairs(recordings)
    source, target = (rows.float().repeat_interleave(CAPTIONS, 0) for rows in (source, target))
    target = target + 0.2 * make_rows(len(target), 7)
    return EmbeddingPairs(source, target, torch.arange(recordings).repeat_interleave(CAPTIONS), name="small")


def make_split() -> tuple[EmbeddingPairs, EmbeddingPairs]:
    """Training and held-out pairs."""
    return make_pairs_with_captions().split(0.4, 0)


def make_fitted(train: EmbeddingPairs, seeds: tuple[int, ...] = (0, 1)) -> list[FittedBridge]:
    """identity, centering, ridge, and a noised link with random weights, for every seed."""
    bridges = []
    for seed in seeds:
        for method in ("identity", "centering", "ridge"):
            bridge = build_bridge(method, EMBEDDING_DIM).fit(train.source, train.target, train.group, seed=seed).eval()
            bridges.append(FittedBridge(method, bridge, seed, 0, 0.5))
        bridges.append(FittedBridge("diffusion-link", make_bridge("diffusion-link", seed), seed, 30, 1.5))
    return bridges
