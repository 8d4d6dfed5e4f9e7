"""Arrays and tensors of any kind as mono samples at 48 kHz, and what samples may be refused for."""

import math
import numbers

import numpy as np

from ..errors import AudioContentError, AudioFormatError
from .windows import SAMPLING_RATE

MIN_SECONDS = 0.01  # one hop of the spectrogram; less holds no sound that could be described
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 1024
QUIET_DC = 1 / 64  # a constant up to it is digital silence: A-law's, 127 of 8 bits, -1 of 16
MAX_PEAK = 64.0  # +36 dB over full scale: beyond it, float samples are integers that nobody scaled


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


def load_array(source, sampling_rate: int | None, name: str) -> np.ndarray:
    samples = _to_numpy(source, name)
    if samples.dtype.kind in "OSTU":
        raise AudioFormatError(name, f"has dtype {samples.dtype}", "Pass numbers; or paths, as a list or one by one")
    if sampling_rate is None:
        raise AudioFormatError(name, "has no sampling rate", "Pass sampling_rate=… or {'array': …, 'sampling_rate': …}")
    rate = check_rate(sampling_rate, name)
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
    account = Account()
    mono = account.mix(as_float(samples, name))
    account.check(rate, name)
    mono = mono.astype(np.float32)
    if rate == SAMPLING_RATE:
        return mono
    import soxr

    return soxr.resample(mono, rate, SAMPLING_RATE)


def as_float(samples: np.ndarray, name: str) -> np.ndarray:
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


class Account:
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
        low, high = float(mono.min()), float(mono.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low == high and abs(low) <= QUIET_DC:
            return np.zeros_like(mono)
        return mono

    @property
    def usable(self) -> bool:
        """Whether nothing has been found so far that samples are refused for."""
        return not (self.nan or self.infinite) and self.peak <= MAX_PEAK

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
        if self.high == self.low and abs(self.low) > QUIET_DC:
            raise AudioContentError(
                name, f"is constant at {self.low:.6g} (DC only)", "Check the recording chain; there is no sound in it"
            )
        if self.peak > MAX_PEAK:
            raise AudioFormatError(
                name, f"peaks at {self.peak:.6g}", "Float samples must be scaled to ±1; divide 16-bit values by 32768"
            )


def check_rate(rate, name: str) -> int:
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
