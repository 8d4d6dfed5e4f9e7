"""Makes the package's embedding cache of heard scenes and their captions, from which the link is trained."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from assemble import build_clap
from diffusion_link_hf.data.embedding_cache import embed_captions
from torch.nn import functional as F


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heard", type=Path, default=Path("runs/everyday/pen/quick"))
    parser.add_argument("--words", type=Path, default=Path("runs/everyday/pen/clap_text"))
    parser.add_argument("--captions", type=int, default=3, help="per scene, at most")
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/cache"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    audio = F.normalize(torch.from_numpy(np.load(args.heard / "audio.npy")[: args.scenes].astype(np.float32)), dim=-1)
    rows = [json.loads(line) for line in (args.heard / "captions.jsonl").read_text().splitlines()][: args.scenes]
    # The last ones are the human captions where there are any.
    captions = [list(dict.fromkeys(row["captions"][::-1]))[: args.captions] for row in rows]
    names = [f"scene-{k:06d}" for k in range(len(rows))]
    embed_captions(build_clap(args.words), audio, names, captions).save(args.output)


if __name__ == "__main__":
    main()
