"""Diffusion-Link: a residual MLP denoiser that maps an embedding of either modality to a text-like one."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.utils import BaseOutput
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel
from .sampling import ddim_coefficients, ddim_sample, shallow_timesteps

# Rows that take all steps together on a CPU: between two layers they stay in its cache.
ROWS_AT_A_TIME = 512


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
        hidden = self.in_layers(x)
        hidden += self.time_layers(t)  # in place, here and below: no gradient needs what a Linear returned
        change = self.out_layers(hidden)
        change += x
        return change


def sinusoids(timestep: torch.Tensor | int, width: int, like: torch.Tensor) -> torch.Tensor:
    """One or S timesteps → (S, ``width``) on the device and in the dtype of ``like``."""
    timesteps = torch.as_tensor(timestep, device=like.device).reshape(-1)
    return get_timestep_embedding(timesteps, width, flip_sin_to_cos=True, downscale_freq_shift=0).to(like.dtype)


@functools.lru_cache(maxsize=16)
def grid_sinusoids(timesteps: tuple[int, ...], width: int) -> torch.Tensor:
    """`sinusoids` of a grid that is used again and again, (S, ``width``) float32 on the CPU; not to be changed."""
    with torch.inference_mode(False):
        return sinusoids(torch.tensor(timesteps), width, torch.empty(0))


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
        sizes = {"embedding_dim": embedding_dim, "width": width, "num_blocks": num_blocks}
        for name, size in {**sizes, "time_embed_dim": time_embed_dim}.items():
            if size < 1:
                raise InputError(name, f"is {size}", "Use at least 1")
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

    def _embed_time(self, timestep: torch.Tensor | int, like: torch.Tensor) -> torch.Tensor:
        """One or S timesteps → (S, T) on the device and in the dtype of ``like``."""
        return self.time_embed(sinusoids(timestep, self.time_embed[0].in_features, like))


class DiffusionLinkModel(ResidualMlpLayers, BridgeModel):
    """The denoiser φ(z_s, s) of Diffusion-Link (arXiv 2510.11330): RCG's RDM MLP over CLAP embeddings.

    `bridge` normalizes, noises to s*, denoises by DDIM to the clean step, and L2-normalizes (paper §2 and §4).

    Args:
        embedding_dim: D, width of the embeddings.
        width: W, width of the residual blocks. The paper gives none; 512 is that of SEED, its forerunner.
        num_blocks: residual blocks; the paper's is 3.
        time_embed_dim: width of the timestep embedding, even.
        dropout: in each block, while training.
        scale: norm of the normalized embeddings (paper §2).
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
        start = self.config.noise_timestep if noise_timestep is None else noise_timestep
        state, scheduler, timesteps = self._noised(embeds, modality, noise_timestep=start, **options)
        if not _is_plain(self) or torch.is_autocast_enabled(state.device.type):
            dtype = self.proj_in.weight.dtype
            return ddim_sample(lambda z, s: self(z.to(dtype), s, return_dict=False)[0], state, scheduler, timesteps)
        sample = GridSampler(self, timesteps, ddim_coefficients(scheduler, timesteps))
        rows = ROWS_AT_A_TIME if state.device.type == "cpu" else len(state)
        return torch.cat([sample(part) for part in state.split(max(rows, 1))])


PLAIN = (ResidualBlock, nn.ModuleList, nn.Sequential, nn.LayerNorm, nn.SiLU, nn.Dropout, nn.Linear)


class GridSampler:
    """`bridges.sampling.ddim_sample` over one grid with the layers of the RDM MLP, in fewer operations; equal to
    rounding.

    What depends on the timestep alone is computed for all of the grid at once, and becomes the bias of the Linear that
    it is added to.

    It reads the weights of modules without calling these: `_is_plain` says whether that comes to the same.

    Args:
        network: as it is to be used; in evaluation mode.
        timesteps, coefficients: of the grid, see `bridges.sampling.ddim_coefficients`.
    """

    def __init__(
        self,
        network: ResidualMlpLayers,
        timesteps: list[int],
        coefficients: list[tuple[float, float]],
    ):
        norm, _, last = network.proj_out
        self.first, self.norm, self.last = _linear(network.proj_in), _norm(norm), _linear(last)
        self.coefficients, self.dtype = coefficients, self.first[0].dtype
        waves = grid_sinusoids(tuple(timesteps), network.time_embed[0].in_features)
        t = F.silu(network.time_embed(waves.to(self.first[0])))  # (S, T)
        self.blocks = []
        for block in network.blocks:
            norm_in, _, linear_in = block.in_layers
            norm_out, _, _, linear_out = block.out_layers
            (weight, bias), (time, shift) = _linear(linear_in), _linear(block.time_layers[1])
            biases = F.linear(t, time, shift + bias).unbind()  # (W,) of each timestep
            weight_out, bias_out = _linear(linear_out)
            self.blocks.append((_norm(norm_in), weight, biases, _norm(norm_out), weight_out.T, bias_out))

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        """Some of the rows, (B, D) at the first timestep → (B, D), clean."""
        for k, (a, b) in enumerate(self.coefficients):
            x = F.linear(state.to(self.dtype), *self.first)
            clean = F.linear(self._hidden(x, k), *self.last).to(state.dtype)
            state = torch.add(clean.mul_(a), state, alpha=b)
        return state

    def _hidden(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """All between the first Linear and the last at timestep k. (B, W), which changes → (B, W)."""
        for norm_in, weight_in, biases, norm_out, turned_out, bias_out in self.blocks:
            hidden = F.silu(F.layer_norm(x, *norm_in), inplace=True)
            hidden = F.linear(hidden, weight_in, biases[k])
            hidden = F.silu(F.layer_norm(hidden, *norm_out), inplace=True)
            x.add_(bias_out).addmm_(hidden, turned_out)
        return F.silu(F.layer_norm(x, *self.norm), inplace=True)


def _linear(module: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight, module.bias


def _norm(module: nn.LayerNorm) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor, float]:
    return module.normalized_shape, module.weight, module.bias, module.eps


def _is_plain(network: ResidualMlpLayers) -> bool:
    """Whether what `GridSampler` does not call does what its class says: no adapters, hooks, quantized weights."""
    parts = [network.proj_in, network.blocks, network.proj_out]
    for part in parts:  # and theirs, as they are appended
        parts += part._modules.values()
        if type(part) not in PLAIN or "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks:
            return False
        for weight in part._parameters.values():
            if type(weight) is not nn.Parameter:
                return False
    return True
