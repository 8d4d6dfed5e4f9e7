"""Decoding: a recording of any form to mono samples at 48 kHz."""

import io
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import AudioDecodeError, AudioError, AudioFormatError, AudioNotFoundError
from .samples import Account, check_rate, load_array
from .truncation import TORN, inspect_container, refuse_torn_header
from .windows import SAMPLING_RATE

BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels: 1 MB of float32
MAX_RESERVED_SECONDS = 3600.0  # of output memory asked for on the word of a header; longer files grow into theirs
UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of a stream that does not say how long it is

WHOLE = "Pass wav, flac, ogg, opus or mp3 audio, complete"

AudioInput = str | os.PathLike | bytes | BinaryIO | np.ndarray | tuple[np.ndarray, int] | Mapping[str, Any]


def load_audio(source: AudioInput, sampling_rate: int | None = None, name: str | None = None) -> np.ndarray:
    """Decode one recording to mono at 48 kHz.

    Args:
        source: a path; encoded bytes or a binary file, read from its beginning, or from where it is if it cannot seek
            (wav, flac, ogg, opus, mp3, aiff, au, caf, w64); a mapping with ``array`` and ``sampling_rate``, or with
            ``bytes``, ``audio`` (a row of `datasets`) or ``path``; what `datasets` decodes audio to, an object with
            ``get_all_samples()``; an array or tensor of shape (n,), (channels, n) or (n, channels), whose shorter
            axis is the channels, at most 1,024; or a tuple (array or tensor, Hz), as `torchaudio.load` returns.
            Integers of 8 to 32 bits are scaled by their full range, floats are taken as they are (full scale is ±1).
            Sparse and quantized tensors are made dense.
        sampling_rate: Hz, 1,000 to 768,000; needed with a bare array, refused with encoded audio, and where the
            samples come with a rate of their own, the same or left out.
        name: how errors call the item, its path by default.

    Returns:
        (n,) float32, not clipped.

    Raises:
        AudioNotFoundError: the path does not exist, is a directory, or cannot be opened.
        AudioDecodeError: empty, truncated or not audio; the decoder's own error is chained. A cut is noticed in every
            format that says how long it is, which only an MP3 without a Xing, Info or VBRI header does not.
        AudioFormatError: sampling rate missing, contradicted or out of range, or samples of a wrong shape or type.
        AudioContentError: no samples, less than 10 ms, NaN, infinite, masked, or constant and not zero. Silence is
            valid.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import load_audio
        >>> load_audio(np.random.default_rng(0).uniform(-0.1, 0.1, (2, 44_100)), 44_100).shape
        (48000,)
    """
    if _is_pair(source):
        source = {"array": source[0], "sampling_rate": source[1]}
        name = name or "audio array"
    if isinstance(source, Mapping):
        return _load_mapping(source, sampling_rate, name)
    if hasattr(source, "get_all_samples"):
        return _load_decoder(source, sampling_rate, name or "decoded audio")
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return load_array(source, sampling_rate, name or "audio array")
    is_path = isinstance(source, (str, os.PathLike))
    if sampling_rate is not None:
        raise AudioFormatError(
            name or (str(source) if is_path else f"audio {type(source).__name__}"),
            f"got sampling_rate={sampling_rate} beside encoded audio",
            "Leave it out: the file says it",
        )
    if is_path:
        name = name or str(source) or "empty path"
        with _open(source, name) as file:
            return _decode(file, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), name or f"audio bytes ({len(source)})")
    if hasattr(source, "read"):
        return _decode(source, name or str(getattr(source, "name", "audio file object")))
    raise AudioFormatError(
        name or "audio",
        f"is a {type(source).__name__}",
        "Pass a path, bytes, a binary file, an array or {'array', 'sampling_rate'}",
    )


def is_decoded(source: AudioInput) -> bool:
    """Whether a recording comes as samples, so that `load_audio` takes a ``sampling_rate`` with it."""
    if isinstance(source, Mapping):
        return source.get("array") is not None or (_is_row(source) and is_decoded(source["audio"]))
    return hasattr(source, "__array__") or hasattr(source, "get_all_samples") or _is_pair(source)


def check_sampling_rate(sources: Sequence[AudioInput], sampling_rate: int) -> None:
    """Refuses one sampling rate for many recordings where it helps none of them, or contradicts one.

    Raises:
        AudioFormatError: out of range; all sources are encoded; or a mapping says another rate.
    """
    check_rate(sampling_rate, "sampling_rate")
    if sources and not any(map(is_decoded, sources)):
        raise AudioFormatError(
            "sampling_rate", f"is {sampling_rate}, but no item is an array", "Leave it out: encoded audio says it"
        )
    for k, row in enumerate(sources):
        while isinstance(row, Mapping) and _is_row(row):
            row = row["audio"]
        own = row[1] if _is_pair(row) else row.get("sampling_rate") if isinstance(row, Mapping) else None
        if own is not None and is_decoded(row):
            _agreed_rate(own, sampling_rate, f"audio[{k}]")


