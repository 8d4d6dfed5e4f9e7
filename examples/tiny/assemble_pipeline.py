"""Puts CLAP and writer into a pipeline folder, in 16 bits; calibrate.py adds the scorer.

The link is the identity: this CLAP places sounds where their captions lie, with doubt and style, which texts do not
have and a bridge to texts would take away.
"""

import argparse
from pathlib import Path

import torch

from diffusion_link_hf import AudioCaptionPipeline, CaptionDecoder, ClapEncoder, IdentityBridge, PrefixProjector


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clap", type=Path, default=Path("clap"))
    parser.add_argument("--writer", type=Path, default=Path("writer"), help="folder of projector/ and decoder/")
    parser.add_argument("--output", type=Path, default=Path("pipeline"))
    args = parser.parse_args(argv)
    clap = ClapEncoder.from_pretrained(args.clap)
    projector = PrefixProjector.from_pretrained(args.writer / "projector").eval()
    decoder = CaptionDecoder.from_pretrained(args.writer / "decoder")
    pipeline = AudioCaptionPipeline(clap, projector, decoder, IdentityBridge(clap.embedding_dim).eval())
    pipeline.save_pretrained(args.output, dtype=torch.float16, include_base=True)
    files = sorted(args.output.rglob("*.safetensors"))
    for file in files:
        file.chmod(0o644)
        print(f"{file.relative_to(args.output)}: {file.stat().st_size / 1e6:.2f} MB")
    print(f"together: {sum(file.stat().st_size for file in files) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
