"""Recordings by name: files, folders, standard input and web addresses."""

import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ..errors import AudioError, AudioNotFoundError
from .folders import iter_audio_files

STANDARD_INPUT = "-"
ADDRESSES = ("http://", "https://")


class WebAudio(io.RawIOBase):
    """A recording at a web address, fetched when it is first read.

    Args:
        address: http or https.

    Raises:
        AudioNotFoundError: at the first read, it cannot be had.
    """

    def __init__(self, address: str):
        self.name = address
        self._file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._fetched().seek(offset, whence)

    def tell(self) -> int:
        return self._fetched().tell()

    def readinto(self, buffer) -> int:
        data = self._fetched().read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _fetched(self) -> BinaryIO:
        if self._file is None:
            import fsspec

            try:
                with fsspec.open(self.name, "rb", block_size=0) as response:
                    self._file = io.BytesIO(response.read())
            except Exception as error:  # of the network, of aiohttp, of the server: all mean that it is not there
                problem = f"cannot be fetched ({type(error).__name__}: {error})"
                raise AudioNotFoundError(self.name, problem, "Check the address and the network") from error
        return self._file


def iter_sources(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> Iterator[tuple[str, object]]:
    """(name, what `stream_audio` takes) of everything that ``paths`` mean; or (name, error) for a path that means none.

    Args:
        paths: files; folders, searched as `iter_audio_files` does; ``-`` for standard input; http and https addresses.

    Examples:
        >>> from diffusion_link_hf.audio import iter_sources
        >>> list(iter_sources(["a.wav", "b.wav"]))
        [('a.wav', 'a.wav'), ('b.wav', 'b.wav')]
    """
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        name = os.fspath(path)
        if name == STANDARD_INPUT:
            yield "standard input", sys.stdin.buffer
        elif name.startswith(ADDRESSES):
            yield name, WebAudio(name)
        else:
            try:
                yield from ((str(file), str(file)) for file in iter_audio_files(path))
            except AudioError as error:
                yield name, error
