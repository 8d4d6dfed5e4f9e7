"""Audio in: decode, mix to mono, resample to 48 kHz, and cut into ten-second windows."""

import io
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .errors import AudioContentError, AudioDecodeError, AudioError, AudioFormatError, AudioNotFoundError

SAMPLING_RATE = 48_000  # Hz, what CLAP was trained at
WINDOW_SECONDS = 10.0
WINDOW_SAMPLES = 480_000
MIN_SECONDS = 0.01  # one hop of the spectrogram; less holds no sound that could be described
MIN_TAIL_SECONDS = 1.0  # a remainder shorter than this after a full window gets no window of its own
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_PEAK = 64.0  # +36 dB over full scale: beyond it, float samples are integers that nobody scaled
BLOCK_FRAMES = 1 << 18
AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
)

AudioInput = str | os.PathLike | bytes | BinaryIO | np.ndarray | Mapping[str, Any]


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


def load_audio(source: AudioInput, sampling_rate: int | None = None, name: str | None = None) -> np.ndarray:
    """Decode one recording to mono at 48 kHz.

    Args:
        source: a path; encoded bytes or a binary file (wav, flac, ogg, opus, mp3, aiff, au, caf, w64); a mapping with
            ``array`` and ``sampling_rate``, or with ``bytes`` or ``path`` (a row of `datasets`); or an array or tensor
            of shape (n,), (channels, n) or (n, channels), whose shorter axis is the channels. Integer samples are
            scaled by their full range, float samples are taken as they are (full scale is ±1).
        sampling_rate: Hz, 1,000 to 768,000; needed with a bare array and refused with anything else.
        name: how errors call the item, its path by default.

    Returns:
        (n,) float32, not clipped.

    Raises:
        AudioNotFoundError: the path does not exist or is a directory.
        AudioDecodeError: empty, truncated or not audio; the decoder's own error is chained.
        AudioFormatError: sampling rate missing or out of range, or samples of a wrong shape or type.
        AudioContentError: no samples, less than 10 ms, NaN, infinite, or constant and not zero. Silence is valid.
    """
    if isinstance(source, Mapping):
        return _load_mapping(source, sampling_rate, name)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return _load_array(source, sampling_rate, name or "audio array")
    if sampling_rate is not None:
        raise AudioFormatError(
            name or _describe(source),
            f"got sampling_rate={sampling_rate} beside encoded audio",
            "Leave it out: the file says it",
        )
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = name or f"audio bytes ({len(source)})"
        if not len(source):
            raise AudioDecodeError(name, "holds 0 bytes", "Pass the whole encoded file")
        return _decode(io.BytesIO(source), name)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        name = name or str(path)
        if path.is_dir():
            raise AudioNotFoundError(name, "is a directory", "Pass its files, or use find_audio_files()")
        if not path.is_file():
            raise AudioNotFoundError(name, "does not exist", "Check the path")
        try:
            with open(path, "rb") as file:
                return _decode(file, name)
        except PermissionError as error:
            raise AudioNotFoundError(name, "cannot be read", "Check its permissions") from error
    if hasattr(source, "read") and hasattr(source, "seek"):
        return _decode(source, name or str(getattr(source, "name", "audio file object")))
    raise AudioFormatError(
        name or "audio",
        f"is a {type(source).__name__}",
        "Pass a path, bytes, a binary file, an array or {'array', 'sampling_rate'}",
    )


def split_windows(samples: np.ndarray) -> list[AudioWindow]:
    """Cut a recording into the ten-second windows that CLAP takes, the same way every time.

    Windows start at 0, 10, 20 … seconds. The last, shorter one is repeat-padded as CLAP was trained: whole copies
    one after the other, then zeros. After a full window, a remainder shorter than 1 s is left out: files cut to
    ten seconds by a codec end with such crumbs.

    Args:
        samples: (n,) float32 mono at 48 kHz, n ≥ 1, as `load_audio` returns.
    """
    if samples.ndim != 1 or not len(samples):
        raise AudioContentError("audio array", f"has shape {samples.shape}", "Pass mono samples of shape (n,), n ≥ 1")
    windows = []
    for first in range(0, len(samples), WINDOW_SAMPLES):
        piece = samples[first : first + WINDOW_SAMPLES]
        if first and len(piece) < MIN_TAIL_SECONDS * SAMPLING_RATE:
            break
        start = first / SAMPLING_RATE
        windows.append(AudioWindow(start, start + len(piece) / SAMPLING_RATE, _repeat_pad(piece)))
    return windows


