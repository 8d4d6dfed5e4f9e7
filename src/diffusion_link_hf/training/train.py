"""Trains from a recipe: the one entry of all stages."""

from pathlib import Path
from typing import Any

from .arguments import BridgeTrainingArguments, TrainingArguments
from .recipes import load_recipe


def train(recipe: str | Path | TrainingArguments, *, progress: bool = True, **overrides: Any) -> dict[str, Any]:
    """Train a bridge or a decoder, from the newest checkpoint in its output folder if there is one.

    Args:
        recipe: path of a YAML file, a name of `list_recipes`, or the arguments themselves.
        progress: whether to show a progress bar.
        overrides: fields of the recipe file to change, such as ``output="runs/a"``.

    Returns:
        What ``metrics.json`` in the output folder holds.

    Raises:
        DiffusionLinkError: see `load_recipe`, `train_bridge` and `train_decoder`.

    Examples:
        >>> import tempfile, torch
        >>> from diffusion_link_hf import EmbeddingPairs, train
        >>> folder = tempfile.mkdtemp()
        >>> audio = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
        >>> EmbeddingPairs(audio, audio.flip(1) + 1).save(f"{folder}/pairs.safetensors")
        >>> ridge = {"method": "ridge", "model": {}, "loss": {}}
        >>> metrics = train("tiny-bridge", cache=f"{folder}/pairs.safetensors", output=f"{folder}/ridge", **ridge)
        >>> metrics["matched_audio"] > 0.9
        True
    """
    if isinstance(recipe, TrainingArguments):
        if overrides:
            raise TypeError("overrides change a recipe file; use dataclasses.replace for arguments")
        args = recipe
    else:
        args = load_recipe(recipe, overrides)
    # Each stage is imported when a recipe asks for it: the decoder's models take seconds.
    if isinstance(args, BridgeTrainingArguments):
        from .bridge import train_bridge_stage

        return train_bridge_stage(args, progress)
    from .decoder import train_decoder

    return train_decoder(args, progress)
