"""Language models in GGUF files, turned once into a folder of safetensors, configuration and tokenizer."""

from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from ..errors import DiffusionLinkError, ModelFolderError
from ..files import file_sha256, whole_folder

SUFFIX = ".gguf"
_TOKENS = "tokenizer.ggml.tokens"  # the field that holds a GGUF's vocabulary
logger = logging.get_logger(__name__)


def gguf_file(folder: Path) -> Path | None:
    """The GGUF of a folder that holds no safetensors, or None.

    Raises:
        ModelFolderError: there are several, of which one has to be chosen.
    """
    if any(folder.glob("*.safetensors")):
        return None
    files = sorted(folder.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelFolderError(folder, f"holds several GGUF files ({names})", "Name a folder with one of them")
    return files[0] if files else None


def dequantized(file: Path, sha256: str | None = None) -> Path:
    """The folder of a GGUF's model and tokenizer, made where the user's cache does not have it yet.

    The weights are float32: so many bits give back what a GGUF of any quantization stands for. The folder is in the
    cache of `huggingface_hub` for assets, named by the file's SHA-256.

    Args:
        sha256: what the file has to be.

    Raises:
        ModelFolderError: another file than promised, no GGUF or a damaged one, one without a tokenizer or of an
            architecture that transformers does not know, or the package gguf is missing; or the cache cannot be
            written.
    """
    from huggingface_hub import cached_assets_path
    from huggingface_hub.utils import WeakFileLock

    digest = file_sha256(file)
    if sha256 not in (None, digest):
        raise ModelFolderError(file, f"has the SHA-256 {digest}, not {sha256}", "Get the file that was trained on")
    try:
        folder = cached_assets_path("diffusion-link-hf", "gguf", digest)
        with WeakFileLock(folder.with_suffix(".lock")):  # several processes may start from the same file
            if not (folder / "config.json").is_file():
                with whole_folder(folder) as target:
                    _convert(file, target)
                logger.warning("Dequantized %s, once: %s", file, folder)
    except DiffusionLinkError:
        raise
    except OSError as error:
        raise ModelFolderError(
            file, f"cannot be dequantized ({error})", "Free some space, or set HF_HOME to a folder that can be written"
        ) from error
    return folder


def _convert(file: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise ModelFolderError(file, "is read by the package gguf, which is not installed", "Run: pip install gguf")
    _check_fields(file)
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    except Exception as error:  # whatever the file makes the converters stumble over
        raise ModelFolderError(file, f"cannot be dequantized ({error})", "Use another file of this model") from error
    # What it was read from; transformers would refuse to save an ordinary model that is said to be quantized.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.config._name_or_path = ""
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _check_fields(file: Path) -> None:
    """Raises ModelFolderError for what is no GGUF, and for one without a tokenizer, before its weights are read."""
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
    except Exception as error:  # the reader raises whatever the bytes make it stumble over
        raise ModelFolderError(file, f"is no GGUF, or a damaged one ({error})", "Download it again") from error
    if _TOKENS not in fields:
        raise ModelFolderError(file, "holds no tokenizer", "Use a GGUF with its tokenizer, or the model's safetensors")
