"""``decoder_config.json``: a decoder's instruction, and where its base model is."""

import json
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import ModelFolderError
from ..loading import WEIGHTS_AND_TEXT, BaseReference, read_json
from .packaged import PackagedReference

CONFIG_FILE = "decoder_config.json"
BASE_FOLDER = "base"
Reference = BaseReference | PackagedReference


def write_decoder_config(folder: Path, instruction: str | None, reference: Reference | None) -> None:
    """Write the file; None stands for a base model inside ``folder``."""
    base = {"path": BASE_FOLDER} if reference is None else reference.as_json()
    config = {"instruction": instruction, "base": base}
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
    if reference := BaseReference.read(folder):
        return instruction, reference
    if isinstance(base, dict) and "package" in base:
        return instruction, PackagedReference.from_json(base, item)
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
