"""Causal language models, loaded strictly from a folder of safetensors or of a GGUF."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from ..errors import InputError
from ..loading import load_strict


def load_causal_lm(folder: Path, dtype: torch.dtype | None = None, **options: Any) -> PreTrainedModel:
    """A causal LM from a folder, strictly and from safetensors only. Its generation_config.json is not read.

    Args:
        dtype: of the loaded weights, float32 by default.
        options: more of ``from_pretrained``.

    Raises:
        ModelFolderError: see `load_strict`.
    """
    options.setdefault("generation_config", GenerationConfig())  # instead of the folder's, which asks for its own
    # trust_remote_code=None would ask at the terminal whether to run code of the folder.
    return load_strict(
        AutoModelForCausalLM.from_pretrained, folder, dtype, local_files_only=True, trust_remote_code=False, **options
    )


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens a language model has positions for; None where its architecture sets no limit."""
    return getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)


def check_positions(model: PreTrainedModel, prompt: int, prefix: int, caption: int, name: str) -> None:
    """Refuses captions that do not fit behind their prompt.

    Args:
        prompt: tokens of BOS and instruction.
        prefix: m, of the soft prefix.
        caption: tokens of the longest caption.
        name: what the error calls the caption's length, such as "max_new_tokens".

    Raises:
        InputError: they are more tokens than the model has positions.
    """
    limit = positions(model)
    if limit is not None and prompt + prefix + caption > limit:
        raise InputError(
            name,
            f"is {caption}: behind {prompt} tokens of the instruction and {prefix} of the prefix, that is "
            f"{prompt + prefix + caption} positions, of which the base model has {limit}",
            "Use shorter captions, a shorter instruction, or another base model",
        )
