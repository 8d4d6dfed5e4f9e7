"""aiSFX's convolutional network for sound effects, in plain torch: waveform to time-resolved and pooled features.

A. B. Ma and A. Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR 2022;
weights "X-Sequential-CE" of the PyPI package aisfx 0.1.2, CC BY 4.0, (c) 2022 A. B. Ma and A. Lerch. The network is the
nine-layer CNN of Q. Kong et al., "DCASE 2018 Challenge Surrey Cross-Task Convolutional Neural Network Baseline"
(arXiv 1808.00773), with max pooling. Only its trunk is used; the package's classification heads are left out.
"""

import torch
from torch import nn
from torch.nn import functional as F

SAMPLING_RATE = 44_100  # Hz
N_FFT, HOP = 2048, 1024  # samples
MEL_BANDS = 96
CHANNELS = (64, 128, 256, 512)
FRAMES_PER_STEP = 8  # spectrogram frames of one step of the features: three poolings by two
SECONDS_PER_STEP = FRAMES_PER_STEP * HOP / SAMPLING_RATE
LOG_SCALE = 10_000.0
LARGEST_VALUE = 9.457798957824707  # of log10(1 + 10000 power) over the data that the network was trained on


def mel_filters(num_bands: int = MEL_BANDS, n_fft: int = N_FFT, sampling_rate: int = SAMPLING_RATE) -> torch.Tensor:
    """Triangular filters on HTK's mel scale from 0 Hz to half the sampling rate, the weights of each summing to one.

    Returns:
        (n_fft // 2 + 1, num_bands) float64.
    """
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sampling_rate / 2 / 700.0, dtype=torch.float64))
    edges = 700.0 * (10.0 ** (torch.linspace(0, 1, num_bands + 2, dtype=torch.float64) * top / 2595.0) - 1.0)
    bins = torch.linspace(0, sampling_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0)
    total = filters.sum(0)
    return filters / torch.where(total > 0, total, 1.0)


class SfxLogMel(nn.Module):
    """Log-mel spectrogram of peak-normalized sound, as the network was trained on.

    Power of Hann-windowed frames (periodic, centered, zero-padded), averaged by mel band, then
    ``log10(1 + 10000 power)`` divided by its largest value in training. Each row is divided by its own peak, so a row
    depends neither on its level nor on its batch.

    Args:
        band_limit: Hz; bands centered above it are set to zero, as those of sound that was recorded at a lower
            sampling rate. None keeps all, as the package does.
    """

    def __init__(self, band_limit: float | None = None):
        super().__init__()
        filters = mel_filters()
        if band_limit is not None:
            mels = torch.linspace(0, 1, MEL_BANDS + 2, dtype=torch.float64)[1:-1]
            top = torch.log10(torch.tensor(1.0 + SAMPLING_RATE / 2 / 700.0, dtype=torch.float64))
            filters[:, 700.0 * (10.0 ** (mels * top) - 1.0) > band_limit] = 0
        self.band_limit = band_limit
        # Constants: they are not part of the state dict, and stay in float32 whatever the model's dtype.
        self.register_buffer("filters", filters.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT, periodic=True), persistent=False)

    def _apply(self, fn, recurse=True):
        for name, buffer in self._buffers.items():
            self._buffers[name] = buffer.to(fn(buffer).device)
        return self

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, n) floats at 44.1 kHz → (B, 1 + n // 1024, 96) float32, mostly between 0 and 1; silence is 0."""
        waveforms = waveforms.float()
        peak = waveforms.abs().amax(1, keepdim=True)
        scaled = waveforms / torch.where(peak > 0, peak, 1.0)
        with torch.autocast(waveforms.device.type, enabled=False):
            out = [self._one(row) for row in scaled]  # row by row: its bits do not depend on its batch
        return torch.stack(out)

    def _one(self, waveform: torch.Tensor) -> torch.Tensor:
        frames = F.pad(waveform, (N_FFT // 2, N_FFT // 2)).unfold(0, N_FFT, HOP)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))
        power = spectrum.square().sum(-1) @ self.filters
        return torch.log10(1.0 + LOG_SCALE * power) / LARGEST_VALUE


class SfxBlock(nn.Module):
    """Two 3 × 3 convolutions with ReLU, their batch norms folded in, then max pooling by ``pool``."""

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
    """The trunk of aiSFX: 4.7 million parameters, 512 features every 186 ms."""

    def __init__(self):
        super().__init__()
        inputs = (1, *CHANNELS[:-1])
        self.blocks = nn.ModuleList(
            SfxBlock(n, m, pool=1 if m == CHANNELS[-1] else 2) for n, m in zip(inputs, CHANNELS, strict=True)
        )

    def frame_features(self, spectrogram: torch.Tensor) -> torch.Tensor:
        """Time-resolved features, before the pooling over time.

        Args:
            spectrogram: (B, T, 96) from `SfxLogMel`; shorter ones than a step are padded with silence.

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
        """(B, T, 96) → (B, 512), the largest value of each feature over time: the package's embedding."""
        return self.frame_features(spectrogram).amax(1)


def fold_package_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's state dict → that of `SfxNetwork`, each batch norm folded into its convolution."""
    state = {}
    for block in range(len(CHANNELS)):
        for layer in (1, 2):
            old = f"embedding_net.conv_block{block + 1}"
            norm = {key: weights[f"{old}.bn{layer}.{key}"].double() for key in
                    ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
            gain = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-5)
            kernel = weights[f"{old}.conv{layer}.weight"].double()
            new = f"blocks.{block}.conv{layer}"
            state[f"{new}.weight"] = (kernel * gain[:, None, None, None]).float()
            state[f"{new}.bias"] = (norm["bias"] - norm["running_mean"] * gain).float()
    return state


def load_package_checkpoint(path) -> dict[str, torch.Tensor]:
    """State dict of the package's checkpoint.pth, read without running code from it."""
    import numpy as np

    allowed = [(np._core.multiarray.scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype(np.int64)),
               type(np.dtype(np.float64))]  # fmt: skip
    with torch.serialization.safe_globals(allowed):
        weights, _ = torch.load(path, map_location="cpu", weights_only=True)
    return weights
