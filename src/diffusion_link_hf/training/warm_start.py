"""Warm starts: the trained weights of an earlier result, instead of random ones, before the first step."""

from collections.abc import Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..bridges.base import BridgeModel
from ..errors import ModelFolderError, RecipeError
from ..loading import resolve_folder
from ..models.decoder import ADAPTER_WEIGHTS, CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from .fingerprints import folder_fingerprint

FIELD = "init_from"


def start_bridge(bridge: BridgeModel, source: str) -> str:
    """Give a fitted bridge the weights of another one; its statistics stay those of the data.

    Args:
        source: a bridge's folder, a folder with ``link/``, or a Hub id of such.

    Returns:
        Fingerprint of what was read.

    Raises:
        RecipeError: weights of other names or shapes.
        ModelFolderError, HubAccessError: it cannot be loaded.
    """
    folder = resolve_folder(source)
    folder = folder / "link" if (folder / "link").is_dir() else folder
    _copy("link", dict(bridge.named_parameters()), dict(BridgeModel.from_pretrained(folder).named_parameters()))
    return folder_fingerprint(folder)


def start_decoder(projector: PrefixProjector, decoder: CaptionDecoder, source: str) -> str:
    """Give a projector, and the adapter of a decoder that has one, the weights of an earlier training's result.

    A decoder without an adapter starts from the weights of its base model, which a recipe names in ``base_model``.

    Args:
        source: folder or Hub id with ``projector/`` and ``decoder/``.

    Returns:
        Fingerprint of what was read.

    Raises:
        RecipeError: weights of other names or shapes.
        ModelFolderError, HubAccessError: it cannot be loaded.
    """
    folder = resolve_folder(source)
    earlier = PrefixProjector.from_pretrained(folder / "projector")
    _copy("projector", dict(projector.named_parameters()), dict(earlier.named_parameters()))
    if isinstance(decoder.model, PeftModel):
        path = folder / "decoder" / ADAPTER_WEIGHTS
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            remedy = "Name a training with lora in init_from"
            raise ModelFolderError(path, f"cannot be read ({error})", remedy) from error
        _compare("decoder", get_peft_model_state_dict(decoder.model), weights)
        set_peft_model_state_dict(decoder.model, weights)
    return folder_fingerprint(folder / "projector", folder / "decoder")


def _copy(part: str, own: Mapping[str, nn.Parameter], given: Mapping[str, torch.Tensor]) -> None:
    _compare(part, own, given)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])


def _compare(part: str, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    """Raises RecipeError unless both have the same names and shapes."""
    for name in sorted({*own, *given}):
        shapes = [tuple(each[name].shape) if name in each else None for each in (own, given)]
        if shapes[0] != shapes[1]:
            raise RecipeError(
                FIELD,
                f"has {part}.{name} of shape {shapes[1]}, this recipe {shapes[0]}",
                "Use the sizes of that training (its recipe.yaml has them), or leave it out",
            )
