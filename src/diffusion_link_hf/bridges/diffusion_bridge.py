"""Diffusion-Bridge (CVPR 2025): a denoiser of text alone, into which the other modality is injected half-way."""

from typing import Any, ClassVar, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel, Modality
from .denoisers import ResidualMlp, UNet1d
from .losses import squared_error
from .sampling import TrainingNoise, shallow_timesteps


class DiffusionBridgeModel(BridgeModel):
    """A denoiser φ(z_s, s) of text embeddings, used on embeddings of the other modality (paper §8).

    Trained on text alone (sample prediction). At inference the normalized embedding takes the place of z_{s*}, without
    noise, and DDIM runs from there; before every call of the network the state is brought back to norm ``scale``, in
    training as well. Both modalities go through the sampler, text from its own s*.

    Args:
        embedding_dim: D, width of the embeddings; divisible by 8 for the U-Net.
        network: "mlp", the RDM MLP of Diffusion-Link, or "unet", the 1-D U-Net of the original.
        width, num_blocks: of the MLP.
        channels: of the U-Net's first level.
        time_embed_dim: width of the timestep embedding, even; 512 in the original U-Net.
        dropout: in each block, while training.
        scale: norm of the normalized embeddings.
        num_inference_steps: DDIM steps.
        noise_timestep: s* of audio, 1 to 1000.
        text_noise_timestep: s* of text, from which the original trains its decoder.
        add_noise: whether the input is noised to s* first; the method does not.
        noise_seed: seed of that noise when `bridge` gets no generator.
        snr_weight: whether the loss of a row is weighted by ᾱ_s / (1 − ᾱ_s). The original does; that is 2·10⁴ at the
            first timestep and 0.5 at s* = 600, so it is off by default.
        max_snr: where that weight is clipped, or None.

    Raises:
        InputError: a size, timestep or number of steps out of range, or an unknown ``network``.

    Examples:
        >>> bridge = DiffusionBridgeModel(embedding_dim=8, width=16, time_embed_dim=4).eval()
        >>> _ = bridge.fit(torch.randn(20, 8), torch.randn(20, 8))  # the means alone: not trained yet
        >>> bridge.bridge(torch.randn(3, 8), "audio", noise_timestep=300).shape
        torch.Size([3, 8])
    """

    _no_split_modules: ClassVar[list[str]] = ["ResidualBlock", "ConvBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ResidualBlock"]

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        network: Literal["mlp", "unet"] = "mlp",
        width: int = 512,
        num_blocks: int = 3,
        channels: int = 32,
        time_embed_dim: int = 256,
        dropout: float = 0.0,
        scale: float = 5.0,
        num_inference_steps: int = 5,
        noise_timestep: int = 600,
        text_noise_timestep: int = 400,
        add_noise: bool = False,
        noise_seed: int = 0,
        snr_weight: bool = False,
        max_snr: float | None = None,
    ):
        super().__init__()
        for timestep in (noise_timestep, text_noise_timestep):
            shallow_timesteps(timestep, num_inference_steps)  # refuses impossible values now, not at first use
        if network not in ("mlp", "unet"):
            raise InputError("network", f"is {network!r}", "Use 'mlp' or 'unet'")
        if network == "unet" and embedding_dim % 8:
            raise InputError(
                "embedding_dim", f"is {embedding_dim}", "The U-Net halves it three times: use a multiple of 8"
            )
        self._register_statistics(embedding_dim)
        if network == "mlp":
            self.denoiser = ResidualMlp(embedding_dim, width, num_blocks, time_embed_dim, dropout)
        else:
            self.denoiser = UNet1d(time_embed_dim, channels, dropout=dropout)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | int) -> torch.Tensor:
        """State z_s (B, D) of any norm, s for all or (B,) → predicted clean text (B, D)."""
        return self.denoiser(self.rescale(sample), timestep)

    def rescale(self, sample: torch.Tensor) -> torch.Tensor:
        """(B, D) → (B, D) of norm ``config.scale``."""
        return F.normalize(sample, dim=-1) * self.config.scale

    def _training_loss(
        self, source: torch.Tensor, target: torch.Tensor, noise: TrainingNoise, rows: slice
    ) -> torch.Tensor:
        """E‖e^t − φ(e^t_s, s)‖² on text alone; ``source`` is not looked at."""
        target, state, timesteps = (part[rows] for part in (target, *noise.add_to(target)))
        predicted = self(state, timesteps).float()
        if not self.config.snr_weight:
            return squared_error(target, predicted)
        alphas = noise.scheduler.alphas_cumprod.to(target.device)[timesteps]
        weight = alphas / (1 - alphas)
        if self.config.max_snr is not None:
            weight = weight.clamp(max=self.config.max_snr)
        return (weight * (target - predicted).square().sum(-1)).mean()

    def _bridge(
        self, embeds: torch.Tensor, modality: Modality, *, noise_timestep: int | None, **options: Any
    ) -> torch.Tensor:
        def predict(state: torch.Tensor, timestep: int) -> torch.Tensor:
            return self.denoiser(state.to(self.dtype), timestep)

        start = self.config.noise_timestep if modality == "audio" else self.config.text_noise_timestep
        start = start if noise_timestep is None else noise_timestep
        # The rescaled state is also what the DDIM step starts from, hence not inside of `predict`.
        return self._denoise(predict, embeds, modality, noise_timestep=start, before_step=self.rescale, **options)
