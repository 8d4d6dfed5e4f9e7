"""Hashes of models by content; that of a large file is computed once per machine, not at each start of each process."""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from ..errors import DataError
from ..files import write_whole

REMEMBERED_BYTES = 2**24  # smaller files are hashed faster than their hash is looked up safely
SETTLED_SECONDS = 2.0  # a file that was written later may be written again within one tick of its clock


def folder_fingerprint(*folders: Path) -> str:
    """Hash of the names and contents of all safetensors and JSON files directly in ``folders``.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "config.json").write_text("{}")
        >>> folder_fingerprint(folder)
        '2c4d80cb2a3fb8b7'
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.json"))):
            digest.update(f"{path.name} {remembered_sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def remembered_sha256(path: Path) -> str:
    """`files.file_sha256` for models, which are read again and again; not for finding damage.

    That of a file of 16 MiB or more is remembered in `hashes_folder`, under its path, size, time of change and inode.
    Where nothing can be remembered, it is computed each time.
    """
    with open(path, "rb") as file:
        about = os.fstat(file.fileno())
        if about.st_size < REMEMBERED_BYTES:
            return hashlib.file_digest(file, "sha256").hexdigest()
        key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns} {about.st_ino}"
        known = hashes_folder() / hashlib.sha256(key.encode()).hexdigest()
        with suppress(OSError, UnicodeDecodeError):
            content = known.read_text(encoding="ascii").split()
            if len(content) == 1 and len(content[0]) == 64:
                return content[0]
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time() - about.st_mtime > SETTLED_SECONDS and os.fstat(file.fileno()).st_mtime_ns == about.st_mtime_ns:
            with suppress(OSError, DataError):
                known.parent.mkdir(parents=True, exist_ok=True)
                write_whole(known, f"{found}\n".encode())
        return found


def hashes_folder() -> Path:
    """``diffusion-link/hashes`` in the user's cache folder. It may be removed at any time."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "diffusion-link" / "hashes"
