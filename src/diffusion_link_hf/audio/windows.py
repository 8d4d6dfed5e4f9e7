"""Ten-second windows of a recording at 48 kHz, as CLAP takes them."""

from dataclasses import dataclass

import numpy as np

from ..errors import AudioContentError, AudioFormatError

SAMPLING_RATE = 48_000  # Hz, what CLAP was trained at
WINDOW_SECONDS = 10.0
WINDOW_SAMPLES = 480_000
MIN_TAIL_SECONDS = 1.0  # a remainder shorter than this after a full window gets no window of its own


@dataclass(frozen=True)
class AudioWindow:
    """One window of a recording.

    Attributes:
        start, end: seconds in the recording; ``end - start`` is at most 10 and leaves padding out.
        samples: (480000,) float32 mono at 48 kHz.
    """

    start: float
    end: float
    samples: np.ndarray


def split_windows(samples: np.ndarray) -> list[AudioWindow]:
    """Cut a recording into the ten-second windows that CLAP takes, the same way every time.

    Windows start at 0, 10, 20 … seconds. The last, shorter one is repeat-padded as CLAP was trained: whole copies
    one after the other, then zeros. After a full window, a remainder shorter than 1 s is left out: files cut to
    ten seconds by a codec end with such crumbs.

    Args:
        samples: (n,) float32 mono at 48 kHz, n ≥ 1, as `load_audio` returns. Full windows are views of it.

    Raises:
        AudioContentError: no samples, or not one-dimensional.
        AudioFormatError: integer samples, whose scale is not known here.
    """
    if samples.ndim != 1 or not len(samples):
        raise AudioContentError("audio array", f"has shape {samples.shape}", "Pass mono samples of shape (n,), n ≥ 1")
    if samples.dtype.kind != "f":
        raise AudioFormatError("audio array", f"has dtype {samples.dtype}", "Pass what load_audio returns")
    windows = []
    for first in range(0, len(samples), WINDOW_SAMPLES):
        piece = samples[first : first + WINDOW_SAMPLES]
        if first and len(piece) < MIN_TAIL_SECONDS * SAMPLING_RATE:
            break
        start = first / SAMPLING_RATE
        windows.append(AudioWindow(start, start + len(piece) / SAMPLING_RATE, _repeat_pad(piece)))
    return windows


def _repeat_pad(piece: np.ndarray) -> np.ndarray:
    if len(piece) == WINDOW_SAMPLES:
        return np.ascontiguousarray(piece, dtype=np.float32)
    out = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
    copies = WINDOW_SAMPLES // len(piece)
    out[: copies * len(piece)].reshape(copies, len(piece))[:] = piece
    return out
