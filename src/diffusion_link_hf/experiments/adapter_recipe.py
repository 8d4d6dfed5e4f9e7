"""How a pipeline's decoder adapted its language model, for others that are to be made the same way."""

from pathlib import Path
from typing import Any

from peft import LoraConfig

from ..loading import read_json
from ..models.adapters import ADAPTER_FILE

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
