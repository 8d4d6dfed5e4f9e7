"""Embeds freshly mixed scenes and their captions into the cache that the link and the decoder are trained on."""

import argparse
from pathlib import Path

import numpy as np
import torch
from captions import describe
from scenes import MelBank, Recordings, SceneMixer, load_recordings, synthesized
from tqdm import tqdm

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.embeddings.cache import embed_captions

# More overlapped pairs than the encoder was trained on: in sounds that it never heard the second event is fainter to it
# than in those it knows, and a decoder that learned from those alone leaves it out (47 % of overlapped pairs, n = 200).
COUNTS = {1: 0.45, 2: 0.48, 3: 0.07}
SHARE_OVERLAPPED = 0.65


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv: file_name, label, fold")
    parser.add_argument("--folds", type=int, nargs="+", required=True)
    parser.add_argument("--clap", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--captions", type=int, default=3, help="per scene")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)

    rng = np.random.default_rng(args.seed)
    recorded = load_recordings(args.data, set(args.folds))
    # Other synthesized examples than those the encoder saw.
    mixer = SceneMixer(
        MelBank(Recordings({**recorded.by_label, **synthesized(args.seed).by_label})),
        COUNTS,
        share_overlapped=SHARE_OVERLAPPED,
    )
    clap = ClapEncoder.from_pretrained(args.clap)
    embeds, names, captions = [], [], []
    for first in tqdm(range(0, args.scenes, 64), desc="scenes", mininterval=5):
        features, scenes = mixer.batch(min(64, args.scenes - first), rng)
        embeds.append(clap(input_features=features))
        for k, scene in enumerate(scenes):
            names.append(f"scene-{first + k:06d}")
            captions.append([describe(scene.events, scene.relation, rng) for _ in range(args.captions)])
    embed_captions(clap, torch.cat(embeds), names, captions, folds=args.folds, seed=args.seed).save(args.output)


if __name__ == "__main__":
    main()
