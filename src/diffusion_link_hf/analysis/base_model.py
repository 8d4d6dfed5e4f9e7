"""The language model that every decoder of an evaluation starts from, and how a pipeline's decoder adapted it."""

import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig

from ..decoder import ADAPTER_FILE, CONFIG_FILE, load_tokenizer
from ..hub.loading import read_json, save_tokenizer

# Fields of an adapter's file that say what it was put on or is used for, not how it is made.
_OF_THE_FILE = {"base_model_name_or_path", "revision", "inference_mode", "task_type", "auto_mapping", "peft_version"}


def adapter_recipe(decoder: Path) -> dict[str, Any] | None:
    """The arguments of `peft.LoraConfig` that a decoder's folder was made with, or None where it has no adapter.

    Raises:
        ModelFolderError: the adapter's file cannot be read.
    """
    if not (decoder / ADAPTER_FILE).is_file():
        return None
    standard, saved = LoraConfig().to_dict(), read_json(decoder / ADAPTER_FILE)
    known = sorted(set(standard).intersection(saved) - _OF_THE_FILE)
    return {name: saved[name] for name in known if saved[name] != standard[name]}


def base_of(decoder: Path, copy: Path) -> tuple[str, str | None]:
    """(folder or Hub id, revision) of the base model of a decoder's folder.

    Args:
        decoder: the folder.
        copy: a folder to be made, to which a base inside of it is copied, with the tokenizer that lies beside it.

    Raises:
        ModelFolderError: the decoder's file or its tokenizer cannot be read.
    """
    base = read_json(decoder / CONFIG_FILE)["base"]
    if "id" in base:
        return base["id"], base.get("revision")
    shutil.copytree(decoder / base["path"], copy)
    save_tokenizer(load_tokenizer(decoder), copy)
    return str(copy), None
