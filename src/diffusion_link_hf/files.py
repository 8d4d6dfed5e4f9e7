"""Files that survive a kill: what is written is on the disk, whole, or not there."""

import os
import tempfile
from pathlib import Path
from typing import IO


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


def make_writable(folder: Path) -> None:
    """Make the folder of results.

    Raises:
        OSError: it cannot be made, or nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
