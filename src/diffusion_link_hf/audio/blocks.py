"""A recording decoded block by block to mono at 48 kHz, so that memory does not grow with its length."""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ..errors import AudioContentError, AudioDecodeError, AudioError
from .containers import TORN, Stream, open_streams
from .ffmpeg import ffmpeg_blocks, has_ffmpeg
from .samples import Account, as_float, check_rate
from .torn import CODEC_FRAME, refuse_torn_header
from .windows import SAMPLING_RATE

BLOCK_SAMPLES = 1 << 18  # decoded at a time, over all channels: 1 MB of float32
SALVAGE_FRAMES = 256  # decoded at a time where a block failed: what was read before the error is kept
UNKNOWN_FRAMES = 1 << 62  # libsndfile's length of a stream that does not say how long it is

WHOLE = "Pass wav, flac, ogg, opus or mp3 audio, complete; other formats need the extra 'media'"

Blocks = Iterator[tuple[int, np.ndarray]]


def decode_blocks(file: BinaryIO, name: str, max_duration: float | None = None) -> Iterator[np.ndarray]:
    """Decode, mix and resample.

    Args:
        file: binary, read from its beginning, or from where it is if it cannot seek.
        name: how errors call it.
        max_duration: seconds, after which it is refused.

    Yields:
        (n,) float32 mono at 48 kHz. The blocks' lengths vary.

    Raises:
        AudioError: as `load_audio`. What a container shows is found before the first block, the rest where it is.
    """
    import soundfile

    account = Account()
    try:
        yield from _resample(_all_blocks(file, name), account, name, max_duration)
    except AudioError:
        raise
    except soundfile.LibsndfileError as error:
        raise AudioDecodeError(name, f"cannot be decoded ({error.error_string.strip().rstrip('.')})", WHOLE) from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise AudioDecodeError(name, f"cannot be decoded ({error})", WHOLE) from error


def _all_blocks(file: BinaryIO, name: str) -> Blocks:
    for stream in open_streams(file, name):
        if stream.native or (stream.native is None and (_libsndfile_opens(stream) or not has_ffmpeg())):
            yield from _libsndfile_blocks(stream, name)
        else:
            yield from ffmpeg_blocks(stream.file, name, stream.kind)


def _libsndfile_opens(stream: Stream) -> bool:
    import soundfile

    try:
        with soundfile.SoundFile(stream.file):
            return True
    except soundfile.LibsndfileError:
        return False
    finally:
        stream.file.seek(0)


def _libsndfile_blocks(stream: Stream, name: str) -> Blocks:
    import soundfile

    done, expected = 0, None
    for salvaging in (False, True):
        stream.file.seek(0)
        try:
            with soundfile.SoundFile(stream.file) as sound:
                rate = check_rate(sound.samplerate, name)
                refuse_torn_header(sound, name)
                expected = stream.frames
                if expected is None and sound.frames < UNKNOWN_FRAMES:
                    expected = sound.frames
                # Only forward: to seek after each block, as soundfile does, breaks streams of unknown length.
                sound.seekable = lambda: False
                size = max(BLOCK_SAMPLES // sound.channels, 1)
                skipped = 0
                while salvaging and skipped < done:
                    skipped += len(sound.read(min(size, done - skipped), dtype="float32", always_2d=True))
                size = SALVAGE_FRAMES if salvaging else size
                while len(block := sound.read(size, dtype="float32", always_2d=True)):
                    done += len(block)
                    yield rate, block
                break
        except soundfile.LibsndfileError:
            if salvaging and expected is not None and done >= expected - CODEC_FRAME:
                break  # behind the last declared frame, an error is no loss
            if salvaging or (expected is None and not done):
                raise
    if expected is not None and done < expected - CODEC_FRAME:
        raise AudioDecodeError(name, f"ends after {done} of {expected} frames", TORN)


def too_long(name: str, max_duration: float) -> AudioContentError:
    """The error for a recording beyond the caller's limit."""
    return AudioContentError(name, f"is longer than {max_duration:g} s", "Raise max_duration, or cut it")


def _resample(blocks: Blocks, account: Account, name: str, max_duration: float | None) -> Iterator[np.ndarray]:
    import soxr

    rate, resampler, seconds = SAMPLING_RATE, None, 0.0
    for own_rate, block in blocks:
        if own_rate != rate:
            if resampler:
                yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            rate = check_rate(own_rate, name)
            resampler = soxr.ResampleStream(rate, SAMPLING_RATE, 1) if rate != SAMPLING_RATE else None
        mono = account.mix(as_float(block, name)).astype(np.float32, copy=False)
        seconds += len(mono) / rate
        if max_duration is not None and seconds > max_duration:
            raise too_long(name, max_duration)
        if account.usable:  # else what is wrong is said in the end, of the whole recording
            yield resampler.resample_chunk(mono) if resampler else mono
    account.check(rate, name)
    if resampler:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