def find_audio_files(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """The audio files that ``paths`` mean: files as given, directories searched recursively by extension, sorted.

    Raises:
        AudioNotFoundError: a directory holds no audio file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_EXTENSIONS and p.is_file())
        if not found:
            raise AudioNotFoundError(
                path, "holds no audio file", f"Looked, in all its folders, for {' '.join(sorted(AUDIO_EXTENSIONS))}"
            )
        files += found
    return files


def _repeat_pad(piece: np.ndarray) -> np.ndarray:
    if len(piece) == WINDOW_SAMPLES:
        return np.ascontiguousarray(piece, dtype=np.float32)
    out = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
    copies = WINDOW_SAMPLES // len(piece)
    out[: copies * len(piece)].reshape(copies, len(piece))[:] = piece
    return out


def _describe(source) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else f"audio {type(source).__name__}"


def _load_mapping(row: Mapping[str, Any], sampling_rate: int | None, name: str | None) -> np.ndarray:
    name = name or (str(row["path"]) if row.get("path") else "audio row")
    if row.get("array") is not None:
        array = row["array"]
        if not hasattr(array, "__array__"):
            array = np.asarray(array)
        return _load_array(array, row.get("sampling_rate", sampling_rate), name)
    if row.get("bytes") is not None:
        return load_audio(row["bytes"], name=name)
    if row.get("path") is not None:
        return load_audio(row["path"], name=name)
    raise AudioFormatError(
        name,
        f"has the keys {sorted(map(str, row))}",
        "A mapping needs 'array' and 'sampling_rate', or 'bytes', or 'path'",
    )


def _load_array(source, sampling_rate: int | None, name: str) -> np.ndarray:
    if hasattr(source, "detach"):  # a torch tensor
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    samples = np.asarray(source)
    if sampling_rate is None:
        raise AudioFormatError(name, "has no sampling rate", "Pass sampling_rate=… or {'array': …, 'sampling_rate': …}")
    rate = _check_rate(sampling_rate, name)
    if samples.ndim not in (1, 2):
        raise AudioFormatError(name, f"has shape {samples.shape}", "Pass (n,), (channels, n) or (n, channels)")
    if samples.size == 0:
        raise AudioContentError(
            name, f"holds no samples (shape {samples.shape})", "Leave it out, or check how it was recorded"
        )
    if samples.dtype.kind in "iu":
        info = np.iinfo(samples.dtype)
        middle = 0 if info.min < 0 else (info.max + 1) / 2
        samples = ((samples - np.float64(middle)) / (info.max - middle + 1)).astype(np.float32)
    elif samples.dtype.kind != "f":
        raise AudioFormatError(name, f"has dtype {samples.dtype}", "Pass floats in [-1, 1] or integers")
    if samples.ndim == 2:
        _check_finite(samples, name)  # before the mean, so that the message counts the true samples
        samples = samples.mean(axis=0 if samples.shape[0] <= samples.shape[1] else 1)
    samples = samples.astype(np.float32)
    _check_content(samples, rate, name)
    if rate == SAMPLING_RATE:
        return samples
    import soxr

    return soxr.resample(samples, rate, SAMPLING_RATE)


def _decode(file: BinaryIO, name: str) -> np.ndarray:
    """Read, mix and resample block by block, so that a long file costs only its mono samples at 48 kHz."""
    import soundfile
    import soxr

    try:
        _refuse_torn_ogg(file, name)
        with soundfile.SoundFile(file) as sound:
            rate = _check_rate(sound.samplerate, name)
            _refuse_torn_header(sound, name)
            if sound.frames == 0:
                raise AudioContentError(name, "holds no samples", "Leave it out, or check how it was recorded")
            resampler = soxr.ResampleStream(rate, SAMPLING_RATE, 1) if rate != SAMPLING_RATE else None
            parts, frames, low, high = [], 0, math.inf, -math.inf
            while True:
                block = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
                if not len(block):
                    break
                _check_finite(block, name, frames)
                mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
                frames += len(mono)
                low, high = min(low, float(mono.min())), max(high, float(mono.max()))
                parts.append(resampler.resample_chunk(mono) if resampler else mono)
            expected = sound.frames
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:
        raise AudioDecodeError(
            name,
            f"cannot be decoded ({error.error_string.strip().rstrip('.')})",
            "Pass wav, flac, ogg, opus or mp3 audio, complete",
        ) from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise AudioDecodeError(
            name, f"cannot be decoded ({error})", "Pass wav, flac, ogg, opus or mp3 audio, complete"
        ) from error
    # libsndfile's length of an MP3 without an index is an estimate; every other format knows it.
    if frames < expected and not (sound.format == "MP3" and frames > 0.9 * expected):
        raise AudioDecodeError(
            name, f"ends after {frames} of {expected} frames", "The file is truncated: fetch or copy it again"
        )
    _check_range(low, high, frames, rate, name)
    if resampler:
        parts.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _refuse_torn_header(sound, name: str) -> None:
    """libsndfile shortens a truncated wav or aiff without an error, and says so only in its log."""
    torn = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+)\s*\(should be (\d+)\)", sound.extra_info, re.MULTILINE)
    if torn:
        declared, present = (int(number) for number in torn.groups())
        # Recorders that write to a pipe cannot know the length and declare the largest one.
        if present < declared < 0x7FFF0000:
            raise AudioDecodeError(
                name,
                f"holds {present} of the {declared} bytes of sound that it declares",
                "The file is truncated: fetch or copy it again",
            )


def _refuse_torn_ogg(file: BinaryIO, name: str) -> None:
    """An Ogg file whose last page is cut, or is not marked as the last, decodes without an error up to that point."""
    file.seek(0)
    is_ogg = file.read(4) == b"OggS"
    if is_ogg:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 131_072))
        tail = file.read()
        last = tail.rfind(b"OggS")
        header = tail[last : last + 27]
        whole = last >= 0 and len(header) == 27
        if whole:
            table = tail[last + 27 : last + 27 + header[26]]
            whole = len(table) == header[26] and len(tail) - last >= 27 + len(table) + sum(table) and header[5] & 4
        if not whole:
            raise AudioDecodeError(
                name, "its last Ogg page is missing or cut", "The file is truncated: fetch or copy it again"
            )
    file.seek(0)


def _check_rate(rate, name: str) -> int:
    if (
        isinstance(rate, bool)
        or not isinstance(rate, (int, float, np.integer, np.floating))
        or rate != rate
        or rate != int(rate)
    ):
        raise AudioFormatError(name, f"has the sampling rate {rate!r}", "Pass a whole number of Hz")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFormatError(
            name, f"has the sampling rate {rate} Hz", f"Use {MIN_RATE} to {MAX_RATE} Hz; is its header right?"
        )
    return int(rate)


def _check_finite(samples: np.ndarray, name: str, offset: int = 0) -> None:
    bad = ~np.isfinite(samples)
    if bad.any():
        row = int(np.argwhere(bad)[0][0 if samples.ndim == 1 or samples.shape[0] > samples.shape[1] else 1])
        kind = "NaN" if np.isnan(samples[bad]).any() else "infinite"
        raise AudioContentError(
            name,
            f"has {int(bad.sum())} {kind} samples, the first at frame {offset + row}",
            "Repair or leave out the recording",
        )


def _check_content(samples: np.ndarray, rate: int, name: str) -> None:
    _check_finite(samples, name)
    _check_range(float(samples.min()), float(samples.max()), len(samples), rate, name)


def _check_range(low: float, high: float, frames: int, rate: int, name: str) -> None:
    if frames < MIN_SECONDS * rate:
        raise AudioContentError(
            name,
            f"holds {frames} samples, {1000 * frames / rate:.3g} ms",
            f"At least {1000 * MIN_SECONDS:.0f} ms are needed",
        )
    if high == low != 0:
        raise AudioContentError(
            name, f"is constant at {low:.6g} (DC only)", "Check the recording chain; there is no sound in it"
        )
    if max(-low, high) > MAX_PEAK:
        raise AudioFormatError(
            name, f"peaks at {max(-low, high):.6g}", "Float samples must be scaled to ±1; divide 16-bit values by 32768"
        )
