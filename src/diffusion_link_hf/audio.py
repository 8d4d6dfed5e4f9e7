"""Audio in: decode, mix to mono, resample to 48 kHz, and cut into ten-second windows."""

import io
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
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
MAX_CHANNELS = 1024
MAX_PEAK = 64.0  # +36 dB over full scale: beyond it, float samples are integers that nobody scaled
BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels: 1 MB of float32
MAX_RESERVED_SECONDS = 3600.0  # of output memory asked for on the word of a header; longer files grow into theirs
UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of a stream that does not say how long it is
AUDIO_EXTENSIONS = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64"}
)

_WHOLE = "Pass wav, flac, ogg, opus or mp3 audio, complete"
_TORN = "The file is truncated: fetch or copy it again"

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
        source: a path; encoded bytes or a binary file, read from its beginning, or from where it is if it cannot seek
            (wav, flac, ogg, opus, mp3, aiff, au, caf, w64); a mapping with ``array`` and ``sampling_rate``, or with
            ``bytes``, ``audio`` (a row of `datasets`) or ``path``; what `datasets` decodes audio to, an object with
            ``get_all_samples()``; or an array or tensor of shape (n,), (channels, n) or (n, channels), whose shorter
            axis is the channels, at most 1,024. Integers of 8 to 32 bits are scaled by their full range, floats are
            taken as they are (full scale is ±1). Sparse and quantised tensors are made dense.
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
    """
    if isinstance(source, Mapping):
        return _load_mapping(source, sampling_rate, name)
    if hasattr(source, "get_all_samples"):
        return _load_decoder(source, sampling_rate, name or "decoded audio")
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return _load_array(source, sampling_rate, name or "audio array")
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
    return hasattr(source, "__array__") or hasattr(source, "get_all_samples")


def check_sampling_rate(sources: Sequence[AudioInput], sampling_rate: int) -> None:
    """Refuses one sampling rate for many recordings where it helps none of them, or contradicts one.

    Raises:
        AudioFormatError: out of range; all sources are encoded; or a mapping says another rate.
    """
    _check_rate(sampling_rate, "sampling_rate")
    if sources and not any(map(is_decoded, sources)):
        raise AudioFormatError(
            "sampling_rate", f"is {sampling_rate}, but no item is an array", "Leave it out: encoded audio says it"
        )
    for k, row in enumerate(sources):
        while isinstance(row, Mapping) and _is_row(row):
            row = row["audio"]
        if isinstance(row, Mapping) and row.get("array") is not None:
            _agreed_rate(row.get("sampling_rate"), sampling_rate, f"audio[{k}]")


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


def find_audio_files(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """The audio files that ``paths`` mean: files as given, directories searched recursively by extension, sorted.

    A file that is named is returned whatever its extension and whether it exists: `load_audio` says what is wrong.

    Raises:
        AudioNotFoundError: a directory holds no audio file, or a path is empty.
    """
    files: list[Path] = []
    for given in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if not os.fspath(given):  # Path("") is the current directory
            raise AudioNotFoundError("empty path", "names nothing", "Name a file or a directory; '.' is this one")
        path = Path(given)
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
        return _load_array(row["array"], _agreed_rate(row.get("sampling_rate"), sampling_rate, name), name)
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
        raise AudioDecodeError(name, f"cannot be decoded ({error})", _WHOLE) from error
    return _load_array(data, _agreed_rate(rate, sampling_rate, name), name)


def _agreed_rate(own: int | None, given: int | None, name: str) -> int | None:
    if own is not None and given is not None and own != given:
        raise AudioFormatError(name, f"says {own} Hz, the argument {given} Hz", "Leave one of them out")
    return given if own is None else own


def _to_numpy(source, name: str) -> np.ndarray:
    """The values of an array or tensor of any kind, on the CPU."""
    try:
        if np.ma.is_masked(source):
            raise AudioContentError(name, "has masked samples", "Fill them, or leave out the recording")
        if hasattr(source, "detach"):  # a torch tensor
            source = source.detach().cpu().resolve_conj().resolve_neg()
            source = source.dequantize() if source.is_quantized else source
            source = source.to_dense() if source.is_sparse or "sparse" in str(source.layout) else source
            source = (source.float() if source.is_floating_point() else source).numpy()  # NumPy has no bfloat16
        return np.asarray(source)
    except AudioContentError:
        raise
    except Exception as error:  # nested, meta, ragged …: what is raised differs by the library
        raise AudioFormatError(name, f"is no array ({error})", "Pass (n,), (channels, n) or (n, channels)") from error


def _load_array(source, sampling_rate: int | None, name: str) -> np.ndarray:
    samples = _to_numpy(source, name)
    if samples.dtype.kind in "OSTU":
        raise AudioFormatError(name, f"has dtype {samples.dtype}", "Pass numbers; or paths, as a list or one by one")
    if sampling_rate is None:
        raise AudioFormatError(name, "has no sampling rate", "Pass sampling_rate=… or {'array': …, 'sampling_rate': …}")
    rate = _check_rate(sampling_rate, name)
    if samples.ndim not in (1, 2):
        raise AudioFormatError(name, f"has shape {samples.shape}", "Pass (n,), (channels, n) or (n, channels)")
    if samples.size == 0:
        raise AudioContentError(
            name, f"holds no samples (shape {samples.shape})", "Leave it out, or check how it was recorded"
        )
    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.shape[0] <= samples.shape[1]:
        samples = samples.T
    if samples.shape[1] > MAX_CHANNELS:
        raise AudioFormatError(name, f"has {samples.shape[1]} channels", f"At most {MAX_CHANNELS} are taken; mix down")
    account = _Account()
    mono = account.mix(_as_float(samples, name))
    account.check(rate, name)
    mono = mono.astype(np.float32)
    if rate == SAMPLING_RATE:
        return mono
    import soxr

    return soxr.resample(mono, rate, SAMPLING_RATE)


def _as_float(samples: np.ndarray, name: str) -> np.ndarray:
    """Integers to ±1 by the full range of their type; floats of at least 32 bits."""
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind == "f":
        return samples if size >= 4 else samples.astype(np.float32)
    if kind in "iu" and size <= 4:
        half = 2.0 ** (8 * size - 1)
        return (samples - (half if kind == "u" else 0.0)) / half
    # Nothing records 64 bits: they are 16-bit values that went through a list, and would come out as silence.
    raise AudioFormatError(
        name, f"has dtype {samples.dtype}", "Pass floats in [-1, 1], or integers of 8, 16 or 32 bits"
    )


def _decode(file: BinaryIO, name: str) -> np.ndarray:
    """Read, mix and resample block by block, so that a long file costs only its mono samples at 48 kHz."""
    import soundfile
    import soxr

    account, filled = _Account(), 0
    try:
        file, knows_length = _inspect(file, name)
        with soundfile.SoundFile(file) as sound:
            rate = _check_rate(sound.samplerate, name)
            _refuse_torn_header(sound, name)
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
        raise AudioDecodeError(name, f"cannot be decoded ({error.error_string.strip().rstrip('.')})", _WHOLE) from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise AudioDecodeError(name, f"cannot be decoded ({error})", _WHOLE) from error
    if account.frames < expected:
        raise AudioDecodeError(name, f"ends after {account.frames} of {expected} frames", _TORN)
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


class _Account:
    """What a recording may be refused for, gathered block by block while it is mixed to mono."""

    def __init__(self):
        self.frames = self.nan = self.infinite = self.first_bad = 0
        self.low, self.high, self.peak = math.inf, -math.inf, 0.0

    def mix(self, block: np.ndarray) -> np.ndarray:
        """(n, channels) float → (n,), the mean of the channels."""
        peak = max(-float(block.min()), float(block.max()))  # NaN if there is one
        if not math.isfinite(peak):
            bad = ~np.isfinite(block)
            self.first_bad = self.first_bad if self.nan or self.infinite else self.frames + int(bad.any(1).argmax())
            nan = int(np.isnan(block).sum())
            self.nan += nan
            self.infinite += int(bad.sum()) - nan
        self.peak = max(self.peak, peak)
        self.frames += len(block)
        mono = block[:, 0]
        if block.shape[1] > 1:
            mono = mono.copy()
            with np.errstate(over="ignore", invalid="ignore"):  # such samples are refused in the end
                for channel in range(1, block.shape[1]):  # 25 times faster than mean(axis=1)
                    mono += block[:, channel]
                mono /= block.shape[1]
        self.low, self.high = min(self.low, float(mono.min())), max(self.high, float(mono.max()))
        return mono

    def check(self, rate: int, name: str) -> None:
        if not self.frames:
            raise AudioContentError(name, "holds no samples", "Leave it out, or check how it was recorded")
        if self.nan or self.infinite:
            counts = [f"{n} {kind}" for n, kind in ((self.nan, "NaN"), (self.infinite, "infinite")) if n]
            raise AudioContentError(
                name,
                f"has {' and '.join(counts)} samples, the first at frame {self.first_bad}",
                "Repair or leave out the recording",
            )
        if self.frames < MIN_SECONDS * rate:
            raise AudioContentError(
                name,
                f"holds {self.frames} samples, {1000 * self.frames / rate:.3g} ms",
                f"At least {1000 * MIN_SECONDS:.0f} ms are needed",
            )
        if self.high == self.low != 0:
            raise AudioContentError(
                name, f"is constant at {self.low:.6g} (DC only)", "Check the recording chain; there is no sound in it"
            )
        if self.peak > MAX_PEAK:
            raise AudioFormatError(
                name, f"peaks at {self.peak:.6g}", "Float samples must be scaled to ±1; divide 16-bit values by 32768"
            )


def _inspect(file: BinaryIO, name: str) -> tuple[BinaryIO, bool]:
    """A seekable file at its beginning, not torn as far as the container tells, and whether its length is known."""
    if isinstance(file, io.TextIOBase):
        raise AudioFormatError(name, "is opened as text", "Open it in mode 'rb'")
    if not (file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek")):
        file = io.BytesIO(file.read())  # a pipe or a response
    size = file.seek(0, os.SEEK_END)
    if not size:
        raise AudioDecodeError(name, "holds 0 bytes", "Pass the whole encoded file")
    file.seek(0)
    head = file.read(4)
    knows_length = True
    if head == b"OggS":
        _refuse_torn_ogg(file, size, name)
    elif head[:3] == b"ID3" or _is_mp3_frame(head):
        knows_length = _refuse_torn_mp3(file, size, name)
    file.seek(0)
    return file, knows_length


def _refuse_torn_header(sound, name: str) -> None:
    """libsndfile shortens a truncated wav, aiff, au, w64 or rf64 without an error, and says so only in its log."""
    torn = re.search(
        r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+)\s*\(should be (\d+)\)", sound.extra_info, re.MULTILINE
    )
    if torn:
        declared, present = (int(number) for number in torn.groups())
        # Recorders that write to a pipe cannot know the length and declare the largest one of 32 bits.
        endless = declared >= 0x7FFF0000 and sound.format not in ("W64", "RF64")
        if present < declared and not endless:
            raise AudioDecodeError(name, f"holds {present} of the {declared} bytes that it declares", _TORN)


def _refuse_torn_ogg(file: BinaryIO, size: int, name: str) -> None:
    """An Ogg file whose last page is cut, or is not marked as the last, decodes without an error up to that point."""
    file.seek(max(0, size - 131_072))  # a page has at most 65,307 bytes
    tail = file.read()
    last = tail.rfind(b"OggS")
    header = tail[last : last + 27]
    whole = last >= 0 and len(header) == 27
    if whole:
        table = tail[last + 27 : last + 27 + header[26]]
        whole = len(table) == header[26] and len(tail) - last >= 27 + len(table) + sum(table) and header[5] & 4
    if not whole:
        raise AudioDecodeError(name, "its last Ogg page is missing or cut", _TORN)


def _is_mp3_frame(header: bytes) -> bool:
    return len(header) >= 2 and header[0] == 0xFF and header[1] & 0xE6 == 0xE2  # sync word and layer III


def _refuse_torn_mp3(file: BinaryIO, size: int, name: str) -> bool:
    """Hold an MP3 against its Xing, Info or VBRI header; whether it has one. Without, its length is an estimate."""
    start = 0
    while True:  # over the ID3v2 tags
        file.seek(start)
        frame = file.read(64)
        if frame[:3] != b"ID3" or len(frame) < 10:
            break
        start += 10 + sum((byte & 0x7F) << shift for byte, shift in zip(frame[6:10], (21, 14, 7, 0), strict=True))
    if not _is_mp3_frame(frame):
        return False
    declared = 0
    at = max(frame.find(b"Xing", 0, 44), frame.find(b"Info", 0, 44))  # behind 9 to 32 bytes of side information
    if at >= 0:
        flags, first, second = (int.from_bytes(frame[at + i : at + i + 4], "big") for i in (4, 8, 12))
        declared = (second if flags & 1 else first) if flags & 2 else 0
        knows_frames = bool(flags & 1)
    else:
        knows_frames = frame[36:40] == b"VBRI"
        declared = int.from_bytes(frame[46:50], "big") if knows_frames else 0
    if size - start < declared:
        raise AudioDecodeError(name, f"holds {size - start} of the {declared} bytes that it declares", _TORN)
    return knows_frames


def _check_rate(rate, name: str) -> int:
    if (
        isinstance(rate, (bool, np.bool_))
        or not isinstance(rate, numbers.Real)
        or not math.isfinite(rate)
        or rate != int(rate)
    ):
        raise AudioFormatError(name, f"has the sampling rate {rate!r}", "Pass a whole number of Hz")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFormatError(
            name, f"has the sampling rate {rate} Hz", f"Use {MIN_RATE} to {MAX_RATE} Hz; is its header right?"
        )
    return int(rate)
