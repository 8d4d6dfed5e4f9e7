"""aiSFX's convolutional network for sound effects: its log-mel front end, and features of every 186 ms."""

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError

SFX_SAMPLING_RATE = 44_100  # Hz, what the network was trained at
N_FFT, HOP_LENGTH = 2048, 1024  # samples
NUM_MEL_BINS = 96
CHANNELS = (64, 128, 256, 512)
NUM_FEATURES = CHANNELS[-1]
FRAMES_PER_STEP = 8  # spectrogram frames of one step of the features: three poolings by two
STEP_SAMPLES = FRAMES_PER_STEP * HOP_LENGTH
STEP_SECONDS = STEP_SAMPLES / SFX_SAMPLING_RATE
LOG_SCALE = 10_000.0
LARGEST_VALUE = 9.457798957824707  # of log10(1 + 10000 power) over the data that the network was trained on


class SfxLogMel(nn.Module):
    """Log-mel spectrogram of peak-normalized sound, as aiSFX's network was trained on.

    Power of Hann-windowed frames (periodic, centered, zero-padded), averaged by bands of HTK's mel scale, then
    ``log10(1 + 10000 power)`` divided by its largest value in training. Each row is divided by its own peak, so a row
    depends neither on its level nor on its batch. The filters stay in float32 whatever the model's dtype.

    Args:
        band_limit: Hz; bands centered above it are set to zero, as in sound that was recorded at a lower sampling
            rate. None keeps all, as the aisfx package does.

    Raises:
        InputError: a band limit that is not positive.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.models.sfx_network import SfxLogMel
        >>> SfxLogMel()(torch.zeros(2, 441_000)).shape
        torch.Size([2, 431, 96])
    """

    sampling_rate, n_fft, hop_length = SFX_SAMPLING_RATE, N_FFT, HOP_LENGTH
    num_mel_bins, mel_scale, frequency_min = NUM_MEL_BINS, "htk", 0.0

    def __init__(self, band_limit: float | None = None):
        super().__init__()
        if band_limit is not None and not band_limit > 0:
            raise InputError("band_limit", f"is {band_limit!r}", "Use Hz above 0, or None to keep all bands")
        self.frequency_max = SFX_SAMPLING_RATE / 2 if band_limit is None else float(band_limit)
        filters, centers = _mel_filters()
        filters[:, centers > self.frequency_max] = 0
        # Constants, so kept out of the state dict.
        self.register_buffer("filters", filters.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT, periodic=True), persistent=False)

    def _apply(self, fn, recurse=True):
        for name, buffer in self._buffers.items():
            self._buffers[name] = buffer.to(fn(buffer).device)
        return self

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, n) floats at 44.1 kHz → (B, 1 + n // 1024, 96) float32, mostly between 0 and 1; silence is 0.

        Raises:
            InputError: not two-dimensional, or not floating point.
        """
        if waveforms.ndim != 2 or not waveforms.is_floating_point():
            raise InputError(
                "waveforms",
                f"has shape {tuple(waveforms.shape)} and dtype {waveforms.dtype}",
                "Pass floats of shape (B, n)",
            )
        waveforms = waveforms.float()
        peak = waveforms.abs().amax(1, keepdim=True)
        scaled = waveforms / torch.where(peak > 0, peak, 1.0)
        # Under autocast the mel product would be rounded to 16 bits.
        with torch.autocast(waveforms.device.type, enabled=False):
            return torch.stack([self._spectrogram(row) for row in scaled])  # one by one: bits of a row are its own

    def _spectrogram(self, waveform: torch.Tensor) -> torch.Tensor:
        """(n,) → (1 + n // 1024, 96)."""
        frames = F.pad(waveform, (N_FFT // 2, N_FFT // 2)).unfold(0, N_FFT, HOP_LENGTH)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))
        power = spectrum.square().sum(-1) @ self.filters
        return torch.log10(1.0 + LOG_SCALE * power) / LARGEST_VALUE


def _mel_filters() -> tuple[torch.Tensor, torch.Tensor]:
    """Triangular filters (1025, 96) whose weights sum to one, and their centers (96,) in Hz; both float64."""
    nyquist = torch.tensor(SFX_SAMPLING_RATE / 2, dtype=torch.float64)
    top = 2595.0 * torch.log10(1.0 + nyquist / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0, 1, NUM_MEL_BINS + 2, dtype=torch.float64) * top / 2595.0) - 1.0)
    bins = torch.linspace(0, float(nyquist), N_FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0)
    total = filters.sum(0)
    return filters / torch.where(total > 0, total, 1.0), edges[1:-1]


class SfxBlock(nn.Module):
    """Two 3 × 3 convolutions with ReLU, then max pooling by ``pool``; batch norms are folded into the convolutions."""

    def __init__(self, inputs: int, outputs: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, T, M) → (B, outputs, T // pool, M // pool)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return F.max_pool2d(x, self.pool) if self.pool > 1 else x


class SfxNetwork(nn.Module):
    """The trunk of aiSFX: 4.7 million parameters, 512 features every 186 ms.

    A. B. Ma and A. Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR 2022.
    The network is the nine-layer CNN of Q. Kong et al., "DCASE 2018 Challenge Surrey Cross-Task Convolutional Neural
    Network Baseline" (arXiv 1808.00773), with max pooling. The heads that classify libraries are left out.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.models.sfx_network import SfxLogMel, SfxNetwork
        >>> SfxNetwork()(SfxLogMel()(torch.zeros(1, 44_100))).shape
        torch.Size([1, 512])
    """

    def __init__(self):
        super().__init__()
        inputs = (1, *CHANNELS[:-1])
        self.blocks = nn.ModuleList(
            SfxBlock(n, m, pool=1 if m == CHANNELS[-1] else 2) for n, m in zip(inputs, CHANNELS, strict=True)
        )

    def frame_features(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """Features over time, before the pooling over time.

        Args:
            spectrogram: (B, T, 96) from `SfxLogMel`; one shorter than a step is padded with silence.

        Returns:
            (B, max(1, T // 8), 512), not negative. A step sees about 1.6 s around it.
        """
        if spectrogram.shape[1] < FRAMES_PER_STEP:
            spectrogram = F.pad(spectrogram, (0, 0, 0, FRAMES_PER_STEP - spectrogram.shape[1]))
        x = spectrogram[:, None]
        for block in self.blocks:
            x = block(x)
        return x.mean(3).transpose(1, 2)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """(B, T, 96) → (B, 512), the largest value of each feature over time: aiSFX's embedding."""
        return self.frame_features(spectrogram).amax(1)
