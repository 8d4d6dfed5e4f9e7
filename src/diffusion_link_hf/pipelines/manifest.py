"""A pipeline's manifest.json: the size and SHA-256 of its files, written with them and checked when they are loaded."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, ModelFolderError
from ..files import file_sha256, write_json
from ..loading import INDEX, read_json

MANIFEST = "manifest.json"
VERIFIED = ("size", "hash")
Verify = Literal["size", "hash"]
FORMAT = 1
# Names of what a component is loaded from; other files beside it, such as a README.md, are nobody's business.
SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
_LIBRARIES = ("diffusion-link-hf", "torch", "transformers", "diffusers", "peft", "tokenizers", "safetensors")
_REMEDY = "Save or download the folder again; if you changed it on purpose, remove manifest.json"


def write_manifest(folder: Path, components: Sequence[str]) -> None:
    """Write the manifest of a pipeline's folder as it is: of model_index.json and the files of its components.

    Raises:
        DataError: it cannot be written.
    """
    write_json(folder / MANIFEST, manifest_of(folder, components))


def manifest_of(folder: Path, components: Sequence[str]) -> dict[str, Any]:
    """The manifest of a pipeline's folder as it is.

    Args:
        components: names of its sub-folders.
    """
    files = {
        name: {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for name, path in _covered(folder, components).items()
    }
    libraries = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    return {"format": FORMAT, "libraries": libraries, "files": files}


def check_manifest(
    folder: Path, components: Sequence[str], verify: Verify = "size", variant: str | None = None
) -> None:
    """Compares the files of a pipeline with its manifest; a folder that has none passes.

    Args:
        components: those that are looked at, beside model_index.json.
        verify: "size", or "hash" for the contents.
        variant: whose files, such as ``model.fp16.safetensors``, may be there without being in the manifest.

    Raises:
        ModelFolderError: a file is missing, additional, or of another size or content.
        InputError: another ``verify``.
    """
    if verify not in VERIFIED:
        raise InputError("verify", f"is {verify!r}", f"Use {' or '.join(VERIFIED)}")
    if not (folder / MANIFEST).is_file():
        return
    promised = _promised(folder / MANIFEST, components)
    found = _covered(folder, components)
    for name in sorted({*promised, *found}):
        path = folder / name
        if name not in found:
            raise ModelFolderError(path, f"is missing, though {MANIFEST} names it", _REMEDY)
        if name not in promised:
            if variant is not None and f".{variant}" in path.name:
                continue
            raise ModelFolderError(path, f"is not in {MANIFEST}", _REMEDY)
        size = path.stat().st_size
        if size != promised[name]["size"]:
            problem = f"has {size:,} bytes, {MANIFEST} says {promised[name]['size']:,}"
            raise ModelFolderError(path, problem, _REMEDY)
        if verify == "hash" and file_sha256(path) != promised[name]["sha256"]:
            raise ModelFolderError(path, f"has another SHA-256 than {MANIFEST} says", _REMEDY)


def _promised(path: Path, components: Sequence[str]) -> dict[str, dict[str, Any]]:
    manifest = read_json(path)
    files = manifest.get("files")
    whole = isinstance(files, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)
        for entry in files.values()
    )
    if manifest.get("format") != FORMAT or not whole or INDEX not in files:
        raise ModelFolderError(path, "is no manifest that this version reads", _REMEDY)
    return {name: entry for name, entry in files.items() if name == INDEX or name.split("/")[0] in components}


def _covered(folder: Path, components: Sequence[str]) -> dict[str, Path]:
    """Name → path of model_index.json and of what components are loaded from."""
    paths = [path for name in components for path in (folder / name).rglob("*")]
    kept = [path for path in paths if path.is_file() and path.suffix in SUFFIXES and path.name[0] != "."]
    index = [folder / INDEX] if (folder / INDEX).is_file() else []
    return {path.relative_to(folder).as_posix(): path for path in [*index, *kept]}
