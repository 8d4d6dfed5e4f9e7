"""Bridges without a learned map: the identity, and mean-centering (C3, ICLR 2024)."""

import torch
from diffusers.configuration_utils import register_to_config
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel


class IdentityBridge(BridgeModel):
    """The encoder's own embeddings, L2-normalized: the baseline without a link.

    Text input is treated as audio input is.

    Args:
        embedding_dim: D, width of the embeddings.
        scale: of `normalize`, which this bridge itself does not use.
    """

    @register_to_config
    def __init__(self, embedding_dim: int = 512, scale: float = 5.0):
        super().__init__()
        self._register_statistics(embedding_dim)

    def _bridge(self, embeds, modality, **options):
        return embeds

    def target(self, text: torch.Tensor) -> torch.Tensor:
        """The text embeddings themselves, (B, D) → (B, D) unit rows: nothing is centered here."""
        return F.normalize(text.to(torch.float64 if text.dtype == torch.float64 else torch.float32), dim=-1)


class MeanCentering(BridgeModel):
    """Collapse, and corrupt while the decoder is trained (C3, arXiv 2401.08567; paper §2 and §8).

    *Collapse*: either modality's embeddings, L2-normalized, less their own mean, L2-normalized. *Corrupt*: Gaussian
    noise on the collapsed text embeddings from which a decoder learns, so that it forgives what is left of the gap.
    `bridge` collapses, and corrupts text (never audio) if ``add_noise`` says so; `corrupt` alone draws fresh noise for
    every row, which is what training wants.

    Args:
        embedding_dim: D, width of the embeddings.
        scale: of `normalize`; the result does not depend on it.
        noise_std: σ of the noise per dimension, relative to a unit row. C3's is √0.016.
        add_noise: whether `bridge` corrupts text by default.
        noise_seed: seed of that noise when `bridge` gets no generator.
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        scale: float = 5.0,
        noise_std: float = 0.016**0.5,
        add_noise: bool = False,
        noise_seed: int = 0,
    ):
        super().__init__()
        if not noise_std >= 0:
            raise InputError("noise_std", f"is {noise_std}", "Use zero or a positive number")
        self._register_statistics(embedding_dim)

    def corrupt(
        self, embeds: torch.Tensor, generator: torch.Generator | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """normalize(e + σ·ε), ε ~ N(0, I) for each row.

        Args:
            embeds: (B, D) unit rows, from `bridge`.
            generator: source of the noise; torch's global one by default.
            noise: explicit ε, (B, D) or (1, D), instead.

        Returns:
            (B, D) unit rows in the dtype of ``embeds``.
        """
        if noise is None:
            device = embeds.device if generator is None else generator.device
            noise = torch.randn(embeds.shape, generator=generator, device=device)
        noise = noise.to(embeds.device, embeds.dtype)
        return F.normalize(embeds + self.config.noise_std * noise, dim=-1)

    def _bridge(self, embeds, modality, *, generator, noise, add_noise, **options):
        collapsed = F.normalize(self.normalize(embeds, modality), dim=-1)
        if modality == "text" and (self.config.add_noise if add_noise is None else add_noise):
            return self.corrupt(collapsed, noise=self.draw_noise(len(embeds), generator, noise))
        return collapsed
