"""Embeds training scenes, each heard by taggers that never heard its recordings, and their captions, into a cache.

Bridges can be measured and trained on it: it is a cache as `diffusion-link embed` makes them. The pipeline needs none.
"""

import argparse
import json
from pathlib import Path

import joint_space
import numpy as np
import torch
from assemble_clap import FOLDER, decide, with_fold_unheard
from captions import Style, describe, of_labels
from feature_scenes import WHOLE
from folds import FOLDS

from diffusion_link_hf import EverydayClapEncoder
from diffusion_link_hf.embeddings.cache import embed_captions

CACHE = Path("cache")


def style_of(embeds: torch.Tensor) -> list[int]:
    """(N, 512) → the style, 0 to 255, that each sound's embedding asks for."""
    bits = (embeds[:, joint_space.STYLES] > 0).long()
    return (bits << torch.arange(bits.shape[1])).sum(1).tolist()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=12_000, help="at most")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    clap = EverydayClapEncoder.from_pretrained(FOLDER)
    features = np.load(WHOLE, mmap_mode="r")
    rows = [json.loads(line) for line in WHOLE.with_suffix(".jsonl").read_text().splitlines()]
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[: args.scenes])
    embeds, order = [], []
    for fold in range(FOLDS):
        model = with_fold_unheard(clap.model, fold)
        own = [k for k in chosen if rows[k]["fold"] == fold]
        for part in np.array_split(own, max(1, len(own) // 128)):
            some = torch.from_numpy(np.array(features[part])).float()
            silent = torch.tensor([rows[k]["layout"] == "silence" for k in part])
            with torch.inference_mode():
                embeds.append(model.embed(some, decide(model, some), silent))
            order += part.tolist()
    audio = torch.cat(embeds).clone()
    captions = []
    for k, style in zip(order, style_of(audio), strict=True):
        events, relation = of_labels(rows[k])
        captions.append([describe(events, relation, Style(style))])
    names = [f"scene-{k:06d}" for k in order]
    embed_captions(clap, audio, names, captions).save(CACHE)
    print(f"{len(names)} scenes, {len({own[0] for own in captions})} different captions")


if __name__ == "__main__":
    main()
