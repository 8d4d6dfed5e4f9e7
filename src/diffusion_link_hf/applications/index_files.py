"""The files of a sound index: parts, which are never changed, and the manifest that says which of them count.

::

    part-00000.safetensors   embeds (n, D) float32, start and end (n,) float64; its metadata names the recordings
    manifest.json            CLAP, hop, the parts in order, recordings that were removed since

A part is written whole or not at all, and counts from the moment that a new manifest names it. So a reader finds a
whole index, whenever the writer was killed.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import DataError
from ..files import write_json, write_whole

FORMAT = "diffusion-link sound index 1"
MANIFEST, LOCK = "manifest.json", ".lock"
AGAIN = "Build it again: --rebuild, or rebuild=True"
REMEDY = "Free some space, or name another place for the index"
PART = re.compile(r"part-(\d{5,12})\.safetensors")
_OURS = re.compile(rf"{PART.pattern}|\.(part-\d{{5,12}}\.safetensors|manifest\.json)\.\d+\.tmp")


@dataclass
class Entry:
    """What a part holds of one recording.

    Attributes:
        name: path of the recording below the folder that was indexed, with "/".
        state: its size and time when it was read.
        first: number of its windows that are in earlier parts.
        rows: number of its windows in this part.
        windows: of the whole recording; None if it goes on in the next part.
    """

    name: str
    state: str
    first: int = 0
    rows: int = 0
    windows: int | None = None


@dataclass
class Manifest:
    """What an index was made by, and its parts.

    Attributes:
        clap: fingerprint of the CLAP.
        embedding_dim: D.
        hop_seconds: from one window's start to the next one's.
        parts: file names in order.
        removed: recordings that parts hold, and that are gone.
        unfinished: whether a build was begun and has not ended.
    """

    clap: str
    embedding_dim: int
    hop_seconds: float
    parts: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unfinished: bool = True


@dataclass
class Part:
    """Windows of some recordings.

    Attributes:
        embeds: (n, D) float32 unit rows.
        start, end: (n,) float64 seconds.
        entries: the recordings, in the order of the rows.
    """

    embeds: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    entries: list[Entry]


def part_name(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def next_number(folder: Path) -> int:
    """Of the next part: none that is there is written over."""
    found = (PART.fullmatch(path.name) for path in folder.glob("part-*"))
    return max((int(match[1]) + 1 for match in found if match), default=0)


def write_part(folder: Path, name: str, part: Part) -> None:
    """Raises DataError: it cannot be written."""
    tensors = {"embeds": part.embeds, "start": part.start, "end": part.end}
    entries = json.dumps([asdict(entry) for entry in part.entries])
    write_whole(folder / name, save(tensors, {"format": FORMAT, "entries": entries}), REMEDY)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Raises DataError: it cannot be written."""
    write_json(folder / MANIFEST, {"format": FORMAT, **asdict(manifest)}, REMEDY, indent=1)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an index; None where there is none.

    Raises:
        DataError: it is damaged, or of another format.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", "Check the folder") from error
    try:
        values = json.loads(content)
        if values.pop("format") != FORMAT:
            raise ValueError("it has another format")
        manifest = Manifest(**values)
        _check_manifest(manifest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(path, f"is no manifest of a sound index ({error})", AGAIN) from error
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Raises ValueError or TypeError."""
    require(isinstance(manifest.clap, str), "clap is no text")
    require(is_count(manifest.embedding_dim) and manifest.embedding_dim > 0, "embedding_dim is no size")
    hop = manifest.hop_seconds
    require(isinstance(hop, (int, float)) and math.isfinite(hop) and hop > 0, "hop_seconds is no length")
    names = manifest.parts
    require(isinstance(names, list) and all(isinstance(name, str) for name in names), "parts is no list of names")
    wrong = [name for name in names if not PART.fullmatch(name)]
    require(not wrong, f"{wrong[:1]} is no part of an index")
    require(len(set(names)) == len(names), "a part is named twice")
    require(isinstance(manifest.removed, list), "removed is no list")
    require(all(isinstance(name, str) for name in manifest.removed), "removed is no list of names")
    require(isinstance(manifest.unfinished, bool), "unfinished is no truth value")


def read_entries(folder: Path, name: str) -> list[Entry]:
    """The recordings of a part, without its embeddings.

    Raises:
        DataError: it is missing or damaged, or names what is no recording below the folder.
    """
    with _damage_named(folder / name), safe_open(folder / name, "pt") as file:
        return _entries(file, file.get_slice("embeds").get_shape())


def read_part(folder: Path, name: str, width: int) -> Part:
    """A part with its embeddings.

    Raises:
        DataError: it is missing or damaged, of another width, or holds what is no unit row or no time.
    """
    with _damage_named(folder / name), safe_open(folder / name, "pt") as file:
        require(sorted(file.keys()) == ["embeds", "end", "start"], "it holds other tensors")
        embeds, start, end = (file.get_tensor(key) for key in ("embeds", "start", "end"))
        entries = _entries(file, list(embeds.shape))
        require(embeds.ndim == 2 and embeds.shape[1] == width, f"embeds has shape {tuple(embeds.shape)}")
        require(embeds.dtype == torch.float32 and start.dtype == end.dtype == torch.float64, "it has other dtypes")
        require(start.shape == end.shape == embeds.shape[:1], "start and end have other lengths")
        norms = embeds.norm(dim=1)
        require(bool(((norms - 1).abs() < 1e-3).all()), "a row has not norm 1")  # NaN and infinity included
        require(bool(((start >= 0) & (end > start) & torch.isfinite(end)).all()), "start and end are no times")
        return Part(embeds, start, end, entries)


def _entries(file: Any, shape: list[int]) -> list[Entry]:
    """Raises ValueError, TypeError or KeyError."""
    metadata = file.metadata() or {}
    require(metadata.get("format") == FORMAT, "it has another format")
    entries = [Entry(**values) for values in json.loads(metadata["entries"])]
    for entry in entries:
        require(isinstance(entry.state, str) and is_inside(entry.name), f"{entry.name!r} is no recording of the folder")
        require(is_count(entry.first) and is_count(entry.rows), f"{entry.name!r} has no number of windows")
        require(entry.windows is None or is_count(entry.windows), f"{entry.name!r} has no number of windows")
    require(len(shape) == 2 and sum(entry.rows for entry in entries) == shape[0], f"embeds has shape {tuple(shape)}")
    return entries


def is_inside(name: object) -> bool:
    """Whether a name stays below the folder that it is joined to.

    Examples:
        >>> [is_inside(name) for name in ("a/b.wav", "../b.wav", "/etc/b.wav", "a\\x00", "")]
        [True, False, False, False, False]
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or Path(name).is_absolute() or Path(name).drive)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def require(holds: bool, problem: str) -> None:
    """Raises ValueError with ``problem``."""
    if not holds:
        raise ValueError(problem)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """What a damaged file makes fail becomes a DataError that names it."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError, RuntimeError) as error:
        raise DataError(path, f"is no part of a sound index ({error})", AGAIN) from error


def remove_leftovers(folder: Path, manifest: Manifest) -> None:
    """Removes the index's own files that no manifest names: of killed writers, and parts that were replaced."""
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.name not in manifest.parts:
            path.unlink(missing_ok=True)
