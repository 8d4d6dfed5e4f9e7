"""Pickled weights, read as tensors alone, and converted once to safetensors in the user's cache."""

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from .errors import DataError, ModelFolderError
from .files import file_sha256, write_whole
from .hub_access import LoadPath

logger = logging.get_logger(__name__)

PICKLED_WEIGHTS = "pytorch_model.bin"  # as transformers names it; no other pickle is read to load a model
CONVERTED_WEIGHTS = "model.safetensors"
SAFE_TORCH = "2.10"  # before it, even `weights_only=True` could be made to run code (CVE-2026-24747)


def read_tensors(path: Path, remedy: str, numbers: Sequence[Any] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a file of `torch.save`: its ``state_dict`` if it has one, else all of it. No code of it is run.

    Args:
        remedy: of the errors.
        numbers: types beside tensors that the file may hold, as `torch.serialization.safe_globals` takes them.

    Raises:
        ModelFolderError: not a file of named tensors, one that would run code, or a torch that is too old for it.
    """
    from transformers.utils import is_torch_greater_or_equal

    if not is_torch_greater_or_equal(SAFE_TORCH):
        raise ModelFolderError(
            path, f"is a pickle, which torch {torch.__version__} does not read safely", f"Install torch>={SAFE_TORCH}"
        )
    try:
        with torch.serialization.safe_globals(list(numbers)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:  # torch's message goes on to say how to run the code
        raise ModelFolderError(path, "is no checkpoint of tensors, or would run code of its own", remedy) from error
    except Exception as error:  # torch raises whatever the bytes make it stumble over
        raise ModelFolderError(path, f"is no checkpoint, or a damaged one ({type(error).__name__})", remedy) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelFolderError(path, "holds no state_dict of tensors", remedy)
    return state


def converted(path: Path, cache_dir: LoadPath | None = None) -> Path:
    """The folder with ``model.safetensors``, the same weights; made where the user's cache does not have it yet.

    It is in the cache of `huggingface_hub` for assets, or below ``cache_dir``, in a folder named by the file's SHA-256.

    Args:
        path: a ``pytorch_model.bin``.
        cache_dir: the Hub's cache, if not the default.

    Raises:
        ModelFolderError: see `read_tensors`; a download whose contents are not what the Hub promised; or a cache that
            cannot be written.
    """
    from huggingface_hub import cached_assets_path
    from huggingface_hub.utils import WeakFileLock

    promised = path.resolve().name if re.fullmatch(r"[0-9a-f]{64}", path.resolve().name) else None
    assets = None if cache_dir is None else Path(cache_dir) / "assets"

    def target(digest: str) -> Path:
        try:
            return cached_assets_path("diffusion-link-hf", "safetensors", digest, assets_dir=assets)
        except (OSError, ValueError) as error:  # ValueError: a file is in its place
            raise _unwritable(assets or "HF_ASSETS_CACHE", error) from error

    # A file in the Hub's cache has its hash for a name, which was checked when it was converted.
    if promised and (target(promised) / CONVERTED_WEIGHTS).is_file():
        return target(promised)
    digest = file_sha256(path)
    if promised not in (None, digest):
        raise ModelFolderError(
            path, f"has the SHA-256 {digest}, the Hub says {promised}", "Remove the file and download it again"
        )
    folder = target(digest)
    with WeakFileLock(folder / ".lock"):  # several processes may load the same CLAP
        if not (folder / CONVERTED_WEIGHTS).is_file():
            _convert(path, folder / CONVERTED_WEIGHTS, digest)
    return folder


def _convert(source: Path, target: Path, digest: str) -> None:
    from safetensors.torch import save

    remedy = "Only tensors are read from a pickle: name a folder or revision with safetensors"
    state = read_tensors(source, remedy)
    # Clones, since tensors that share memory, or are no block of it, cannot be saved.
    whole = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    content = save(whole, {"format": "pt", "sha256": digest})
    try:
        write_whole(target, content)
    except DataError as error:
        raise _unwritable(target, error.__cause__) from error
    logger.warning("Converted %s to safetensors, once: %s", source, target)


def _unwritable(path: object, error: BaseException | None) -> ModelFolderError:
    return ModelFolderError(
        path, f"cannot be written ({error})", "Free some space, or set HF_HOME to a folder that can be written"
    )
