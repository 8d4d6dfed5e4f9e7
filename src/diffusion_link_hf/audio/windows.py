"""Ten-second windows of a recording at 48 kHz, as CLAP takes them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import AudioContentError, AudioFormatError, InputError

SAMPLING_RATE = 48_000  # Hz, what CLAP was trained at
WINDOW_SECONDS = 10.0
WINDOW_SAMPLES = 480_000
MIN_HOP_SECONDS = 0.1
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


def split_windows(samples: np.ndarray, hop_seconds: float = WINDOW_SECONDS) -> list[AudioWindow]:
    """Cut a recording into the ten-second windows that CLAP takes, the same way every time.

    Windows start at 0, 10, 20 … seconds. The last, shorter one is repeat-padded as CLAP was trained: whole copies
    one after the other, then zeros. After a full window, a remainder of less than 1 s that no window holds is left
    out: files cut to ten seconds by a codec end with such crumbs.

    Args:
        samples: (n,) float32 mono at 48 kHz, n ≥ 1, as `load_audio` returns. Full windows are views of it.
        hop_seconds: seconds from one window's start to the next one's, 0.1 to 10; less than 10 makes them overlap.

    Raises:
        AudioContentError: no samples, or not one-dimensional.
        AudioFormatError: integer samples, whose scale is not known here.
        InputError: ``hop_seconds`` out of range.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import split_windows
        >>> [(window.start, window.end) for window in split_windows(np.zeros(12 * 48_000, np.float32))]
        [(0.0, 10.0), (10.0, 12.0)]
    """
    if samples.ndim != 1 or not len(samples):
        raise AudioContentError("audio array", f"has shape {samples.shape}", "Pass mono samples of shape (n,), n ≥ 1")
    if samples.dtype.kind != "f":
        raise AudioFormatError("audio array", f"has dtype {samples.dtype}", "Pass what load_audio returns")
    return list(stream_windows([samples], hop_seconds))


def stream_windows(blocks: Iterable[np.ndarray], hop_seconds: float = WINDOW_SECONDS) -> Iterator[AudioWindow]:
    """The windows of a recording that comes block by block, each as soon as its sound is there.

    Args:
        blocks: (n,) float32 mono at 48 kHz each, as `stream_audio` yields them. At most one window is held.
        hop_seconds: as `split_windows`.

    Yields:
        The windows that `split_windows` cuts from the whole recording.

    Raises:
        InputError: ``hop_seconds`` out of range.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import stream_windows
        >>> blocks = (np.zeros(48_000, np.float32) for _ in range(12))
        >>> [window.end for window in stream_windows(blocks)]
        [10.0, 12.0]
    """
    if not MIN_HOP_SECONDS <= hop_seconds <= WINDOW_SECONDS:
        raise InputError(
            "hop_seconds",
            f"is {hop_seconds!r}",
            f"Use {MIN_HOP_SECONDS} to {WINDOW_SECONDS:g}: beyond it, sound is lost",
        )
    hop = round(hop_seconds * SAMPLING_RATE)
    waiting, first, covered = np.empty(0, np.float32), 0, 0  # samples from `first` on; those before `covered` are seen
    for block in blocks:
        waiting = np.concatenate([waiting, block]) if len(waiting) else block
        while len(waiting) >= WINDOW_SAMPLES:
            yield _window(first, waiting[:WINDOW_SAMPLES])
            covered = first + WINDOW_SAMPLES
            first, waiting = first + hop, waiting[hop:]
    unseen = first + len(waiting) - covered
    if unseen and (not covered or unseen >= MIN_TAIL_SECONDS * SAMPLING_RATE):
        yield _window(first, waiting)


def _window(first: int, piece: np.ndarray) -> AudioWindow:
    start = first / SAMPLING_RATE
    return AudioWindow(start, start + len(piece) / SAMPLING_RATE, _repeat_pad(piece))


def _repeat_pad(piece: np.ndarray) -> np.ndarray:
    if len(piece) == WINDOW_SAMPLES:
        return np.ascontiguousarray(piece, dtype=np.float32)
    out = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
    copies = WINDOW_SAMPLES // len(piece)
    out[: copies * len(piece)].reshape(copies, len(piece))[:] = piece
    return out
