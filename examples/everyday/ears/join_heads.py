"""Joins tag heads that were trained apart into one folder: network.safetensors and tagger.pt.

python join_heads.py --heads work/tagger.pt work/tagger1.pt work/tagger2.pt --output work/three
"""

import argparse
import shutil
from pathlib import Path

import torch
from ears_head import joined


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=Path, nargs="+", required=True)
    parser.add_argument("--network", type=Path, default=Path("sfx_network.safetensors"))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    saved = [torch.load(path) for path in args.heads]
    head = {key: value for key, value in joined([one["head"] for one in saved]).items() if not key.startswith("fine.")}
    torch.save({"head": head, "names": saved[0]["names"]}, args.output / "tagger.pt")
    shutil.copy(args.network, args.output / "network.safetensors")


if __name__ == "__main__":
    main()
