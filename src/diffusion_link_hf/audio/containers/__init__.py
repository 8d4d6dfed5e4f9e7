"""Containers: the decodable streams that a file really holds, whatever its headers declare."""

import io
import os
from typing import BinaryIO

from ...errors import AudioDecodeError, AudioFormatError
from .flac import MAGIC as FLAC_MAGIC
from .flac import flac_streams
from .mpeg import find_frame, mpeg_streams
from .ogg import ogg_streams
from .riff import MAGICS as RIFF_MAGICS
from .riff import riff_streams
from .splice import Splice
from .stream import TORN, Stream
from .tags import sound_begins, sound_ends

__all__ = ["TORN", "Stream", "open_streams"]

LEADING_JUNK_BYTES = 1 << 18  # before the first frame of an MP3
LIBSNDFILE_MAGICS = (b"FORM", b".snd", b"dns.", b"caff", b"riff", b"RF64", b"Crea", b"RIFF", b"RIFX")
FFMPEG_KINDS = {  # by what stands at a place of the file: kinds that libsndfile does not know
    (4, b"ftyp"): "MP4",
    (0, b"\x1a\x45\xdf\xa3"): "WebM or Matroska",
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"): "WMA",
    (0, b"#!AMR"): "AMR",
    (8, b"AVI "): "AVI",
    (0, b"FLV"): "FLV",
    (0, b"ADIF"): "AAC",
}


def open_streams(file: BinaryIO, name: str) -> list[Stream]:
    """What a binary file holds, in order: one stream, or several where files were joined or chained.

    Raises:
        AudioDecodeError: no byte in it; or it lost sound at its end, which its container shows.
        AudioFormatError: opened as text.
    """
    if isinstance(file, io.TextIOBase):
        raise AudioFormatError(name, "is opened as text", "Open it in mode 'rb'")
    if not (file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")):
        file = io.BytesIO(file.read())  # a pipe or a response
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise AudioDecodeError(name, "holds 0 bytes", "Pass the whole encoded file")
    begin = sound_begins(file, size)
    file.seek(begin)
    head = file.read(16)
    for (at, magic), kind in FFMPEG_KINDS.items():
        if head[at : at + len(magic)] == magic:
            return [Stream(Splice(file, [(0, size)]), kind, native=False)]
    if head.startswith(b"OggS"):
        return ogg_streams(file, name, begin, size)
    if head.startswith(RIFF_MAGICS) and head[8:12] == b"WAVE":
        return riff_streams(file, name, begin, size)
    end = sound_ends(file, begin, size)
    if head.startswith(FLAC_MAGIC):
        return flac_streams(file, begin, end)
    if head.startswith(LIBSNDFILE_MAGICS):
        return [Stream(Splice(file, [(begin, size)]), "audio")]
    if _is_adts(head):
        return [Stream(Splice(file, [(begin, size)]), "AAC", native=False)]
    first = find_frame(file, begin, min(end, begin + LEADING_JUNK_BYTES))
    streams = mpeg_streams(file, name, first, end) if first is not None else []
    return streams or [Stream(Splice(file, [(0, size)]), "of an unknown kind", native=None)]


def _is_adts(head: bytes) -> bool:
    """AAC's sync word is that of MPEG audio, with the layer that this has not."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
