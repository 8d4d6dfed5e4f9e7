"""Bridges without a learned map: the identity, and mean-centering (C3, ICLR 2024)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel, Modality


class IdentityBridge(BridgeModel):
    """The encoder's own embeddings, L2-normalized: the baseline without a link.

    Text input is treated as audio input is.

    Args:
        embedding_dim: D, width of the embeddings.
        scale: of `normalize`, which this bridge itself does not use.

    Examples:
        >>> IdentityBridge(embedding_dim=2).bridge(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    @register_to_config
    def __init__(self, embedding_dim: int = 512, scale: float = 5.0):
        super().__init__()
        self._register_statistics(embedding_dim)

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        return embeds

    def target(self, text: torch.Tensor) -> torch.Tensor:
        """The text embeddings themselves, (B, D) → (B, D) unit rows: nothing is centered here."""
        return F.normalize(text.to(torch.float64 if text.dtype == torch.float64 else torch.float32), dim=-1)


class MeanCentering(BridgeModel):
    """Collapse, and corrupt while the decoder is trained (C3, arXiv 2401.08567; paper §2 and §8).

    *Collapse*: L2-normalize either modality's embeddings, subtract their own mean, L2-normalize again. *Corrupt*: add
    Gaussian noise to the collapsed text embeddings from which a decoder learns, so that it forgives what is left of the
    gap. `bridge` collapses, and corrupts text (never audio) if ``add_noise`` says so. `corrupt` draws fresh noise for
    every row, which is what training wants.

    Args:
        embedding_dim: D, width of the embeddings.
        scale: of `normalize`; the result does not depend on it.
        noise_std: σ of the noise per dimension, relative to a unit row. C3's is √0.016.
        add_noise: whether `bridge` corrupts text by default.
        noise_seed: seed of that noise when `bridge` gets no generator.

    Raises:
        InputError: a negative ``noise_std``.

    Examples:
        >>> audio, text = torch.randn(50, 8) + 3, torch.randn(50, 8) - 3
        >>> bridge = MeanCentering(embedding_dim=8).fit(audio, text)
        >>> gap = bridge.bridge(audio, "audio").mean(0) - bridge.bridge(text, "text").mean(0)
        >>> bool(gap.norm() < 0.5)
        True
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

        Examples:
            >>> bridge, text = MeanCentering(embedding_dim=8), torch.eye(8)
            >>> noisy = bridge.corrupt(text, torch.Generator().manual_seed(0))
            >>> bool((noisy != text).any()), noisy.norm(dim=1).allclose(torch.ones(8))
            (True, True)
        """
        if noise is None:
            device = embeds.device if generator is None else generator.device
            noise = torch.randn(embeds.shape, generator=generator, device=device)
        noise = noise.to(embeds.device, embeds.dtype)
        return F.normalize(embeds + self.config.noise_std * noise, dim=-1)

    def _bridge(
        self,
        embeds: torch.Tensor,
        modality: Modality,
        *,
        generator: torch.Generator | list[torch.Generator] | None,
        noise: torch.Tensor | None,
        add_noise: bool | None,
        **options: Any,
    ) -> torch.Tensor:
        collapsed = F.normalize(self.normalize(embeds, modality), dim=-1)
        if modality == "text" and (self.config.add_noise if add_noise is None else add_noise):
            return self.corrupt(collapsed, noise=self.draw_noise(len(embeds), generator, noise))
        return collapsed
