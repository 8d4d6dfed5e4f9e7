"""The networks of the bridges that are trained: RCG's RDM MLP, with or without a condition, and a 1-D U-Net."""

from itertools import pairwise

import torch
from diffusers import DDIMScheduler
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .diffusion_link import ResidualMlpLayers, sinusoids
from .sampling import add_noise


class ResidualMlp(ResidualMlpLayers, nn.Module):
    """The network of Diffusion-Link (paper §3), here for other bridges; its last Linear starts at zero.

    Args:
        embedding_dim: D.
        width: W of the residual blocks.
        num_blocks: residual blocks.
        time_embed_dim: width of the timestep embedding, even.
        dropout: in each block, while training.
        condition_dim: C, width of a condition that is concatenated to the input; 0 for none.
    """

    def __init__(
        self,
        embedding_dim: int,
        width: int = 512,
        num_blocks: int = 3,
        time_embed_dim: int = 256,
        dropout: float = 0.0,
        condition_dim: int = 0,
    ):
        super().__init__()
        self._make_layers(embedding_dim, width, num_blocks, time_embed_dim, dropout, condition_dim)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor | int, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, D), timestep for all or (B,), (B, C) or None → (B, D)."""
        x = self.proj_in(sample if condition is None else torch.cat([sample, condition], dim=-1))
        t = self._embed_time(timestep, x)
        for block in self.blocks:
            x = block(x, t)
        return self.proj_out(x)


class UNet1d(nn.Module):
    """The original denoiser of Diffusion-Bridge: a 1-D U-Net along the embedding, taken as a sequence of D scalars.

    Convolutional residual blocks with RMS norm, scaled and shifted by the timestep; linear attention at each level and
    full attention in the middle (the 1-D U-Net of the package denoising-diffusion-pytorch). 4.0·10⁶ parameters, which
    each work at up to D positions: far slower than the RDM MLP.

    Args:
        time_embed_dim: width of the timestep's sinusoids, even; the "dim = 512" of the original.
        channels: of the first level; the original's are 32.
        channel_multipliers: of the levels; each but the last halves the length, so D must be divisible by 2^(levels−1).
        dropout: in each residual block, while training.
    """

    def __init__(
        self,
        time_embed_dim: int = 512,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2, 4, 8),
        dropout: float = 0.0,
    ):
        super().__init__()
        if time_embed_dim % 2:
            raise InputError("time_embed_dim", f"is {time_embed_dim}", "Use an even number: half sines, half cosines")
        self.time_embed_dim = time_embed_dim
        time_dim = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(time_embed_dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim))
        self.conv_in = nn.Conv1d(1, channels, 7, padding=3)
        widths = [channels, *(channels * m for m in channel_multipliers)]
        levels = list(pairwise(widths))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for k, (narrow, wide) in enumerate(levels):
            last = k == len(levels) - 1
            self.downs.append(
                nn.ModuleList(
                    [
                        ConvBlock(narrow, narrow, time_dim, dropout),
                        ConvBlock(narrow, narrow, time_dim, dropout),
                        SequenceAttention(narrow, linear=True),
                        nn.Conv1d(narrow, wide, 3, padding=1) if last else nn.Conv1d(narrow, wide, 4, 2, 1),
                    ]
                )
            )
            up = nn.Identity() if k == 0 else nn.Upsample(scale_factor=2, mode="nearest")
            self.ups.insert(
                0,
                nn.ModuleList(
                    [
                        ConvBlock(wide + narrow, wide, time_dim, dropout),
                        ConvBlock(wide + narrow, wide, time_dim, dropout),
                        SequenceAttention(wide, linear=True),
                        nn.Sequential(up, nn.Conv1d(wide, narrow, 3, padding=1)),
                    ]
                ),
            )
        deep = widths[-1]
        self.middle = nn.ModuleList(
            [
                ConvBlock(deep, deep, time_dim, dropout),
                SequenceAttention(deep, linear=False),
                ConvBlock(deep, deep, time_dim, dropout),
            ]
        )
        self.block_out = ConvBlock(2 * channels, channels, time_dim, dropout)
        self.conv_out = nn.Conv1d(channels, 1, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | int) -> torch.Tensor:
        """(B, D), timestep for all or (B,) → (B, D)."""
        first = x = self.conv_in(sample[:, None])  # (B, C, D)
        t = self.time_embed(sinusoids(timestep, self.time_embed_dim, x))
        skips = []
        for block1, block2, attention, down in self.downs:
            x = block1(x, t)
            skips.append(x)
            x = attention(block2(x, t))
            skips.append(x)
            x = down(x)
        block1, attention, block2 = self.middle
        x = block2(attention(block1(x, t)), t)
        for block1, block2, attention, up in self.ups:
            x = block1(torch.cat([x, skips.pop()], dim=1), t)
            x = attention(block2(torch.cat([x, skips.pop()], dim=1), t))
            x = up(x)
        return self.conv_out(self.block_out(torch.cat([x, first], dim=1), t))[:, 0]


class ConvBlock(nn.Module):
    """Two convolutions of three taps, the first scaled and shifted by the timestep, beside a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, dropout: float):
        super().__init__()
        self.time_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * channels_out))
        self.conv1 = nn.Conv1d(channels_in, channels_out, 3, padding=1)
        self.norm1 = ChannelNorm(channels_out)
        self.conv2 = nn.Conv1d(channels_out, channels_out, 3, padding=1)
        self.norm2 = ChannelNorm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv1d(channels_in, channels_out, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """(B, C, L), (B, T) or (1, T) → (B, C', L)."""
        scale, shift = self.time_layers(t)[:, :, None].chunk(2, dim=1)
        h = self.dropout(F.silu(self.norm1(self.conv1(x)) * (scale + 1) + shift))
        return F.silu(self.norm2(self.conv2(h))) + self.shortcut(x)


class SequenceAttention(nn.Module):
    """x + attention(norm(x)) along the sequence, with four heads of 32: full, or linear in the length (Shen et al.)."""

    def __init__(self, channels: int, linear: bool, heads: int = 4, head_dim: int = 32):
        super().__init__()
        self.linear, self.heads = linear, heads
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv1d(channels, 3 * heads * head_dim, 1, bias=False)
        out = nn.Conv1d(heads * head_dim, channels, 1)
        self.to_out = nn.Sequential(out, ChannelNorm(channels)) if linear else out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, L) → (B, C, L)."""
        # (B, heads, L, head_dim) each
        q, k, v = (
            part.unflatten(1, (self.heads, -1)).transpose(2, 3) for part in self.to_qkv(self.norm(x)).chunk(3, dim=1)
        )
        if self.linear:
            q = q.softmax(dim=-1) * q.shape[-1] ** -0.5
            out = q @ (k.softmax(dim=-2).transpose(2, 3) @ v)
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(out.transpose(2, 3).flatten(1, 2))


class ChannelNorm(nn.Module):
    """RMS norm over the channels of (B, C, L)."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1) * self.gain * x.shape[1] ** 0.5


def draw_noised(
    clean: torch.Tensor, scheduler: DDIMScheduler, max_timestep: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One training draw of the forward process: each row at its own timestep, uniform on 0 … max_timestep − 1.

    Args:
        clean: (B, D).
        generator: a CPU generator, so that devices agree; timesteps are drawn before the noise.

    Returns:
        z_s (B, D) and s (B,), on the device of ``clean``.
    """
    timesteps = torch.randint(max_timestep, (len(clean),), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    return add_noise(clean, noise, timesteps, scheduler), timesteps
