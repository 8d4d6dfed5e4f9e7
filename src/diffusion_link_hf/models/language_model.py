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
        options: more of `LoadingOptions.for_model`. A quantized model is frozen.

    Raises:
        ModelFolderError, InputError: see `load_strict`.
    """
    options.setdefault("generation_config", GenerationConfig())  # instead of the folder's, which asks for its own
    # trust_remote_code=None would ask at the terminal whether to run code of the folder.
    model = load_strict(
        AutoModelForCausalLM.from_pretrained, folder, dtype, local_files_only=True, trust_remote_code=False, **options
    )
    if options.get("quantization_config") is not None:
        del model.config.quantization_config  # of this loading, not of the base that a saved folder refers to
        model.requires_grad_(False)
    return model


def check_positions(model: PreTrainedModel, prompt: int, prefix: int, caption: int, name: str) -> None:
    """Refuses captions that do not fit behind their prompt. Some architectures set no limit.

    Args:
        prompt: tokens of BOS and instruction.
        prefix: m, of the soft prefix.
        caption: tokens of the longest caption, EOS among them.
        name: what the error calls the caption's length, such as "max_new_tokens".

    Raises:
        InputError: they are more tokens than the model has positions.
    """
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if positions is not None and prompt + prefix + caption > positions:
        raise InputError(
            name,
            f"needs {caption} positions behind {prompt} of the instruction and {prefix} of the prefix, but the base "
            f"model has {positions}",
            "Use shorter captions, a shorter instruction or another base model",
        )
