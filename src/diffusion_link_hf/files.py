"""Files that survive a kill: what is written is on the disk, whole, or not there."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .errors import DataError, DiffusionLinkError

REMEDY = "Free some space, or check the folder"


def sync(file: IO) -> None:
    """What was written to ``file`` reaches the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes names durable: a file's own fsync does not cover its entry in the folder. Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Path, write: bytes | Callable[[IO[bytes]], object], remedy: str = REMEDY) -> None:
    """Write a file that is whole and on the disk, or not there; until then an earlier file of the name stays.

    It is written beside ``path`` as ``.<name>.<process id>.tmp``, synced, and renamed.

    Args:
        write: the content, or a function that writes it into the open binary file.

    Raises:
        DataError: it cannot be written; with ``remedy``.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "scores.json"
        >>> write_whole(path, b"{}")
        >>> path.read_bytes()
        b'{}'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(write) if isinstance(write, bytes) else write(file)
            sync(file)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except DiffusionLinkError:
        raise
    except OSError as error:
        raise DataError(path, f"cannot be written ({error.strerror or error})", remedy) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, remedy: str = REMEDY, **options: Any) -> None:
    """`write_whole` of a value as JSON, by default indented by 2.

    Args:
        options: of `json.dumps`.

    Raises:
        DataError: see `write_whole`.
    """
    write_whole(path, (json.dumps(value, **{"indent": 2, **options}) + "\n").encode(), remedy)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits; read block by block."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into; it takes the place of ``path``, synced, when the block ends without an error.

    Until then it is ``.writing-<name>`` beside ``path``. What a killed writer left there is removed first.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "step-1"
        >>> with whole_folder(path) as folder:
        ...     _ = (folder / "state").write_text("weights")
        >>> (path / "state").read_text()
        'weights'
    """
    temporary = path.with_name(f".writing-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for inside in sorted(temporary.rglob("*")):
            if inside.is_dir():
                sync_folder(inside)
            else:
                with open(inside, "r+b") as file:
                    sync(file)
        sync_folder(temporary)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_writable(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        DataError: it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(folder, f"cannot be written ({error.strerror or error})", "Name another folder") from error
