"""Diffusion-Link: a residual MLP denoiser that maps an embedding of either modality to a text-like one."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.utils import BaseOutput
from torch import nn

from ..errors import InputError
from ..sampling import shallow_timesteps
from .bridge import BridgeModel

# Rows that take all steps together on a CPU: between two layers they stay in its cache.
ROWS_AT_A_TIME = 256


@dataclass
class DiffusionLinkModelOutput(BaseOutput):
    """Output of `DiffusionLinkModel`.

    Attributes:
        sample: (B, D), the predicted clean text embedding φ(z_s, s), of about norm ``config.scale``.
    """

    sample: torch.Tensor


class ResidualBlock(nn.Module):
    """x + [LayerNorm, SiLU, Dropout, Linear]([LayerNorm, SiLU, Linear](x) + Linear(SiLU(t))) (paper §3).

    The last Linear starts at zero, so that a new block is the identity.
    """

    def __init__(self, width: int, time_embed_dim: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, width))
        self.time_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_embed_dim, width))
        self.out_layers = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
        nn.init.zeros_(self.out_layers[-1].weight)
        nn.init.zeros_(self.out_layers[-1].bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """(B, W), (B, T) or (1, T) → (B, W)."""
        return self.shifted(x, self.time_layers(t))

    def shifted(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """The same with the timestep's part ``time_layers(t)`` at hand. (B, W), (B, W) or (1, W) → (B, W)."""
        hidden = self.in_layers(x)
        hidden += shift  # in place, here and below: no gradient needs what a Linear returned
        change = self.out_layers(hidden)
        change += x
        return change


def sinusoids(timestep: torch.Tensor | int | list[int], width: int, like: torch.Tensor) -> torch.Tensor:
    """One or S timesteps → (S, ``width``) on the device and in the dtype of ``like``."""
    timesteps = torch.as_tensor(timestep, device=like.device).reshape(-1)
    return get_timestep_embedding(timesteps, width, flip_sin_to_cos=True, downscale_freq_shift=0).to(like.dtype)


class ResidualMlpLayers:
    """The layers of RCG's RDM MLP (paper §3), for the modules that have them; the last Linear starts at zero."""

    def _make_layers(
        self,
        embedding_dim: int,
        width: int,
        num_blocks: int,
        time_embed_dim: int,
        dropout: float,
        condition_dim: int = 0,
    ) -> None:
        if time_embed_dim % 2:
            raise InputError(
                "time_embed_dim", f"is {time_embed_dim}", "Use an even number: half of it are sines, half cosines"
            )
        self.time_embed = nn.Sequential(
            nn.Linear(time_embed_dim, time_embed_dim), nn.SiLU(), nn.Linear(time_embed_dim, time_embed_dim)
        )
        self.proj_in = nn.Linear(embedding_dim + condition_dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, time_embed_dim, dropout) for _ in range(num_blocks))
        self.proj_out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, embedding_dim))
        nn.init.zeros_(self.proj_out[-1].weight)
        nn.init.zeros_(self.proj_out[-1].bias)

    def _embed_time(self, timestep: torch.Tensor | int | list[int], like: torch.Tensor) -> torch.Tensor:
        """One or S timesteps → (S, T) on the device and in the dtype of ``like``."""
        return self.time_embed(sinusoids(timestep, self.time_embed[0].in_features, like))


class DiffusionLinkModel(ResidualMlpLayers, BridgeModel):
    """The denoiser φ(z_s, s) of Diffusion-Link (arXiv 2510.11330): RCG's RDM MLP over CLAP embeddings.

    `bridge` normalises, noises to s*, denoises by DDIM to the clean step, and L2-normalises (paper §2 and §4).

    Args:
        embedding_dim: D, width of the embeddings.
        width: W, width of the residual blocks. The paper gives none; 512 is that of SEED, its forerunner.
        num_blocks: residual blocks; the paper's is 3.
        time_embed_dim: width of the timestep embedding, even.
        dropout: in each block, while training.
        scale: norm of the normalised embeddings (paper §2).
        num_inference_steps: DDIM steps of `bridge`.
        noise_timestep: s*, where `bridge` starts, 1 to 1000.
        add_noise: whether `bridge` noises its input to s* first.
        noise_seed: seed of that noise when `bridge` gets no generator, so that equal inputs give equal results.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["ResidualBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ResidualBlock"]

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        width: int = 512,
        num_blocks: int = 3,
        time_embed_dim: int = 256,
        dropout: float = 0.0,
        scale: float = 5.0,
        num_inference_steps: int = 5,
        noise_timestep: int = 100,
        add_noise: bool = True,
        noise_seed: int = 0,
    ):
        super().__init__()
        shallow_timesteps(
            noise_timestep, num_inference_steps
        )  # refuses impossible values here rather than at first use
        self._register_statistics(embedding_dim)
        self._make_layers(embedding_dim, width, num_blocks, time_embed_dim, dropout)
        self.gradient_checkpointing = False

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | int, return_dict: bool = True
    ) -> DiffusionLinkModelOutput | tuple[torch.Tensor]:
        """Predict the clean text embedding.

        Args:
            sample: z_s, (B, D).
            timestep: s, 0 to 999: one for all rows, or (B,).
            return_dict: whether to return an output object or a tuple.
        """
        x = self.proj_in(sample)
        t = self._embed_time(timestep, x)  # (B, T), or (1, T) when all rows share a timestep
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, t)
            else:
                x = block(x, t)
        x = self.proj_out(x)
        return DiffusionLinkModelOutput(sample=x) if return_dict else (x,)

    def _bridge(self, embeds, modality, *, noise_timestep, **options):
        # `forward`, with what depends on the timestep alone computed for the whole grid at once.
        dtype = self.proj_in.weight.dtype
        shifts: dict[int, list[torch.Tensor]] = {}  # (1, W) of each block

        def prepare(timesteps: list[int]) -> None:
            t = self._embed_time(timesteps, embeds.new_empty(0, dtype=dtype))
            by_block = [block.time_layers(t).split(1) for block in self.blocks]
            shifts.update(zip(timesteps, zip(*by_block, strict=True), strict=True))

        def predict(state: torch.Tensor, timestep: int) -> torch.Tensor:
            x = self.proj_in(state.to(dtype))
            for block, shift in zip(self.blocks, shifts[timestep], strict=True):
                x = block.shifted(x, shift)
            return self.proj_out(x)

        start = self.config.noise_timestep if noise_timestep is None else noise_timestep
        rows = ROWS_AT_A_TIME if embeds.device.type == "cpu" else None
        return self._denoise(
            predict, embeds, modality, noise_timestep=start, prepare=prepare, rows_at_a_time=rows, **options
        )
