"""What a contrastive audio encoder does to the embeddings of tags: distortion, noise and the modality gap."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class Calibration:
    """How far the stand-in is from the text; the defaults bring out raw CLAP's figures on AudioCaps (see README.md).

    Attributes:
        missed: probability with which a tag is left out.
        misheard: probability with which a tag is replaced by another.
        distortion: norm of the nonlinear distortion; the content's is 1.
        noise: expected norm of the noise.
        offset: norm of the vector that is added to every row, the modality gap.
        offset_to_text: cosine of that vector with the mean of the text.
    """

    missed: float = 0.45
    misheard: float = 0.1
    distortion: float = 0.4
    noise: float = 0.35
    offset: float = 0.5
    offset_to_text: float = 0.09


class AudioStandIn:
    """Embeddings of tags → what stands in for the embeddings of audio.

        u = x + δ · d(x) / ‖d(x)‖ + ν · n,   a = u / ‖u‖ + γ · o,   result a / ‖a‖

    - x, the tags' embedding minus the mean of the training tags, of norm 1;
    - d(x) = tanh(3x·G)·H with fixed Gaussian G and H: a distortion that is the same for all rows, and not linear;
    - n, noise with the covariance of the training tags, E‖n‖² = 1: it looks like content;
    - o, a fixed unit vector: the gap.

    Args:
        tags: (N, D) unit embeddings of the training tags.
        text: (N, D) unit embeddings of the training captions.
        calibration: δ, ν, γ and the direction of o.
        seed: of all that is fixed, 0 to 2⁶³ − 1.
    """

    def __init__(self, tags: torch.Tensor, text: torch.Tensor, calibration: Calibration, seed: int):
        self.calibration = calibration
        width, generator = tags.shape[1], torch.Generator().manual_seed(seed)
        self.inner, self.outer = torch.randn(2, width, width, generator=generator)
        self.mean = tags.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((tags - self.mean).T))
        self.noise_factor = (values.clamp(min=0) / values.sum()).sqrt()[:, None] * vectors.T
        towards = F.normalize(text.mean(0), dim=0)
        across = torch.randn(width, generator=generator)
        across = F.normalize(across - across @ towards * towards, dim=0)
        cosine = calibration.offset_to_text
        self.offset = calibration.offset * (cosine * towards + (1 - cosine**2) ** 0.5 * across)

    def __call__(self, tags: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(N, D) unit embeddings of tags → (N, D) unit stand-ins; ``generator`` draws the noise."""
        content = F.normalize(tags - self.mean, dim=-1)
        distortion = F.normalize(torch.tanh(3 * content @ self.inner) @ self.outer, dim=-1)
        noise = torch.randn(tags.shape, generator=generator) @ self.noise_factor
        heard = content + self.calibration.distortion * distortion + self.calibration.noise * noise
        return F.normalize(F.normalize(heard, dim=-1) + self.offset, dim=-1)
