"""Text-PCA projection: the part of an embedding that lies in the principal subspace of the text."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config

from ..errors import InputError
from .base import BridgeModel, Modality


class TextSubspaceBridge(BridgeModel):
    """x ↦ x·V_kV_kᵀ on normalized embeddings (paper §2), V_k the first k principal axes of the text.

    The axes are eigenvectors of YᵀY/M of the normalized text, about the origin, since §2 has centered it; k is the
    least number of them that holds ``energy`` of its trace. It learns from text alone, but for the audio's mean. Text
    input is projected as audio input is.

    Args:
        embedding_dim: D, width of the embeddings.
        scale: of `normalize`; the result does not depend on it.
        energy: share of the text's energy that the subspace keeps, above 0 to 1.
        num_components: k. None lets `fit` find it from ``energy``.
        fitted_components: the k that `fit` used, written by it.

    Raises:
        InputError: ``energy`` or ``num_components`` out of range.

    Examples:
        >>> text = torch.cat([torch.eye(8)[:3], -torch.eye(8)[:3]])  # on three axes
        >>> TextSubspaceBridge(embedding_dim=8, energy=0.99).fit(None, text).config.fitted_components
        3
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        scale: float = 5.0,
        energy: float = 0.9,
        num_components: int | None = None,
        fitted_components: int | None = None,
    ):
        super().__init__()
        if not 0 < energy <= 1:
            raise InputError("energy", f"is {energy}", "Use a number above 0, at most 1")
        if num_components is not None and not 1 <= num_components <= embedding_dim:
            raise InputError("num_components", f"is {num_components}", f"Use 1 to {embedding_dim}, or None")
        self._register_statistics(embedding_dim)
        # The projection rather than V_k: its shape is the same for every k.
        self.register_buffer("projection", torch.eye(embedding_dim))

    def _fit(
        self, source: torch.Tensor, target: torch.Tensor, group: torch.Tensor, text: torch.Tensor, seed: int
    ) -> None:
        y = self.normalize(text.double(), "text")
        values, vectors = torch.linalg.eigh(y.T @ y)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        held = values.cumsum(0) / values.sum()
        # Rounding may leave the last sum just below 1.
        enough = min(int((held < self.config.energy).sum()) + 1, len(values))
        count = self.config.num_components or enough
        self.register_to_config(fitted_components=count)
        axes = vectors[:, :count]
        self.projection.copy_(axes @ axes.T)

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        x = self.normalize(embeds, modality)
        return x @ self.projection.to(x.dtype)
