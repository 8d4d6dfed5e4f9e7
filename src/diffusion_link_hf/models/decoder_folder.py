"""A decoder's folder: how it is written, and where its ``decoder_config.json`` says that the base model is."""

import json
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import nn

from ..errors import InputError, ModelFolderError
from ..loading import (
    WEIGHTS_AND_TEXT,
    BaseReference,
    drop_local_names,
    includes_base,
    read_json,
    save_tokenizer,
)
from ..loading_options import as_dtype
from ..tensors import cast_floats
from .adapters import check_one_adapter, remove_adapter, save_adapter
from .packaged import DECODER_CONFIG as CONFIG_FILE
from .packaged import PackagedReference, read_reference

BASE_FOLDER = "base"
Reference = BaseReference | PackagedReference


def write_decoder(
    decoder: nn.Module, folder: Path, include_base: bool | None = None, dtype: torch.dtype | str | None = None
) -> None:
    """What `CaptionDecoder.save_pretrained` does, whose arguments it takes."""
    dtype = as_dtype(dtype)
    if decoder.has_adapter:
        check_one_adapter(decoder.model)
    include_base = includes_base(include_base, decoder.source)
    if not include_base and not decoder.has_adapter:
        raise InputError(
            "include_base",
            "is False, but this decoder has no adapter",
            "Its own weights would be lost: use include_base=True",
        )
    if include_base and getattr(decoder.base_model, "hf_quantizer", None) is not None:
        raise InputError(
            "include_base",
            f"is {include_base}, but the base model is quantized",
            "Load it without quantization_config, or from the Hub and save with include_base=False",
        )
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / BASE_FOLDER
    if include_base:
        decoder.base_model.save_pretrained(base, state_dict=cast_floats(decoder.base_state(), dtype))
    else:
        decoder.base_model.config.save_pretrained(base)
    drop_local_names(base / "config.json")
    remove_adapter(folder)
    if decoder.has_adapter:
        save_adapter(decoder.model, folder, decoder.source, dtype)
    if decoder.tokenizer is not None:
        save_tokenizer(decoder.tokenizer, folder)
    config = {
        "instruction": decoder.instruction,
        "base": {"path": BASE_FOLDER} if include_base else decoder.source.as_json(),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_decoder_config(folder: Path) -> tuple[str | None, Path | Reference]:
    """A decoder folder's instruction, and its base model: a folder inside it, or what it is referenced by.

    Raises:
        ModelFolderError: the file is missing or damaged, or the base is outside of the folder.
    """
    item = folder / CONFIG_FILE
    config = read_json(item)
    instruction, base = config.get("instruction"), config.get("base")
    if instruction is not None and not isinstance(instruction, str):
        raise ModelFolderError(item, f"has instruction = {instruction!r}", "It is a string or null")
    if reference := read_reference(folder):
        return instruction, reference
    if not isinstance(base, dict) or not isinstance(base.get("path"), str):
        raise ModelFolderError(
            item, f"names no base model (base = {base!r})", "It needs {'path'}, {'id', 'revision'} or {'package'}"
        )
    path = PureWindowsPath(base["path"])  # which knows the separators of every system
    if path.anchor or ".." in path.parts:
        raise ModelFolderError(
            item, f"has its base model in {base['path']!r}", "It must be a folder in the decoder's own"
        )
    return instruction, folder / base["path"]


def fetch_base(base: Path | Reference, **hub: Any) -> tuple[Path, Reference | None]:
    """The base model's folder, and what it can be referenced by, with a repository pinned to its commit.

    Args:
        base: of `read_decoder_config`.
        hub: token, cache_dir and local_files_only, as `download_snapshot`.

    Raises:
        ModelFolderError: the package that carries it is not installed, or carries another one.
        HubAccessError: it cannot be had from the Hub.
    """
    if isinstance(base, BaseReference):
        return base.fetch(**hub, allow_patterns=WEIGHTS_AND_TEXT)
    if isinstance(base, PackagedReference):
        return base.fetch(), base
    return base, None
