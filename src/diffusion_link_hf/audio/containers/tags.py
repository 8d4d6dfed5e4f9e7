"""Tags and padding around the sound: where it begins and where it ends."""

import os
from typing import BinaryIO

SCAN_BYTES = 1 << 16
ID3V1_BYTES = 128
LEAST_PADDING = 16  # zeros that are padding rather than part of a header


def sound_begins(file: BinaryIO, size: int) -> int:
    """The first byte behind ID3v2 tags and zeros."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(SCAN_BYTES)
        length = id3v2_size(head)
        if length:
            at += length
            continue
        zeros = len(head) - len(head.lstrip(b"\0"))
        if zeros < LEAST_PADDING:  # fewer belong to a header, as MP4 has it
            return at
        at += zeros
    return size


def tag_size(head: bytes) -> int:
    """Bytes of the ID3 or APE tag that ``head`` begins with; 0 if it begins with none."""
    if head[:3] == b"TAG":
        return ID3V1_BYTES
    if head[:8] == b"APETAGEX":
        return 32 * bool(head[23] & 0x20) + int.from_bytes(head[12:16], "little")
    return id3v2_size(head)


def id3v2_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that ``head`` begins with, its footer included; 0 if it begins with none."""
    if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or max(head[6:10]) > 0x7F:
        return 0
    length = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return 10 + length + 10 * bool(head[5] & 0x10)


def sound_ends(file: BinaryIO, begin: int, size: int) -> int:
    """The last byte before ID3v1 and APEv2 tags and zeros at the end, plus one."""
    end = size
    while end > begin:
        first = max(begin, end - SCAN_BYTES)
        file.seek(first, os.SEEK_SET)
        tail = file.read(end - first)
        shorter = _without_tag(tail)
        if shorter == len(tail):
            return end
        end = first + shorter
        if shorter:
            continue
    return begin


def _without_tag(tail: bytes) -> int:
    if tail[-ID3V1_BYTES:][:3] == b"TAG":
        return len(tail) - ID3V1_BYTES
    if tail[-32:-24] == b"APETAGEX":
        length = int.from_bytes(tail[-20:-16], "little") + 32 * bool(tail[-9] & 0x80)
        return max(0, len(tail) - length)
    zeros = len(tail) - len(tail.rstrip(b"\0"))
    return len(tail) - zeros if zeros > 64 else len(tail)  # fewer may be the end of a frame
