"""Trains from a recipe and pushes what it makes: the public entry of all stages."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..errors import DiffusionLinkError
from ..training.arguments import TrainingArguments
from ..training.train import train as train_without_push
from ..training.train import training_arguments
from .contents import refuse_local_paths
from .push import check_id, push

logger = logging.getLogger(__name__)


def train(recipe: str | Path | TrainingArguments, *, progress: bool = True, **overrides: Any) -> dict[str, Any]:
    """Train a bridge or a decoder, from the newest checkpoint in its output folder if there is one.

    With ``push_to_hub`` in the recipe the result is pushed in the end, as `push` does.

    Args:
        recipe: path of a YAML file, a name of `list_recipes`, or the arguments themselves.
        progress: whether to show a progress bar.
        overrides: fields of the recipe file to change, such as ``output="runs/a"``.

    Returns:
        What ``metrics.json`` in the output folder holds.

    Raises:
        DiffusionLinkError: see `load_recipe`, `train_bridge` and `train_decoder`.
        ModelFolderError: a recipe to be pushed names a path of this machine.
        HubAccessError: the result cannot be pushed. It is whole in the output folder: `push` it from there.

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
    args = training_arguments(recipe, overrides)
    if args.push_to_hub is None:
        return train_without_push(args, progress=progress)
    check_id(args.push_to_hub, "push_to_hub")
    for name, value in asdict(args).items():
        if isinstance(value, str):
            refuse_local_paths(f"{name} (published with push_to_hub)", value)
    metrics = train_without_push(args, progress=progress, publish=CheckpointPush(args))
    if PartialState().is_main_process:
        push(args.output, args.push_to_hub, private=args.hub_private, message=f"Training of {metrics['steps']} steps")
    return metrics


class CheckpointPush:
    """Pushes the result as it would be at a checkpoint, if the recipe asks for it.

    Args:
        args: with ``push_to_hub``.
    """

    def __init__(self, args: TrainingArguments):
        self.args = args

    def __call__(self, write: Callable[[Path], None], step: int) -> None:
        """Push what ``write`` puts into a folder; a failure is reported, because the training is worth more."""
        if not self.args.push_every_checkpoint:
            return
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            try:
                push(folder, self.args.push_to_hub, private=self.args.hub_private, message=f"Step {step}")
            except DiffusionLinkError as error:
                logger.warning("step %d was not pushed: %s", step, error)
