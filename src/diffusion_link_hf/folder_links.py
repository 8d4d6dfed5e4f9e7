"""The folder is the world: links and shard names of a model's folder that would read files outside of it."""

import json
from pathlib import Path, PureWindowsPath

from .errors import ModelFolderError

_REMEDY = "Put the file itself into the folder"


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a repository's snapshot in the cache of huggingface_hub.

    Examples:
        >>> is_snapshot(Path("models--me--tiny/snapshots/1234")), is_snapshot(Path("tiny"))
        (True, False)
    """
    return _blobs(folder.absolute()) is not None


def refuse_outside(path: Path, world: Path | None = None) -> None:
    """Refuses a file or folder if something of it is outside of its world, before anything is read.

    Args:
        path: a file or folder; one that is missing passes.
        world: the folder that nothing may leave, ``path`` by default. A snapshot of the Hub's cache has the files of
            its repository beside it.

    Raises:
        ModelFolderError: a link, at any depth, that leads out; or the index of a sharded model that names a file
            elsewhere.
    """
    world = (world or path).absolute()
    allowed = [world.resolve(), *([_blobs(world).resolve()] if _blobs(world) else [])]
    found = [path, *path.rglob("*")] if path.is_dir() else [path]
    for each in found:
        if each.is_symlink() and each.absolute() != world:
            target = each.resolve()
            if not any(target.is_relative_to(place) for place in allowed):
                raise ModelFolderError(each, f"is a link out of its folder, to {target}", _REMEDY)
    for each in found:
        if each.name.endswith(".index.json") and each.is_file():
            _check_index(each)


def _blobs(folder: Path) -> Path | None:
    """Where the links of a snapshot, or of a component in it, lead to."""
    for inside in (folder, *list(folder.parents)[:2]):
        if inside.parent.name == "snapshots" and inside.parents[1].name.startswith(("models--", "datasets--")):
            return inside.parents[1] / "blobs"
    return None


def _check_index(path: Path) -> None:
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        remedy = "Save or download the folder again"
        raise ModelFolderError(path, f"is no index of shards ({type(error).__name__})", remedy) from error
    for name in set(map(str, shards)):
        plain = PureWindowsPath(name)  # which knows the separators of every system
        if len(plain.parts) != 1 or plain.anchor or name in ("", ".", ".."):
            raise ModelFolderError(path, f"names the file {name!r}", "Shards lie beside their index")
