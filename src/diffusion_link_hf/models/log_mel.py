"""The log-mel front end of CLAP in torch: batched, deterministic, on any device."""

import torch
from torch import nn

from ..errors import InputError

FRONT_END_VERSION = 1  # part of an embedding cache's identity: raise it when the numbers change
MEL_FLOOR = 1e-10  # power below which a mel band counts as silent: -100 dB
# A band this far below the energy of its own windowed frame (mean power of its bins, weighted by the filter) is where
# float32's FFT rounding shows near 1e-3 dB: such frames, some twentieth of them in real recordings, are done again in
# float64. Wide bands average the rounding of their bins, which is why their weighted mean is what counts.
FLOAT32_RANGE = 3e-8
FRAMES_AT_A_TIME = 256  # 1 MB of float32, of float64 half as many: in the processor's cache from window to bins
BAND_GROUPS = 4  # groups of neighboring bands, each multiplied with its own bins only: a quarter of the product
CLIPS_AT_A_TIME = 16  # on a GPU: 131 MB of float64 frames


class ClapLogMel(nn.Module):
    """Log-mel spectrogram as `transformers.ClapFeatureExtractor` computes it, without its random cropping.

    Power spectrogram of Hann-windowed frames (periodic, centered, reflect-padded), mel filter bank, then
    ``10·log10(max(power, 1e-10))``. Frames are views of the padded signal, and only the frequency bins that some mel
    filter uses are kept, which is what makes it several times faster than the extractor. Whatever the model's dtype,
    the spectrum is computed in float32, frames of extreme dynamic range in float64; on a GPU, where looking for those
    frames would cost more than it saves, and wherever a gradient is wanted, all are.

    Args:
        sampling_rate: Hz.
        n_fft: samples in a frame.
        hop_length: samples between frames.
        num_mel_bins: mel bands.
        frequency_min, frequency_max: Hz, ends of the filter bank.
        mel_scale: ``"slaney"`` with area normalization (unfused checkpoints, ``truncation="rand_trunc"``) or ``"htk"``
            without (fused checkpoints, ``truncation="fusion"``).

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import ClapLogMel
        >>> ClapLogMel()(torch.zeros(2, 480_000)).shape
        torch.Size([2, 1, 1001, 64])
    """

    def __init__(
        self,
        sampling_rate: int = 48_000,
        n_fft: int = 1024,
        hop_length: int = 480,
        num_mel_bins: int = 64,
        frequency_min: float = 50.0,
        frequency_max: float = 14_000.0,
        mel_scale: str = "slaney",
    ):
        super().__init__()
        if mel_scale not in ("slaney", "htk"):
            raise InputError("mel_scale", f"is {mel_scale!r}", "Use 'slaney' (unfused CLAP) or 'htk' (fused CLAP)")
        from transformers.audio_utils import mel_filter_bank

        self.sampling_rate, self.n_fft, self.hop_length = sampling_rate, n_fft, hop_length
        self.num_mel_bins, self.mel_scale = num_mel_bins, mel_scale
        self.frequency_min, self.frequency_max = frequency_min, frequency_max
        filters = torch.from_numpy(
            mel_filter_bank(
                num_frequency_bins=n_fft // 2 + 1,
                num_mel_filters=num_mel_bins,
                min_frequency=frequency_min,
                max_frequency=frequency_max,
                sampling_rate=sampling_rate,
                norm="slaney" if mel_scale == "slaney" else None,
                mel_scale=mel_scale,
            )
        )
        used = int(filters.any(dim=1).nonzero().max()) + 1
        # Constants, so kept out of the state dict; float64 so that float64 input keeps its precision.
        self.register_buffer("mel_filters", filters[:used].contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft, periodic=True, dtype=torch.float64), persistent=False)
        # Mean filter weight by band, weighted by itself; an empty filter, as a narrow one between two bins, is silent.
        weight = self.mel_filters.square().sum(0) / self.mel_filters.sum(0).clamp_min(MEL_FLOOR)
        self.register_buffer("_faint", (weight * n_fft * FLOAT32_RANGE).float(), persistent=False)
        self._bins = []
        for k, bands in enumerate(self.mel_filters.float().chunk(BAND_GROUPS, dim=1)):
            rows = bands.any(dim=1).nonzero()
            first, last = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 1)
            self._bins.append(slice(first, last))
            self.register_buffer(f"_bands_{k}", bands[first:last].contiguous(), persistent=False)

    @classmethod
    def from_feature_extractor(cls, extractor) -> "ClapLogMel":
        """The front end equal to a `ClapFeatureExtractor`, whose ``truncation`` decides the filter bank."""
        return cls(
            sampling_rate=extractor.sampling_rate,
            n_fft=extractor.fft_window_size,
            hop_length=extractor.hop_length,
            num_mel_bins=extractor.feature_size,
            frequency_min=extractor.frequency_min,
            frequency_max=extractor.frequency_max,
            mel_scale="htk" if extractor.truncation == "fusion" else "slaney",
        )

    def _apply(self, fn, recurse=True):
        # Half-precision models keep an exact front end: follow the device of `fn`, never its dtype.
        for name, buffer in self._buffers.items():
            self._buffers[name] = buffer.to(fn(buffer.to(torch.float32)).device)
        return self

    def mel_power(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Mel-band power. (B, n) float → (B, n // hop_length + 1, num_mel_bins), linear, not floored.

        Raises:
            InputError: not two-dimensional, not floating point, or too short to be reflect-padded (n ≤ n_fft / 2).
        """
        if waveforms.ndim != 2 or not waveforms.is_floating_point():
            raise InputError(
                "waveforms",
                f"has shape {tuple(waveforms.shape)} and dtype {waveforms.dtype}",
                "Pass floats of shape (B, n)",
            )
        if waveforms.shape[1] <= self.n_fft // 2:
            raise InputError(
                "waveforms",
                f"has {waveforms.shape[1]} samples, a frame needs more than {self.n_fft // 2}",
                "Repeat-pad short audio first (diffusion_link_hf.split_windows)",
            )
        waveforms = waveforms.to(torch.float32)
        # Under autocast the mel product would be rounded to 16 bits, a tenth of a decibel.
        with torch.autocast(waveforms.device.type, enabled=False):
            if waveforms.device.type == "cuda" or (waveforms.requires_grad and torch.is_grad_enabled()):
                return torch.cat([self._in_float64(self._frames(part)) for part in waveforms.split(CLIPS_AT_A_TIME)])
            return self._power(waveforms)

    def _frames(self, waveforms: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """(…, n) → (…, T, n_fft), a view of the reflect-padded signal, which is written to ``out`` (…, n + n_fft)."""
        half = self.n_fft // 2
        before, after = waveforms[..., 1 : half + 1].flip(-1), waveforms[..., -half - 1 : -1].flip(-1)
        return torch.cat([before, waveforms, after], dim=-1, out=out).unfold(-1, self.n_fft, self.hop_length)

    def _power(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, n) → (B, T, num_mel_bins), in float32 where that is exact enough.

        All clips go through the same memory: new pages cost more than the windows. Framing and the FFTs take a clip in
        parts that fit a cache, all else takes it whole, as a call costs as much as the work on few frames. No clip sees
        another: its bits do not depend on its batch.
        """
        padded = waveforms.new_empty(waveforms.shape[1] + self.n_fft // 2 * 2)
        count = (len(padded) - self.n_fft) // self.hop_length + 1
        power = waveforms.new_empty(len(waveforms), count, self.num_mel_bins)
        memory = waveforms.new_empty(FRAMES_AT_A_TIME, self.n_fft)
        bins = waveforms.new_empty(count, len(self.mel_filters))
        norms = waveforms.new_empty(count)
        window = self.window.float()
        groups = [(bins[:, used], self.get_buffer(f"_bands_{k}")) for k, used in enumerate(self._bins)]
        for waveform, clip in zip(waveforms, power, strict=True):
            frames = self._frames(waveform, out=padded)
            parts = (each.split(FRAMES_AT_A_TIME) for each in (frames, bins, norms))
            for some, their_bins, their_norms in zip(*parts, strict=True):
                windowed = torch.mul(some, window, out=memory[: len(some)])
                self._bin_power(windowed, out=their_bins)
                torch.linalg.vector_norm(windowed, dim=-1, out=their_norms)
            for (used, bands), out in zip(groups, clip.chunk(BAND_GROUPS, dim=1), strict=True):
                torch.mm(used, bands, out=out)
            self._redo_faint(frames, clip, norms.square())
        return power

    def _redo_faint(self, frames: torch.Tensor, power: torch.Tensor, energy: torch.Tensor) -> None:
        """Frames (T, n_fft) for which float32 is not exact enough: their ``power`` (T, num_mel_bins) from float64."""
        faint = (power.clamp_min(MEL_FLOOR).div_(self._faint).amin(-1) < energy).nonzero()[:, 0]
        if len(faint):
            for some in faint.split(FRAMES_AT_A_TIME // 2):
                power[some] = self._in_float64(frames.index_select(0, some))

    def _in_float64(self, frames: torch.Tensor) -> torch.Tensor:
        """(…, T, n_fft) → (…, T, num_mel_bins), without a look at the values: nothing waits for the device."""
        return self._bin_power(frames.double().mul_(self.window)) @ self.mel_filters.float()

    def _bin_power(self, windowed: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """(…, n_fft) of either precision → power of the bins that some filter uses, float32."""
        parts = torch.view_as_real(torch.fft.rfft(windowed))[..., : len(self.mel_filters), :].float().square_()
        return torch.add(parts[..., 0], parts[..., 1], out=out)

    def to_decibel(self, power: torch.Tensor) -> torch.Tensor:
        """``10·log10(max(power, 1e-10))``: dB relative to full scale, at least -100."""
        return _decibel_(power.clone())

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, n) float waveforms in [-1, 1] → (B, 1, n // hop_length + 1, num_mel_bins) log-mel in dB.

        Ten-second windows (n = 480,000) give the 1001 × 64 frames that HTSAT takes.
        """
        return _decibel_(self.mel_power(waveforms))[:, None]


def _decibel_(power: torch.Tensor) -> torch.Tensor:
    """In place, as a batch's spectrogram is megabytes."""
    return power.clamp_min_(MEL_FLOOR).log10_().mul_(10.0)
