"""What wav, Ogg and MP3 containers say of their own length: recordings that were cut are refused."""

import io
import os
import re
from typing import BinaryIO

from ..errors import AudioDecodeError, AudioFormatError

TORN = "The file is truncated: fetch or copy it again"


def inspect_container(file: BinaryIO, name: str) -> tuple[BinaryIO, bool]:
    """A seekable file at its beginning, not torn as far as the container tells, and whether its length is known."""
    if isinstance(file, io.TextIOBase):
        raise AudioFormatError(name, "is opened as text", "Open it in mode 'rb'")
    if not (file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")):
        file = io.BytesIO(file.read())  # a pipe or a response
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise AudioDecodeError(name, "holds 0 bytes", "Pass the whole encoded file")
    file.seek(0)
    head = file.read(4)
    knows_length = True
    if head == b"OggS":
        _refuse_torn_ogg(file, size, name)
    elif head[:3] == b"ID3" or _is_mp3_frame(head):
        knows_length = _refuse_torn_mp3(file, size, name)
    file.seek(0)
    return file, knows_length


def refuse_torn_header(sound, name: str) -> None:
    """libsndfile shortens a truncated wav, aiff, au, w64 or rf64 without an error, and says so only in its log."""
    torn = re.search(
        r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+)\s*\(should be (\d+)\)", sound.extra_info, re.MULTILINE
    )
    if torn:
        declared, present = (int(number) for number in torn.groups())
        # Recorders that write to a pipe cannot know the length and declare the largest one of 32 bits.
        endless = declared >= 0x7FFF0000 and sound.format not in ("W64", "RF64")
        if present < declared and not endless:
            raise AudioDecodeError(name, f"holds {present} of the {declared} bytes that it declares", TORN)


def _refuse_torn_ogg(file: BinaryIO, size: int, name: str) -> None:
    """An Ogg file whose last page is cut, or is not marked as the last, decodes without an error up to that point."""
    file.seek(max(0, size - 131_072))  # a page has at most 65,307 bytes
    tail = file.read()
    last = tail.rfind(b"OggS")
    header = tail[last : last + 27]
    whole = last >= 0 and len(header) == 27
    if whole:
        table = tail[last + 27 : last + 27 + header[26]]
        whole = len(table) == header[26] and len(tail) - last >= 27 + len(table) + sum(table) and header[5] & 4
    if not whole:
        raise AudioDecodeError(name, "its last Ogg page is missing or cut", TORN)


def _is_mp3_frame(header: bytes) -> bool:
    return len(header) >= 2 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2  # sync word and layer III


def _refuse_torn_mp3(file: BinaryIO, size: int, name: str) -> bool:
    """Hold an MP3 against its Xing, Info or VBRI header; whether it has one. Without, its length is an estimate."""
    start = 0
    while True:  # over the ID3v2 tags
        file.seek(start)
        frame = file.read(64)
        if frame[:3] != b"ID3" or len(frame) < 10:
            break
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(frame[6:10], (21, 14, 7, 0), strict=True))
    if not _is_mp3_frame(frame):
        return False
    declared = 0
    at = max(frame.find(b"Xing", 0, 44), frame.find(b"Info", 0, 44))  # behind 9 to 32 bytes of side information
    if at >= 0:
        flags, first, second = (int.from_bytes(frame[at + i : at + i + 4], "big") for i in (4, 8, 12))
        declared = (second if flags & 1 else first) if flags & 2 else 0
        knows_frames = bool(flags & 1)
    else:
        knows_frames = frame[36:40] == b"VBRI"
        declared = int.from_bytes(frame[46:50], "big") if knows_frames else 0
    if size - start < declared:
        raise AudioDecodeError(name, f"holds {size - start} of the {declared} bytes that it declares", TORN)
    return knows_frames
