"""Ogg (Vorbis, Opus, FLAC, Speex): its pages are walked, so that every link of a chain is decoded, and only once."""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ...errors import AudioDecodeError
from .splice import Piece, Splice
from .stream import TORN, Stream

FIRST, LAST = 2, 4  # flags of a page
NO_GRANULE = 0xFFFF_FFFF_FFFF_FFFF
CODECS = {b"\x01vorbis": "Vorbis", b"OpusHead": "Opus", b"\x7fFLAC": "FLAC", b"Speex   ": "Speex"}
FLAC_MAPPING_BYTES = 9  # before "fLaC" in the first packet of FLAC in Ogg


class _Page(NamedTuple):
    begin: int
    payload: int
    end: int
    flags: int
    granule: int
    serial: int


def _pages(file: BinaryIO, begin: int, end: int, name: str) -> Iterator[_Page]:
    """All whole pages; bytes between them that are none are passed over.

    Raises:
        AudioDecodeError: the file ends within a page.
    """
    at = begin
    while at < end:
        file.seek(at)
        head = file.read(27 + 255)
        if head[:4] != b"OggS":
            at = _next_page(file, at + 1, end)
            continue
        table = head[27 : 27 + head[26]] if len(head) >= 27 else b""
        payload = at + 27 + len(table)
        if len(head) < 27 or len(table) < head[26] or payload + sum(table) > end:
            following = _next_page(file, at + 1, end)
            if following >= end:
                raise AudioDecodeError(name, f"its last Ogg page, at byte {at}, is cut", TORN)
            at = following
            continue
        _, flags, granule, serial = struct.unpack_from("<BBQI", head, 4)
        yield _Page(at, payload, payload + sum(table), flags, granule, serial)
        at = payload + sum(table)


def _next_page(file: BinaryIO, at: int, end: int) -> int:
    while at < end:
        file.seek(at)
        data = file.read(min(1 << 16, end - at))
        k = data.find(b"OggS")
        if k >= 0:
            return at + k
        at += max(len(data) - 3, 1)
    return end


def ogg_streams(file: BinaryIO, name: str, begin: int, end: int) -> list[Stream]:
    """The audio of each link of a chain: of several logical streams side by side, the first that is audio.

    Raises:
        AudioDecodeError: the file ends within a page; or none of its streams is audio.
    """
    links: list[dict[int, list[_Page]]] = []
    in_heads = False
    for page in _pages(file, begin, end, name):
        first = bool(page.flags & FIRST)
        if first and not in_heads:
            links.append({})
        in_heads = first
        if first:
            links[-1].setdefault(page.serial, []).append(page)
        elif links and page.serial in links[-1]:
            links[-1][page.serial].append(page)
    streams = [stream for link in links if (stream := _audio_of(file, link)) is not None]
    if not streams:
        raise AudioDecodeError(name, "is an Ogg file without Vorbis, Opus, FLAC or Speex", "Pass a recording of sound")
    return streams


def _audio_of(file: BinaryIO, link: dict[int, list[_Page]]) -> Stream | None:
    for pages in link.values():
        file.seek(pages[0].payload)
        packet = file.read(pages[0].end - pages[0].payload)
        kind = next((kind for magic, kind in CODECS.items() if packet.startswith(magic)), None)
        if kind:
            frames = _least_frames(pages, kind, packet)
            if kind == "FLAC":  # as a file of its own: libsndfile reads that more readily
                ranges = [(page.payload, page.end) for page in pages]
                ranges[0] = (ranges[0][0] + FLAC_MAPPING_BYTES, ranges[0][1])
                return Stream(Splice(file, ranges), kind, frames)
            return Stream(Splice(file, _with_one_end(file, pages)), kind, frames, native=kind != "Speex")
    return None


def _least_frames(pages: list[_Page], kind: str, head: bytes) -> int | None:
    """Samples from the first page that ends a packet of sound to the last one."""
    granules = [page.granule for page in pages if page.granule not in (0, NO_GRANULE)]
    if len(granules) < 2:
        return None
    skipped = int.from_bytes(head[10:12], "little") if kind == "Opus" else 0
    return max(0, granules[-1] - granules[0] - skipped)


def _with_one_end(file: BinaryIO, pages: list[_Page]) -> list[Piece]:
    """The pages with the last one, and no other, marked as the last: libsndfile stops at, and insists on, a mark."""
    pieces: list[Piece] = []
    for k, page in enumerate(pages):
        is_last = k == len(pages) - 1
        if bool(page.flags & LAST) == is_last:
            pieces.append((page.begin, page.end))
            continue
        file.seek(page.begin)
        data = bytearray(file.read(page.end - page.begin))
        data[5] = page.flags ^ LAST
        data[22:26] = bytes(4)
        data[22:26] = _checksum(data).to_bytes(4, "little")
        pieces.append(bytes(data))
    return pieces


def _table() -> list[int]:
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x8000_0000 else value << 1) & 0xFFFF_FFFF
        table.append(value)
    return table


TABLE = _table()


def _checksum(data: bytes) -> int:
    """Ogg's CRC-32: not that of zlib, whose bits are in the other order."""
    value = 0
    for byte in data:
        value = value << 8 & 0xFFFF_FFFF ^ TABLE[value >> 24 ^ byte]
    return value
