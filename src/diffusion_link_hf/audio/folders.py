"""Audio files that paths and folders mean."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import AudioNotFoundError

LIBSNDFILE_EXTENSIONS = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mp1"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"}
)
FFMPEG_EXTENSIONS = frozenset(
    {".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".mka", ".aac", ".ac3", ".amr", ".spx"}
    | {".wma", ".wmv", ".avi", ".flv", ".ogv", ".ogx", ".mpg", ".mpeg", ".ts"}
)
AUDIO_EXTENSIONS = LIBSNDFILE_EXTENSIONS | FFMPEG_EXTENSIONS


def find_audio_files(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """The audio files that ``paths`` mean: files as given, directories searched recursively by extension, sorted.

    A file that is named is returned whatever its extension and whether it exists: `load_audio` says what is wrong.
    In directories, hidden files and macOS's ``._`` companions are left out, and links to directories are followed,
    each directory once. Files that need the extra ``media`` are found whether it is installed or not.

    Raises:
        AudioNotFoundError: a directory holds no audio file, or a path is empty.
    """
    return list(iter_audio_files(paths))


def iter_audio_files(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterator[Path]:
    """`find_audio_files` one by one: only the names of the directories on the way down are held.

    Examples:
        >>> from diffusion_link_hf.audio import iter_audio_files
        >>> next(iter_audio_files("a.wav"))
        PosixPath('a.wav')
    """
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if not os.fspath(given):  # Path("") is the current directory
            raise AudioNotFoundError("empty path", "names nothing", "Name a file or a directory; '.' is this one")
        path = Path(given)
        if not path.is_dir():
            yield path
            continue
        found = False
        for file in _walk(path, set()):
            found = True
            yield file
        if not found:
            raise AudioNotFoundError(
                path, "holds no audio file", f"Looked, in all its folders, for {' '.join(sorted(AUDIO_EXTENSIONS))}"
            )


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Sorted as their paths are; a directory that was seen, by its device and inode, is not entered again."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for name in names:
        path = folder / name
        if path.is_dir():
            yield from _walk(path, seen)
        elif path.suffix.lower() in AUDIO_EXTENSIONS and path.is_file():
            yield path
