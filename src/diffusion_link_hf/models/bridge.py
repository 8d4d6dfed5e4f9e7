"""The bridge interface: an embedding of either modality in, a text-like embedding out."""

from abc import abstractmethod
from typing import Literal

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch.nn import functional as F

from ..errors import InputError
from ..hub.loading import StrictModel

Modality = Literal["audio", "text"]
MODALITIES = ("audio", "text")


class BridgeModel(StrictModel):
    """Base of every system that maps audio or text embeddings to text-like ones.

    Owns the normalisation (paper §2), which happens here and nowhere else. Its statistics are persistent buffers:
    ``audio_mean`` and ``text_mean``, (D,) float32, means of the L2-normalised *training* embeddings, zero until
    `fit_statistics`. Subclasses implement `_bridge`; a row's result must not depend on the rows beside it.
    """

    def _register_statistics(self, embedding_dim: int) -> None:
        self.register_buffer("audio_mean", torch.zeros(embedding_dim))
        self.register_buffer("text_mean", torch.zeros(embedding_dim))

    @torch.no_grad()
    def fit_statistics(self, audio: torch.Tensor | None, text: torch.Tensor) -> None:
        """Sets the modality means from training embeddings, (N, D) and (M, D); computed in float64.

        Without audio (text-only data) the audio mean stays as it is.
        """
        self.text_mean.copy_(F.normalize(text.double(), dim=-1).mean(0))
        if audio is not None and len(audio):
            self.audio_mean.copy_(F.normalize(audio.double(), dim=-1).mean(0))

    def normalize(self, embeds: torch.Tensor, modality: Modality) -> torch.Tensor:
        """L2-normalise, subtract the modality's mean, L2-normalise, multiply by ``scale`` (paper §2).

        (B, D) → (B, D) of norm ``config.scale``, float32 (float64 for float64 input).
        """
        dtype = torch.float64 if embeds.dtype == torch.float64 else torch.float32
        mean = self.audio_mean if modality == "audio" else self.text_mean
        centred = F.normalize(embeds.to(dtype), dim=-1) - mean.to(dtype)
        return F.normalize(centred, dim=-1) * self.config.scale

    @apply_forward_hook
    @torch.no_grad()
    def bridge(self, embeds: torch.Tensor, modality: Modality = "audio", **options) -> torch.Tensor:
        """Map embeddings to text-like ones.

        Args:
            embeds: (B, D) floating point, of any norm but zero.
            modality: where they come from.
            options: of the concrete bridge, such as ``generator``; each bridge accepts all options of the pipeline
                and uses those that concern it.

        Returns:
            (B, D) unit rows, in the dtype of ``embeds``.

        Raises:
            InputError: a wrong shape, width, dtype or modality; NaN, infinite or all-zero rows.
        """
        self.check_embeds(embeds, modality)
        return F.normalize(self._bridge(embeds, modality, **options), dim=-1).to(embeds.dtype)

    @abstractmethod
    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options) -> torch.Tensor:
        """(B, D) checked embeddings → (B, D) text-like ones of any norm."""

    def check_embeds(self, embeds: torch.Tensor, modality: Modality) -> None:
        """Raises InputError for what `bridge` cannot take."""
        if modality not in MODALITIES:
            raise InputError("modality", f"is {modality!r}", "Use 'audio' or 'text'")
        if not isinstance(embeds, torch.Tensor) or not embeds.is_floating_point():
            kind = embeds.dtype if isinstance(embeds, torch.Tensor) else type(embeds).__name__
            raise InputError("embeds", f"is {kind}", "Pass a floating-point torch tensor of shape (B, D)")
        width = self.config.embedding_dim
        if embeds.ndim != 2 or embeds.shape[1] != width:
            raise InputError("embeds", f"has shape {tuple(embeds.shape)}", f"This bridge takes (B, {width})")
        bad = ~torch.isfinite(embeds).all(1) | (embeds == 0).all(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise InputError(
                "embeds", f"row {row} is zero, NaN or infinite ({int(bad.sum())} such rows)", "Leave those rows out"
            )
