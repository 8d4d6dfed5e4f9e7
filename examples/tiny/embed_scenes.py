"""Embeds fresh captioned scenes with a trained tiny CLAP into an embedding cache, on which link and decoder are trained."""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from captions import describe
from scenes import MelBank, Recordings, SceneMixer, load_recordings, synthesised
from tqdm import tqdm

from diffusion_link_hf.clap import ClapEncoder
from diffusion_link_hf.data.embedding_cache import EmbeddingCache

logger = logging.getLogger(__name__)

SCENES, CAPTIONS_PER_SCENE, BATCH = 16_000, 2, 64
EVENT_COUNTS = {1: 0.45, 2: 0.47, 3: 0.08}


def embed_scenes(
    clap: ClapEncoder, mixer: SceneMixer, scenes: int, captions_per_scene: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str]]:
    """Draws scenes and embeds them with their captions.

    Returns:
        audio (N, D) and text (M, D) unit float32 rows, the audio row of every caption (M,) int64, and the M captions.
    """
    audio, captions = [], []
    for first in tqdm(range(0, scenes, BATCH), desc="scenes", mininterval=5):
        features, contents = mixer.batch(min(BATCH, scenes - first), rng)
        audio.append(clap(input_features=features))
        captions += [describe(scene.events, scene.relation, rng) for scene in contents for _ in range(captions_per_scene)]
    rows = torch.arange(scenes).repeat_interleave(captions_per_scene)
    return torch.cat(audio), clap.encode_text(captions), rows, captions


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv: file_name, label, fold")
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--clap", type=Path, required=True, help="folder written by train_clap.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--captions-per-scene", type=int, default=CAPTIONS_PER_SCENE)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    clap = ClapEncoder.from_pretrained(args.clap)
    recorded = load_recordings(args.data, set(args.folds))
    bank = MelBank(Recordings({**recorded.by_label, **synthesised(args.seed).by_label}))
    audio, text, rows, captions = embed_scenes(
        clap, SceneMixer(bank, EVENT_COUNTS), args.scenes, args.captions_per_scene, np.random.default_rng(args.seed)
    )
    names = [f"scene {i}" for i in range(len(audio))]
    EmbeddingCache.write(args.output, audio, text, rows, captions, names, clap=clap)
    logger.info("%d scenes, %d captions in %s", len(audio), len(captions), args.output)


if __name__ == "__main__":
    main()