def _is_pair(source: Any) -> bool:
    """Whether it is samples with their sampling rate; a tuple of two arrays is two recordings."""
    return (
        isinstance(source, tuple)
        and len(source) == 2
        and hasattr(source[0], "__array__")
        and isinstance(source[1], numbers.Real | np.number)
        and not isinstance(source[1], bool)
    )


def _open(path: str | os.PathLike, name: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            problem, remedy = "is a directory", "Pass its files, or use find_audio_files()"
        elif isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):  # ValueError: a null character
            problem, remedy = "does not exist", "Check the path"
        else:
            problem, remedy = f"cannot be opened ({error.strerror})", "Check the path and its permissions"
        raise AudioNotFoundError(name, problem, remedy) from error


def _is_row(source: Mapping[str, Any]) -> bool:
    """Whether it is a row of a data set, whose audio is in one of its columns, rather than that audio."""
    return all(source.get(key) is None for key in ("array", "bytes")) and source.get("audio") is not None


def _load_mapping(row: Mapping[str, Any], sampling_rate: int | None, name: str | None) -> np.ndarray:
    name = name or (str(row["path"]) if row.get("path") else None)
    if _is_row(row):
        return load_audio(row["audio"], sampling_rate, name)
    name = name or "audio row"
    if row.get("array") is not None:
        return load_array(row["array"], _agreed_rate(row.get("sampling_rate"), sampling_rate, name), name)
    for key in ("bytes", "path"):
        if row.get(key) is not None:
            return load_audio(row[key], sampling_rate, name)
    raise AudioFormatError(
        name,
        f"has the keys {sorted(map(str, row))}",
        "A mapping needs 'array' and 'sampling_rate', or 'bytes', 'path' or 'audio'",
    )


def _load_decoder(decoder, sampling_rate: int | None, name: str) -> np.ndarray:
    """Audio of `datasets` 4 and later: a torchcodec ``AudioDecoder``, whose samples have shape (channels, n)."""
    try:
        samples = decoder.get_all_samples()
        data, rate = samples.data, samples.sample_rate
    except Exception as error:  # whatever the decoder raises, the user has to hear which recording it was
        raise AudioDecodeError(name, f"cannot be decoded ({error})", WHOLE) from error
    return load_array(data, _agreed_rate(rate, sampling_rate, name), name)


def _agreed_rate(own: int | None, given: int | None, name: str) -> int | None:
    if own is not None and given is not None and own != given:
        raise AudioFormatError(name, f"says {own} Hz, the argument {given} Hz", "Leave one of them out")
    return given if own is None else own


def _decode(file: BinaryIO, name: str) -> np.ndarray:
    """Read, mix and resample block by block, so that a long file costs only its mono samples at 48 kHz."""
    import soundfile
    import soxr

    account, filled = Account(), 0
    try:
        file, knows_length = inspect_container(file, name)
        with soundfile.SoundFile(file) as sound:
            rate = check_rate(sound.samplerate, name)
            refuse_torn_header(sound, name)
            expected = sound.frames if knows_length and sound.frames < UNKNOWN_FRAMES else 0
            # Only forward: soundfile would seek after each block, which a stream of unknown length does not survive.
            sound.seekable = lambda: False
            # One array of the final size: joining parts in the end would hold the samples twice.
            seconds = min(sound.frames / rate, MAX_RESERVED_SECONDS)
            out = np.empty(math.ceil(seconds * SAMPLING_RATE) + 1, dtype=np.float32)
            resampler = soxr.ResampleStream(rate, SAMPLING_RATE, 1) if rate != SAMPLING_RATE else None
            block_frames = max(BLOCK_SAMPLES // sound.channels, 1)
            while len(block := sound.read(block_frames, dtype="float32", always_2d=True)):
                mono = account.mix(block)
                filled = _append(out, filled, resampler.resample_chunk(mono) if resampler else mono)
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:
        raise AudioDecodeError(name, f"cannot be decoded ({error.error_string.strip().rstrip('.')})", WHOLE) from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise AudioDecodeError(name, f"cannot be decoded ({error})", WHOLE) from error
    if account.frames < expected:
        raise AudioDecodeError(name, f"ends after {account.frames} of {expected} frames", TORN)
    account.check(rate, name)
    if resampler:
        filled = _append(out, filled, resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    out.resize(filled, refcheck=False)
    return out


def _append(out: np.ndarray, filled: int, chunk: np.ndarray) -> int:
    """Write ``chunk`` behind the ``filled`` samples of ``out``, grown in place if it is too short; the new count."""
    end = filled + len(chunk)
    if end > len(out):
        out.resize(end + end // 4, refcheck=False)
    out[filled:end] = chunk
    return end
