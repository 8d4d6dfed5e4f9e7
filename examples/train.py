"""Trains a stage from a recipe: ``accelerate launch examples/train.py recipe.yaml [field=value …]``."""

import argparse
import importlib
import json
import sys

from accelerate import PartialState

from diffusion_link_hf.errors import DiffusionLinkError
from diffusion_link_hf.training.recipes import load_recipe

# Stage → module and function; imported when a recipe asks for it.
TRAINERS = {
    "link": ("link", "train_link"),
    "bridge": ("bridge", "train_bridge_stage"),
    "decoder": ("decoder", "train_decoder"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="YAML file; hub_configs/ holds those of the paper and of the tiny pipeline")
    parser.add_argument(
        "overrides", nargs="*", metavar="field=value", help="fields of the recipe to change, such as output=runs/a"
    )
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        module, function = TRAINERS[recipe.stage]
        metrics = getattr(importlib.import_module(f"diffusion_link_hf.training.{module}"), function)(recipe)
    except DiffusionLinkError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    if PartialState().is_main_process:
        print(json.dumps(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
