"""Files that survive a kill: what is written is on the disk, whole, or not there."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from .errors import DataError, DiffusionLinkError

REMEDY = "Free some space, or check the folder"
LOCK = ".lock"  # of an output folder; it names its holder
WRITING, REPLACING = ".writing", ".replacing"  # new content of a folder, before and after it counts
GONE = ".gone.json"  # names that the new content does without


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


@contextmanager
def whole_folder(path: Path, replaces: Sequence[str] = ("*",), remedy: str = REMEDY) -> Iterator[Path]:
    """A new folder to write into; when the block ends without an error, its content takes its place in ``path``.

    After a kill, a full disk or another error at any moment, ``path`` is the old folder or the new one. Where ``path``
    is missing, the new folder is written beside it, synced and renamed. Where it exists, the new folder is written
    inside of it, so that mount points and links stay what they are. One rename decides that the new content counts.
    From then on `finish_folder`, which every loader calls, moves in what a killed writer has not moved.

    Windows: folders cannot be synced there, so a power failure may undo the last result. A file that another process
    has open cannot be replaced: that is an error, and the next opening of ``path`` goes on.

    Args:
        replaces: patterns of the names directly in ``path`` that go, even where the new content lacks them. Other
            names that it lacks stay.
        remedy: of errors of the file system.

    Raises:
        DataError: it cannot be written, or another process is writing it.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "step-1"
        >>> with whole_folder(path) as folder:
        ...     _ = (folder / "state").write_text("weights")
        >>> (path / "state").read_text()
        'weights'
    """
    if any(part.startswith(WRITING) for part in path.parts):  # a part of a folder that is being written
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with _typed(path, remedy):
        finish_folder(path)
        exists = path.is_dir()
        temporary = path / WRITING if exists else path.with_name(f"{WRITING}-{path.name}")
        with held(temporary, path) as lock:
            _remove(inside for inside in temporary.iterdir() if inside.name != LOCK)  # of a killed writer
            try:
                yield temporary
                old = [each.name for each in path.iterdir()] if exists else []
                gone = [name for name in old if name[0] != "." and any(fnmatch(name, each) for each in replaces)]
                if exists:
                    write_json(temporary / GONE, sorted(set(gone) - {each.name for each in temporary.iterdir()}))
                _sync_all(temporary)
                if os.name != "posix":
                    lock.release()  # an open file could not be moved
                os.rename(temporary, path / REPLACING if exists else path)
                sync_folder(path if exists else path.parent)
            except BaseException:
                _remove([temporary])
                raise
            if exists:
                _move_in(path)
            else:
                (path / LOCK).unlink(missing_ok=True)


def finish_folder(path: Path) -> None:
    """Moves in what a writer of `whole_folder` has not moved that was killed after the new content counted.

    Raises:
        DataError: it cannot be written here.
    """
    if not (path / REPLACING).is_dir():
        return
    remedy = "Its last writer was interrupted: load it once where it can be written"
    try:
        with _typed(path, remedy), held(path / REPLACING, path, timeout=60):
            _move_in(path)
    except DataError:
        if (path / REPLACING).is_dir():  # otherwise its writer is alive, and has finished meanwhile
            raise


@contextmanager
def held(folder: Path, output: Path | None = None, timeout: float = 0) -> Iterator[FileLock]:
    """Holds the lock of an output folder, made where it is missing; a killed process holds none.

    Args:
        output: what the error calls it, ``folder`` by default.
        timeout: seconds to wait for another process.

    Raises:
        DataError: another process holds it; the message says which.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())
        >>> with held(folder):
        ...     (folder / ".lock").is_file()
        True
    """
    output = output or folder
    with _typed(output, REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            try:
                holder = (folder / LOCK).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                holder = ""
            raise DataError(
                output, f"is being written by {holder or 'another process'}", "Wait for it, or name another folder"
            ) from error
        with suppress(OSError):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8")
        inode = (folder / LOCK).stat().st_ino
    try:
        yield lock
    finally:
        with suppress(OSError):  # while it is held: whoever waits for it then sees that the file is gone
            if (folder / LOCK).stat().st_ino == inode:  # otherwise the folder was renamed
                (folder / LOCK).unlink()
        lock.release()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _typed(path: Path, remedy: str) -> Iterator[None]:
    """Errors of the file system, and of the writer of safetensors, as a DataError about ``path``."""
    from safetensors import SafetensorError

    try:
        yield
    except DiffusionLinkError:
        raise
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"cannot be written ({getattr(error, 'strerror', None) or error})", remedy) from error


def _move_in(path: Path) -> None:
    """Replaces the content of ``path`` by what counts. Any part of it may have been done before.

    The files at the top, such as model_index.json, go first and come last: whoever reads meanwhile misses one.
    """
    source = path / REPLACING
    gone = json.loads((source / GONE).read_text(encoding="utf-8")) if (source / GONE).is_file() else []
    new = [each for each in source.iterdir() if each.name not in (LOCK, GONE)]
    old = [path / name for name in {*gone, *(each.name for each in new)}]
    _remove(each for each in old if not each.is_dir())
    _remove(each for each in old if each.is_dir())
    for each in sorted(new, key=lambda each: not each.is_dir()):
        os.replace(each, path / each.name)
    sync_folder(path)
    shutil.rmtree(source, ignore_errors=True)


def _remove(paths: Iterable[Path]) -> None:
    for each in paths:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


def _sync_all(folder: Path) -> None:
    for inside in (*folder.rglob("*"), folder):
        if inside.is_dir():
            sync_folder(inside)
        elif inside.name != LOCK:
            with open(inside, "r+b") as file:
                sync(file)


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
