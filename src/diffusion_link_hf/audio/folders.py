"""Audio files that paths and folders mean."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import AudioNotFoundError

AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
)


def find_audio_files(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """The audio files that ``paths`` mean: files as given, directories searched recursively by extension, sorted.

    A file that is named is returned whatever its extension and whether it exists: `load_audio` says what is wrong.

    Raises:
        AudioNotFoundError: a directory holds no audio file, or a path is empty.
    """
    files: list[Path] = []
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if not os.fspath(given):  # Path("") is the current directory
            raise AudioNotFoundError("empty path", "names nothing", "Name a file or a directory; '.' is this one")
        path = Path(given)
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_EXTENSIONS and p.is_file())
        if not found:
            raise AudioNotFoundError(
                path, "holds no audio file", f"Looked, in all its folders, for {' '.join(sorted(AUDIO_EXTENSIONS))}"
            )
        files += found
    return files
