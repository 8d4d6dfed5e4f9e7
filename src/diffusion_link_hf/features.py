"""The log-mel front end of CLAP in torch: batched, deterministic, on any device."""

import torch
from torch import nn

from .errors import InputError

FRONT_END_VERSION = 1  # part of an embedding cache's identity: raise it when the numbers change
MEL_FLOOR = 1e-10  # power below which a mel band counts as silent: -100 dB
# A band this far below the energy of its own frame (power, per filter weight) is where float32's FFT rounding shows
# above 1e-3 dB: such frames, some tenth or third of them in real recordings, are done again in float64.
FLOAT32_RANGE = 1e-8


class ClapLogMel(nn.Module):
    """Log-mel spectrogram as `transformers.ClapFeatureExtractor` computes it, without its random cropping.

    Power spectrogram of Hann-windowed frames (periodic, centred, reflect-padded), mel filter bank, then
    ``10·log10(max(power, 1e-10))``. Frames are views of the padded signal, and only the frequency bins that some mel
    filter uses are kept, which is what makes it several times faster than the extractor. Computed in float32, frames of
    extreme dynamic range in float64, whatever the model's dtype.

    Args:
        sampling_rate: Hz.
        n_fft: samples in a frame.
        hop_length: samples between frames.
        num_mel_bins: mel bands.
        frequency_min, frequency_max: Hz, ends of the filter bank.
        mel_scale: ``"slaney"`` with area normalisation (unfused checkpoints, ``truncation="rand_trunc"``) or ``"htk"``
            without (fused checkpoints, ``truncation="fusion"``).
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
        for name in ("mel_filters", "window"):
            buffer = getattr(self, name)
            setattr(self, name, buffer.to(fn(buffer.to(torch.float32)).device) if buffer is not None else None)
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
        # Under autocast the mel product would be rounded to 16 bits, a tenth of a decibel.
        with torch.autocast(waveforms.device.type, enabled=False):
            # One clip at a time: its frames stay in the processor's cache, twice as fast as a whole batch of them.
            return torch.stack([self._mel_power(waveform) for waveform in waveforms.to(torch.float32)])

    def _mel_power(self, waveform: torch.Tensor) -> torch.Tensor:
        half = self.n_fft // 2
        padded = nn.functional.pad(waveform[None], (half, half), mode="reflect")[0]
        frames = padded.unfold(0, self.n_fft, self.hop_length)  # (T, n_fft), a view
        power = self._filtered(frames * self.window.to(frames.dtype))
        energy = frames.square().sum(-1, keepdim=True) * self.n_fft
        faint = (power.clamp_min(MEL_FLOOR) < FLOAT32_RANGE * energy * self.mel_filters.sum(0).to(power.dtype)).any(-1)
        if faint.any():
            power[faint] = self._filtered(frames[faint].double() * self.window).to(power.dtype)
        return power

    def _filtered(self, frames: torch.Tensor) -> torch.Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(frames)[..., : self.mel_filters.shape[0]])
        return spectrum.square().sum(-1) @ self.mel_filters.to(frames.dtype)  # (T, mel)

    def to_decibel(self, power: torch.Tensor) -> torch.Tensor:
        """``10·log10(max(power, 1e-10))``: dB relative to full scale, at least -100."""
        return 10.0 * power.clamp_min(MEL_FLOOR).log10()

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, n) float waveforms in [-1, 1] → (B, 1, n // hop_length + 1, num_mel_bins) log-mel in dB.

        Ten-second windows (n = 480,000) give the 1001 × 64 frames that HTSAT takes.
        """
        return self.to_decibel(self.mel_power(waveforms))[:, None]
