"""Trains from a recipe: the one entry of all stages, below what pushes their results."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .arguments import BridgeTrainingArguments, TrainingArguments
from .recipes import load_recipe

if TYPE_CHECKING:
    from .optimize import Publish


def train(
    recipe: str | Path | TrainingArguments,
    *,
    progress: bool = True,
    publish: "Publish | None" = None,
    **overrides: Any,
) -> dict[str, Any]:
    """`diffusion_link_hf.train` without the push in the end.

    Args:
        recipe, progress, overrides: see there.
        publish: what pushes at checkpoints; see `optimize`.

    Raises:
        RecipeError: ``push_to_hub`` without anything that pushes.
        DiffusionLinkError: see `load_recipe`, `train_bridge` and `train_decoder`.
    """
    args = training_arguments(recipe, overrides)
    if args.push_to_hub is not None and publish is None:
        remedy = "Use diffusion-link train or diffusion_link_hf.train, which push"
        raise RecipeError("push_to_hub", f"is {args.push_to_hub!r}, but nothing here pushes", remedy)
    # Each stage is imported when a recipe asks for it: the decoder's models take seconds.
    if isinstance(args, BridgeTrainingArguments):
        from .bridge import train_bridge_stage

        return train_bridge_stage(args, progress=progress, publish=publish)
    from .decoder import train_decoder

    return train_decoder(args, progress=progress, publish=publish)


def training_arguments(recipe: str | Path | TrainingArguments, overrides: Mapping[str, Any]) -> TrainingArguments:
    """The arguments themselves, or those of a recipe file with changes; TypeError for changes of the former."""
    if not isinstance(recipe, TrainingArguments):
        return load_recipe(recipe, overrides)
    if overrides:
        raise TypeError("overrides change a recipe file; use dataclasses.replace for arguments")
    return recipe
