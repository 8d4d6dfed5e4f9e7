"""WAV: a data size that a recorder left at zero, MPEG audio inside, and files that were joined."""

from typing import BinaryIO

from .mpeg import mpeg_streams
from .splice import Piece, Splice
from .stream import Stream

MPEG_FORMATS = (0x0050, 0x0055)  # WAVE_FORMAT_MPEG, WAVE_FORMAT_MPEGLAYER3
MAGICS = (b"RIFF", b"RIFX")


def riff_streams(file: BinaryIO, name: str, begin: int, end: int) -> list[Stream]:
    """The WAV files between two places, each with a data size that says what is there if it said nothing.

    Raises:
        AudioDecodeError: as `mpeg_streams`, of MPEG audio within.
    """
    streams, at = [], begin
    while at < end:
        file.seek(at)
        head = file.read(12)
        order = "big" if head[:4] == b"RIFX" else "little"
        past = at + 8 + int.from_bytes(head[4:8], order)
        file.seek(past)
        joined = past < end and file.read(4) in MAGICS
        past = past if joined else end
        streams += _one(file, name, at, past, order)
        at = past
    return streams


def _one(file: BinaryIO, name: str, begin: int, end: int, order: str) -> list[Stream]:
    at, kind = begin + 12, 0
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:8], order)
        if head[:4] == b"fmt ":
            kind = int.from_bytes(file.read(2), order)
        if head[:4] == b"data":
            if kind in MPEG_FORMATS:
                streams = mpeg_streams(file, name, at + 8, min(end, at + 8 + size) if size else end)
                if streams:
                    return streams
            if not size and not _is_chunk(file, at + 8, end, order):
                present = min(end - at - 8, 0xFFFF_FFFF)
                pieces: list[Piece] = [(begin, at + 4), present.to_bytes(4, order), (at + 8, end)]
                return [Stream(Splice(file, pieces), "WAV")]
            break
        at += 8 + size + size % 2
    return [Stream(Splice(file, [(begin, end)]), "WAV")]


def _is_chunk(file: BinaryIO, at: int, end: int, order: str) -> bool:
    """Whether chunks, and not sound, fill the rest: the data are empty indeed."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        if not head[:4].isalnum() and not head[:4].strip().isalnum():
            return False
        size = int.from_bytes(head[4:8], order)
        at += 8 + size + size % 2
    return at >= end
