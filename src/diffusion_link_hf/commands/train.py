"""``diffusion-link train``: train a bridge or a decoder from a recipe."""

import argparse
import json
import sys

DESCRIPTION = """Train a bridge or a decoder from a recipe, and print its metrics as JSON.

  diffusion-link train --list
  diffusion-link train audiocaps-bridge cache=runs/cache output=runs/bridge
  diffusion-link train my_recipe.yaml learning_rate=1.0e-4 model.width=64

A run that was stopped continues from its newest checkpoint. On several GPUs or processes:

  accelerate launch -m diffusion_link_hf train RECIPE [FIELD=VALUE ...]

Add --config_file "$(diffusion-link train --launch-file fsdp)" for one of the launch files: ddp (several GPUs), ddp_cpu
(several CPU processes), fsdp (a decoder that is too large for one GPU), or multi_node (several machines; the file says
how to start it).
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "train",
        help="train a bridge or a decoder from a recipe",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("recipe", nargs="?", metavar="RECIPE", help="a YAML file, or a name that --list prints")
    what.add_argument("--list", action="store_true", help="print the recipes that come with the package")
    what.add_argument("--launch-file", metavar="NAME", help="print the path of a launch file for accelerate launch")
    parser.add_argument(
        "fields", nargs="*", metavar="FIELD=VALUE", help="fields of the recipe to change (values are YAML)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(args: argparse.Namespace) -> int:
    """Trains and prints; returns 0.

    Raises:
        DiffusionLinkError: see `train`.
    """
    from ..training.recipes import launch_file, list_recipes, load_recipe

    if args.launch_file:
        print(launch_file(args.launch_file))
        return 0
    if args.list:
        recipes = list_recipes()
        width = max(map(len, recipes))
        for name, about in recipes.items():
            print(f"{name:<{width}}  {about}")
        return 0
    recipe = load_recipe(args.recipe, args.fields)

    from accelerate import PartialState

    from ..hub.training import train

    metrics = train(recipe, progress=not args.quiet and sys.stderr.isatty())
    if PartialState().is_main_process:
        print(json.dumps(metrics))
    return 0
