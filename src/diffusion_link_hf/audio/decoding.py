"""Decoding: a recording of any form to mono samples at 48 kHz."""

import io
import numbers
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import AudioContentError, AudioDecodeError, AudioFormatError, AudioNotFoundError
from .blocks import WHOLE, decode_blocks, too_long
from .samples import check_rate, load_array
from .windows import SAMPLING_RATE

AudioInput = str | os.PathLike | bytes | BinaryIO | np.ndarray | tuple[np.ndarray, int] | Mapping[str, Any]


def load_audio(
    source: AudioInput,
    sampling_rate: int | None = None,
    name: str | None = None,
    max_duration: float | None = None,
) -> np.ndarray:
    """Decode one recording to mono at 48 kHz.

    Args:
        source: a path; encoded bytes or a binary file, read from its beginning, or from where it is if it cannot seek
            (wav, flac, ogg, opus, mp3, mp2, aiff, au, caf, w64; with the extra ``media`` also m4a, mp4, mov, webm,
            mkv, aac, wma, amr, avi …); a mapping with ``array`` and ``sampling_rate``, or with ``bytes``, ``audio``
            (a row of `datasets`) or ``path``; what `datasets` decodes audio to, an object with
            ``get_all_samples()``; an array or tensor of shape (n,), (channels, n) or (n, channels), whose shorter
            axis is the channels, at most 1,024; or a tuple (array or tensor, Hz), as `torchaudio.load` returns.
            Integers of 8 to 32 bits are scaled by their full range, floats are taken as they are (full scale is ±1).
            Sparse and quantized tensors are made dense.
        sampling_rate: Hz, 1,000 to 768,000; needed with a bare array, refused with encoded audio, and where the
            samples come with a rate of their own, the same or left out.
        name: how errors call the item, its path by default.
        max_duration: seconds; a longer recording is refused before it takes more memory than that.

    Returns:
        (n,) float32, not clipped. All sound that is in a file: chained and joined files are decoded to their end,
        whatever the first header declares. Constant samples of at most ±1/64 are digital silence and become zeros.

    Raises:
        AudioNotFoundError: the path does not exist, is a directory or a pipe, or cannot be opened.
        AudioDecodeError: empty, truncated or not audio; the decoder's own error is chained. Truncated means that more
            than one codec frame of what the file declares is missing. An MP3 without a Xing, Info or VBRI header and
            an Ogg file that ends with a whole page declare nothing.
        AudioFormatError: sampling rate missing, contradicted or out of range; samples of a wrong shape or type; or a
            container that needs the extra ``media``.
        AudioContentError: no samples, less than 10 ms, NaN, infinite, masked, or constant beyond ±1/64; longer than
            ``max_duration``, or than the memory holds. Silence is valid.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import load_audio
        >>> load_audio(np.random.default_rng(0).uniform(-0.1, 0.1, (2, 44_100)), 44_100).shape
        (48000,)
    """
    out, filled = np.empty(0, np.float32), 0
    try:
        for block in stream_audio(source, sampling_rate, name, max_duration):
            if not filled:
                out = block  # arrays come whole, and are not copied
            else:
                end = filled + len(block)
                if end > len(out):  # grown in place: to join parts in the end would hold the samples twice
                    out = out.copy() if out.base is not None or not out.flags.owndata else out
                    out.resize(end + end // 4, refcheck=False)
                out[filled:end] = block
            filled += len(block)
        if filled != len(out):
            out.resize(filled, refcheck=False)
    except MemoryError as error:
        raise AudioContentError(
            name or _described(source),
            f"does not fit into memory (failed after {filled / SAMPLING_RATE:.0f} s)",
            "Read it with stream_windows(stream_audio(…)), or set max_duration",
        ) from error
    return out


def stream_audio(
    source: AudioInput,
    sampling_rate: int | None = None,
    name: str | None = None,
    max_duration: float | None = None,
) -> Iterator[np.ndarray]:
    """Decode one recording block by block, in memory that does not grow with its length.

    Args:
        source, sampling_rate, name, max_duration: as `load_audio`.

    Yields:
        (n,) float32 mono at 48 kHz, n of any size. Their concatenation is what `load_audio` returns. Samples that come
        as an array are one block.

    Raises:
        AudioError: as `load_audio`, when the first block is asked for if a header shows it, else where it is found.

    Examples:
        >>> import numpy as np
        >>> from diffusion_link_hf import stream_audio
        >>> sum(map(len, stream_audio((np.zeros(88_200), 44_100))))
        96000
    """
    if _is_pair(source):
        source = {"array": source[0], "sampling_rate": source[1]}
        name = name or "audio array"
    if isinstance(source, Mapping):
        yield from _stream_mapping(source, sampling_rate, name, max_duration)
        return
    if hasattr(source, "get_all_samples"):
        yield _limited(_load_decoder(source, sampling_rate, name or "decoded audio"), name, max_duration)
        return
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        yield _limited(load_array(source, sampling_rate, name or "audio array"), name, max_duration)
        return
    if sampling_rate is not None:
        raise AudioFormatError(
            name or _described(source),
            f"got sampling_rate={sampling_rate} beside encoded audio",
            "Leave it out: the file says it",
        )
    name = name or _described(source)
    if isinstance(source, (str, os.PathLike)):
        with _open(source, name) as file:
            yield from decode_blocks(file, name, max_duration)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield from decode_blocks(io.BytesIO(source), name, max_duration)
    elif hasattr(source, "read"):
        yield from decode_blocks(source, name, max_duration)
    else:
        raise AudioFormatError(
            name,
            f"is a {type(source).__name__}",
            "Pass a path, bytes, a binary file, an array or {'array', 'sampling_rate'}",
        )


def _described(source: AudioInput) -> str:
    """How errors call a recording that nobody named."""
    if isinstance(source, (str, os.PathLike)):
        return str(source) or "empty path"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"audio bytes ({len(source)})"
    return str(getattr(source, "name", "audio file object" if hasattr(source, "read") else "audio"))


def _limited(samples: np.ndarray, name: str | None, max_duration: float | None) -> np.ndarray:
    if max_duration is not None and len(samples) > max_duration * SAMPLING_RATE:
        raise too_long(name or "audio array", max_duration)
    return samples


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
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise AudioNotFoundError(name, "is a pipe, socket or device", "Pass a file, or an opened binary stream")
        return open(path, "rb")
    except AudioNotFoundError:
        raise
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


def _stream_mapping(
    row: Mapping[str, Any], sampling_rate: int | None, name: str | None, max_duration: float | None
) -> Iterator[np.ndarray]:
    name = name or (str(row["path"]) if row.get("path") else None)
    if _is_row(row):
        yield from stream_audio(row["audio"], sampling_rate, name, max_duration)
        return
    name = name or "audio row"
    if row.get("array") is not None:
        rate = _agreed_rate(row.get("sampling_rate"), sampling_rate, name)
        yield _limited(load_array(row["array"], rate, name), name, max_duration)
        return
    for key in ("bytes", "path"):
        if row.get(key) is not None:
            yield from stream_audio(row[key], sampling_rate, name, max_duration)
            return
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
