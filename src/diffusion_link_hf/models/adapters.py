"""The adapter that a decoder trains on its base model: told from the base's weights, written and loaded strictly."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..errors import InputError, ModelFolderError
from ..loading import BaseReference, check_loading_info, read_json
from ..tensors import cast_floats
from .packaged import PackagedReference

ADAPTER_FILE = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER = "default"  # PEFT's name of the one adapter; it writes others to folders of their own


def check_one_adapter(model: nn.Module) -> None:
    """Raises InputError for a `peft.PeftModel` with adapters that a decoder's folder cannot hold."""
    if list(model.peft_config) != [ADAPTER]:
        names = ", ".join(model.peft_config)
        raise InputError("adapters", f"are {names}", f"A decoder folder holds one, named {ADAPTER!r}: merge or delete")


def save_adapter(
    model: nn.Module,
    folder: Path,
    source: BaseReference | PackagedReference | None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the adapter of a `peft.PeftModel`.

    Args:
        source: of the base model, or None.
        dtype: of the stored weights.
    """
    # save_embedding_layers="auto", the default, asks the Hub about the base model.
    model.save_pretrained(folder, save_embedding_layers=False)
    if dtype is not None:
        weights = cast_floats(load_file(folder / ADAPTER_WEIGHTS), dtype)
        save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; the pipeline writes its own
    adapter = read_json(folder / ADAPTER_FILE)
    # A path of this machine means nothing elsewhere; the base is found through decoder_config.json.
    adapter["base_model_name_or_path"] = source.id if source else None
    adapter["revision"] = source.revision if source else None
    (folder / ADAPTER_FILE).write_text(json.dumps(adapter, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def remove_adapter(folder: Path) -> None:
    """Of an earlier decoder in this folder: it would be put onto the next one."""
    for stale in (ADAPTER_FILE, ADAPTER_WEIGHTS):
        (folder / stale).unlink(missing_ok=True)


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool) -> nn.Module:
    """The model with the adapter of a folder, as a `peft.PeftModel`, or as it is where the folder has none.

    PEFT only warns when adapter keys do not match; here the sets of keys have to be equal.

    Raises:
        ModelFolderError: one of its two files is missing or damaged, or it belongs to another base model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    config, weights = folder / ADAPTER_FILE, folder / ADAPTER_WEIGHTS
    if not config.is_file():
        if weights.is_file():
            raise ModelFolderError(config, "is missing", "The adapter's weights are there without their configuration")
        return model
    if not weights.is_file():
        raise ModelFolderError(weights, "is missing", "The adapter's configuration is there without its weights")
    try:
        with safe_open(weights, "pt") as file:
            stored = set(file.keys())
        dtype = model.dtype
        peft = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, autocast_adapter_dtype=False)
    except Exception as error:
        raise ModelFolderError(
            weights, f"cannot be loaded ({error})", "Adapter and base model must belong together"
        ) from error
    expected = set(get_peft_model_state_dict(peft, save_embedding_layers=False))
    check_loading_info(weights, {"missing_keys": expected - stored, "unexpected_keys": stored - expected})
    for parameter in peft.parameters():  # not `peft.to`: it would round the float32 table of rotary frequencies as well
        if parameter.is_floating_point():  # quantized weights are bytes
            parameter.data = parameter.data.to(dtype)
    return peft


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The base model's weights under their own names, without the wrappers and adapters that PEFT injects.

    Args:
        model: a `peft.PeftModel`.

    Raises:
        InputError: an adapter of a kind that does not let the base model's weights be told from its own.
    """
    base = model.get_base_model()
    added = (model.base_model.prefix, ".modules_to_save.")
    state = {
        key.replace(".base_layer.", ".").replace(".original_module.", "."): value
        for key, value in base.state_dict().items()
        if not any(part in key for part in added)
    }
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(base.config).state_dict()
    if set(state) != set(plain):
        odd = ", ".join(sorted(set(state) ^ set(plain))[:3])
        raise InputError("base model", f"cannot be told from its adapter ({odd})", "Merge the adapter before saving")
    return state
