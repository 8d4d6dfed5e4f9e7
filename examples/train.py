"""Trains a stage from a recipe: ``accelerate launch examples/train.py recipe.yaml [field=value …]``."""

import argparse
import json
import sys

from diffusion_link_hf.errors import DiffusionLinkError
from diffusion_link_hf.training.arguments import load_recipe


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", help="YAML file; hub_configs/ holds those of the paper and of the tiny pipeline")
    parser.add_argument(
        "overrides", nargs="*", metavar="field=value", help="fields of the recipe to change, such as output=runs/a"
    )
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        if recipe.stage == "link":
            from diffusion_link_hf.training.link_trainer import train_link as train
        else:
            from diffusion_link_hf.training.decoder_trainer import train_decoder as train
        metrics = train(recipe)
    except DiffusionLinkError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
