"""FLAC: the total in its header is a hint, and files that were joined are decoded one by one."""

from typing import BinaryIO

from .splice import Piece, Splice
from .stream import Stream

MAGIC = b"fLaC\x00\x00\x00\x22"  # the marker, and STREAMINFO's header
SCAN_BYTES = 1 << 20
TOTAL = slice(21, 26)  # the bytes that hold the 36 bits of the total; the upper half of the first belongs to others


def flac_streams(file: BinaryIO, begin: int, end: int) -> list[Stream]:
    """The FLAC files between two places, each told not to trust its total."""
    starts = [begin, *_markers(file, begin + 1, end)]
    streams = []
    for first, past in zip(starts, [*starts[1:], end], strict=True):
        file.seek(first)
        head = bytearray(file.read(26))
        total = int.from_bytes(head[TOTAL], "big") & 0xF_FFFF_FFFF
        head[21] &= 0xF0
        head[22:26] = bytes(4)
        pieces: list[Piece] = [bytes(head), (first + len(head), past)]
        streams.append(Stream(Splice(file, pieces), "FLAC", total or None))
    return streams


def _markers(file: BinaryIO, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        file.seek(at)
        data = file.read(min(SCAN_BYTES, end - at))
        k = data.find(MAGIC)
        while k >= 0:
            found.append(at + k)
            k = data.find(MAGIC, k + 1)
        if len(data) < len(MAGIC):
            break
        at += len(data) - len(MAGIC) + 1
    return found
