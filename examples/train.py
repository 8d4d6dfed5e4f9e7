"""Trains from a recipe, as ``diffusion-link train`` does: ``python examples/train.py recipe.yaml [field=value …]``."""

import sys

from diffusion_link_hf.cli import main as command_line


def main(argv: list[str] | None = None) -> int:
    return command_line(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
