"""Sound that libsndfile does not know (m4a, mp4, webm, wma, amr …), through PyAV, which brings FFmpeg in its wheel."""

import importlib.util
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ..errors import AudioDecodeError, AudioFormatError
from .containers import TORN

INSTALL = "Install the decoders of such files: pip install 'diffusion-link-hf[media]'"
EXACT_DURATIONS = ("mov,mp4", "matroska,webm")  # containers whose durations are no estimates
TOLERATED_SECONDS = 0.1  # priming, padding and one codec frame of any codec


def has_ffmpeg() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def ffmpeg_blocks(file: BinaryIO, name: str, kind: str) -> Iterator[tuple[int, np.ndarray]]:
    """The first audio stream of a container, packet by packet; damaged packets are left out, as FFmpeg does.

    Yields:
        (Hz, (n, channels)), integers or floats as the codec has them.

    Raises:
        AudioFormatError: PyAV is not installed.
        AudioDecodeError: no container that FFmpeg knows, no audio in it, nothing decodable, or cut.
    """
    try:
        import av
    except ImportError as error:
        raise AudioFormatError(name, f"is {kind}, which needs FFmpeg", INSTALL) from error
    av.logging.set_level(av.logging.PANIC)
    seconds, damaged = 0.0, None
    try:
        with av.open(file, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioDecodeError(name, f"is {kind} without sound", "Pass a recording of sound")
            stream = container.streams.audio[0]
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    damaged = error
                    continue
                for frame in frames:
                    seconds += frame.samples / frame.sample_rate
                    yield frame.sample_rate, _samples(frame)
            missing = _declared_seconds(container, stream) - seconds
    except av.error.FFmpegError as error:
        raise AudioDecodeError(
            name, f"cannot be decoded ({error.strerror})", "Pass audio or video, complete"
        ) from error
    if not seconds:
        raise AudioDecodeError(name, f"is {kind} with nothing to decode", "Check the file") from damaged
    if missing > TOLERATED_SECONDS:
        raise AudioDecodeError(name, f"ends {missing:.2f} s before the end that it declares", TORN) from damaged


def _declared_seconds(container, stream) -> float:
    """What the container says the sound lasts; 0 where that is an estimate, or may be said of the pictures."""
    if not container.format.name.startswith(EXACT_DURATIONS):
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return 0.0


def _samples(frame) -> np.ndarray:
    values = frame.to_ndarray()
    return values.T if frame.format.is_planar else values.reshape(-1, len(frame.layout.channels))
