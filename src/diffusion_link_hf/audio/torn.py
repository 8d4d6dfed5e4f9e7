"""Recordings that end before their header says: libsndfile shortens them without an error."""

import re

from ..errors import AudioDecodeError
from .containers import TORN

CODEC_FRAME = 1152  # samples per channel; to lose one at the end of a recording is no loss
DECLARED = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+)\s*\(should be (\d+)\)", re.MULTILINE)


def refuse_torn_header(sound, name: str) -> None:
    """Reads libsndfile's log of a wav, aiff, au, caf, w64 or rf64: only there does it say what it shortened.

    Raises:
        AudioDecodeError: over one codec frame of the declared sound is missing.
    """
    torn = DECLARED.search(sound.extra_info)
    if not torn:
        return
    declared, present = (int(number) for number in torn.groups())
    # Recorders that write to a pipe cannot know the length and declare the largest one of 32 bits.
    endless = declared >= 0x7FFF0000 and sound.format not in ("W64", "RF64")
    bytes_per_frame = max(present / sound.frames, 1 / 64) if sound.frames else 1
    if declared - present > CODEC_FRAME * bytes_per_frame and not endless:
        raise AudioDecodeError(name, f"holds {present} of the {declared} bytes that it declares", TORN)
