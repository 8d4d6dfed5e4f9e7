"""Recordings as windows with their embeddings: decoded ahead in a thread, told from silence, encoded in batches."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch

from ..audio import AudioWindow, stream_audio, stream_windows
from ..errors import AudioError, without_tracebacks

MOST_WAITING = 4  # batches of windows held, where most of them are silent and need no encoding
PATIENCE_SECONDS = 0.1


class Recording(NamedTuple):
    """What `stream_audio` takes; or, as ``source``, the `AudioError` that says why there is nothing to read."""

    source: Any
    sampling_rate: int | None = None
    name: str | None = None


class Heard(NamedTuple):
    """A window of a recording; or, after its last one, that it has ended.

    Attributes:
        item: number of the recording.
        start, end: seconds.
        embed: (D,) embedding; None where it is silent, and at the end.
        ended: whether this is the end rather than a window.
        error: at the end, why the recording cannot be captioned; its windows so far do not count then.
    """

    item: int
    start: float = 0.0
    end: float = 0.0
    embed: torch.Tensor | None = None
    ended: bool = False
    error: AudioError | None = None

    @property
    def silent(self) -> bool:
        return not self.ended and self.embed is None


def read_windows(
    recordings: Iterable[Recording], hop_seconds: float, max_duration: float | None
) -> Iterator[tuple[int, AudioWindow | AudioError | None]]:
    """(number, window) of all recordings in order, and behind each its end: None, or its error."""
    for item, recording in enumerate(recordings):
        try:
            if isinstance(recording.source, AudioError):
                raise recording.source
            for window in stream_windows(stream_audio(*recording, max_duration=max_duration), hop_seconds):
                yield item, window
        except AudioError as error:
            yield item, without_tracebacks(error)
        else:
            yield item, None


def ahead(values: Iterator, most: int) -> Iterator:
    """The same values, computed in a thread that runs at most ``most`` of them ahead.

    Examples:
        >>> from diffusion_link_hf.pipelines.listening import ahead
        >>> list(ahead(iter(range(5)), most=2))
        [0, 1, 2, 3, 4]
    """
    ready: queue.Queue = queue.Queue(most)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put((kind, value), timeout=PATIENCE_SECONDS)
                return

    def run() -> None:
        try:
            for value in values:
                put("value", value)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:  # whatever it is, it is raised where the values are used
            put("error", error)

    thread = threading.Thread(target=run, name="decode-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()


def hear(
    recordings: Iterable[Recording],
    encode: Callable[[np.ndarray], torch.Tensor],
    is_silent: Callable[[np.ndarray], bool],
    batch_size: int,
    hop_seconds: float,
    max_duration: float | None = None,
) -> Iterator[list[Heard]]:
    """All windows of all recordings, in order, batch by batch; a batch may span recordings.

    Args:
        encode: (B, 480000) float32 → (B, D).
        is_silent: (480000,) → whether it is silence, which is not encoded.
        batch_size: windows encoded at once.
        hop_seconds, max_duration: as `stream_windows` and `stream_audio`.
    """
    batch: list[Heard] = []
    sounds: list[tuple[int, np.ndarray]] = []  # place in the batch, samples
    for item, found in ahead(read_windows(recordings, hop_seconds, max_duration), 2 * batch_size):
        if isinstance(found, AudioWindow):
            if not is_silent(found.samples):
                sounds.append((len(batch), found.samples))
            batch.append(Heard(item, found.start, found.end))
        else:
            batch.append(Heard(item, ended=True, error=found))
        if len(sounds) == batch_size or len(batch) >= MOST_WAITING * batch_size:
            yield _encoded(batch, sounds, encode)
            batch, sounds = [], []
    if batch:
        yield _encoded(batch, sounds, encode)


def _encoded(batch: list[Heard], sounds: list[tuple[int, np.ndarray]], encode: Callable) -> list[Heard]:
    if sounds:
        embeds = encode(np.stack([samples for _, samples in sounds]))
        for (place, _), embed in zip(sounds, embeds, strict=True):
            batch[place] = batch[place]._replace(embed=embed)
    return batch


def average(heard: Iterable[Heard]) -> Iterator[Heard]:
    """One window per recording, from its start to its end: the mean embedding, renormalized, of what is not silent."""
    windows: list[Heard] = []
    for one in heard:
        if not one.ended:
            windows.append(one)
            continue
        if windows and one.error is None:
            rows = [window.embed for window in windows if window.embed is not None]
            mean = torch.nn.functional.normalize(torch.stack(rows).mean(0), dim=-1) if rows else None
            yield Heard(one.item, windows[0].start, windows[-1].end, mean)
        windows = []
        yield one
