"""One decodable stream of a container, and how much sound it holds for certain."""

from dataclasses import dataclass
from typing import BinaryIO

TORN = "The file is truncated: fetch or copy it again"


@dataclass(frozen=True)
class Stream:
    """What a decoder reads from its beginning to its end.

    Attributes:
        file: binary, seekable, at its beginning.
        kind: how errors call it, such as "FLAC".
        frames: samples per channel that it holds at least, at its own rate; None where nothing reliable says so.
        native: whether libsndfile reads it; if not, FFmpeg has to; None where only trying tells.
    """

    file: BinaryIO
    kind: str
    frames: int | None = None
    native: bool | None = True
