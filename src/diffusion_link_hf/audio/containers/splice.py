"""A file made of pieces of another: what lets a decoder read a stream that its container declares wrongly."""

import bisect
import io
import itertools
import os
from collections.abc import Iterable
from typing import BinaryIO

Piece = bytes | tuple[int, int]


class Splice(io.RawIOBase):
    """Ranges of a seekable file and bytes of our own, one after the other, as a file that can be read and sought.

    Args:
        file: binary and seekable; it stays the caller's and has to stay open.
        pieces: bytes, or (first byte, past the last byte) in ``file``. Ranges that meet are joined.

    Examples:
        >>> import io
        >>> from diffusion_link_hf.audio.containers.splice import Splice
        >>> Splice(io.BytesIO(b"0123456789"), [b"ab", (2, 4), (4, 6), b"c"]).read()
        b'ab2345c'
    """

    def __init__(self, file: BinaryIO, pieces: Iterable[Piece]):
        self._file = file
        self._pieces: list[Piece] = []
        for piece in pieces:
            last = self._pieces[-1] if self._pieces else b""
            if isinstance(piece, tuple) and isinstance(last, tuple) and last[1] == piece[0]:
                self._pieces[-1] = (last[0], piece[1])
            else:
                self._pieces.append(piece)
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in self._pieces)
        self._ends = list(itertools.accumulate(lengths))
        self._at = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:
        """As many bytes as are left and fit."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._at < len(self):
            k = bisect.bisect_right(self._ends, self._at)
            piece, end = self._pieces[k], self._ends[k]
            size = min(len(view) - filled, end - self._at)
            if isinstance(piece, bytes):
                first = len(piece) - (end - self._at)
                data = piece[first : first + size]
            else:
                self._file.seek(piece[1] - (end - self._at))
                data = self._file.read(size)
            if not data:
                break  # the file has shrunk since
            view[filled : filled + len(data)] = data
            filled += len(data)
            self._at += len(data)
        return filled
