"""The denoising networks of the trained bridges: RCG's residual MLP, with or without a condition, and a 1-D U-Net."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn
from torch.nn import functional as F

from ..errors import InputError


def sinusoids(timestep: torch.Tensor | Sequence[int] | int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Cosines and sines of timesteps at ``width``/2 frequencies, as in the Transformer (Vaswani et al., 2017).

    Args:
        timestep: one, or S of them.
        width: even.
        like: a tensor that has the device and the dtype of the result.

    Returns:
        (1, ``width``) or (S, ``width``), each row cosines first; computed in float32.

    Examples:
        >>> sinusoids([0, 10], 4, torch.empty(0)).round(decimals=2)
        tensor([[ 1.0000,  1.0000,  0.0000,  0.0000],
                [-0.8400,  1.0000, -0.5400,  0.1000]])
    """
    timesteps = torch.as_tensor(timestep, device=like.device).reshape(-1)
    return get_timestep_embedding(timesteps, width, flip_sin_to_cos=True, downscale_freq_shift=0).to(like.dtype)


class ResidualBlock(nn.Module):
    """x + [LayerNorm, SiLU, Dropout, Linear]([LayerNorm, SiLU, Linear](x) + Linear(SiLU(t))) (paper §3).

    The last Linear starts at zero, so that a new block is the identity.

    Args:
        width: W, of the rows.
        time_embed_dim: T, width of the timestep embedding.
        dropout: 0 to 1, while training.

    Examples:
        >>> block, x = ResidualBlock(width=8, time_embed_dim=4, dropout=0.0), torch.randn(3, 8)
        >>> torch.equal(block(x, torch.randn(1, 4)), x)
        True
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


class ResidualMlp(nn.Module):
    """RCG's RDM MLP, the network of Diffusion-Link (paper §3) and of the bridges that are compared with it.

    Its last Linear starts at zero, so a new network returns zeros.

    Args:
        embedding_dim: D, width of the embeddings.
        width: W, of the residual blocks.
        num_blocks: residual blocks.
        time_embed_dim: T, width of the timestep embedding, even.
        dropout: in each block, 0 to 1, while training.
        condition_dim: C, width of a condition that is concatenated to the input; 0 for none.

    Raises:
        InputError: a size below 1, or an odd ``time_embed_dim``.

    Examples:
        >>> network = ResidualMlp(embedding_dim=8, width=16, num_blocks=2, time_embed_dim=4)
        >>> network(torch.randn(3, 8), 99).shape
        torch.Size([3, 8])
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
        sizes = {"embedding_dim": embedding_dim, "width": width, "num_blocks": num_blocks}
        for name, size in {**sizes, "time_embed_dim": time_embed_dim}.items():
            if size < 1:
                raise InputError(name, f"is {size}", "Use at least 1")
        _check_time_width(time_embed_dim)
        self.time_embed = nn.Sequential(
            nn.Linear(time_embed_dim, time_embed_dim), nn.SiLU(), nn.Linear(time_embed_dim, time_embed_dim)
        )
        self.proj_in = nn.Linear(embedding_dim + condition_dim, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, time_embed_dim, dropout) for _ in range(num_blocks))
        self.proj_out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, embedding_dim))
        nn.init.zeros_(self.proj_out[-1].weight)
        nn.init.zeros_(self.proj_out[-1].bias)
        self.gradient_checkpointing = False

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | int,
        condition: torch.Tensor | None = None,
        *,
        time_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict the clean embedding.

        Args:
            sample: z_s, (B, D).
            timestep: s, 0 to 999: one for all rows, or (B,).
            condition: (B, C), or None for a network without one.
            time_embeds: what `embed_time` makes of ``timestep``, where that was computed before.

        Returns:
            (B, D).
        """
        x = self.proj_in(sample if condition is None else torch.cat([sample, condition], dim=-1))
        t = self.embed_time(timestep, x) if time_embeds is None else time_embeds  # (B, T), or (1, T) for all rows
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, t)
            else:
                x = block(x, t)
        return self.proj_out(x)

    def embed_time(self, timestep: torch.Tensor | Sequence[int] | int, like: torch.Tensor) -> torch.Tensor:
        """One timestep, or S of them → (1, T) or (S, T), on the device and in the dtype of ``like``."""
        return self.time_embed(sinusoids(timestep, self.time_embed[0].in_features, like))


def _check_time_width(time_embed_dim: int) -> None:
    """Raises InputError for an odd width of timestep embeddings."""
    if time_embed_dim % 2:
        raise InputError(
            "time_embed_dim", f"is {time_embed_dim}", "Use an even number: half of it are sines, half cosines"
        )


class UNet1d(nn.Module):
    """The original denoiser of Diffusion-Bridge: a 1-D U-Net along the embedding, taken as a sequence of D scalars.

    Convolutional residual blocks with RMS norm are scaled and shifted by the timestep. There is linear attention at
    each level and full attention in the middle, as in the 1-D U-Net of the package denoising-diffusion-pytorch. The
    4.0·10⁶ parameters work at up to D positions each, so it is far slower than `ResidualMlp`.

    Args:
        time_embed_dim: width of the timestep's sinusoids, even; the "dim = 512" of the original.
        channels: of the first level; the original's are 32.
        channel_multipliers: of the levels; each but the last halves the length, so D must be divisible by 2^(levels−1).
        dropout: in each residual block, while training.

    Raises:
        InputError: an odd ``time_embed_dim``.

    Examples:
        >>> network = UNet1d(time_embed_dim=8, channels=4)
        >>> network(torch.randn(3, 32), 99).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        time_embed_dim: int = 512,
        channels: int = 32,
        channel_multipliers: tuple[int, ...] = (1, 2, 4, 8),
        dropout: float = 0.0,
    ):
        super().__init__()
        _check_time_width(time_embed_dim)
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
    """Two convolutions of three taps, the first scaled and shifted by the timestep, beside a shortcut.

    Examples:
        >>> ConvBlock(4, 6, time_dim=8, dropout=0.0)(torch.randn(2, 4, 16), torch.randn(1, 8)).shape
        torch.Size([2, 6, 16])
    """

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
    """x + attention(norm(x)) along the sequence, with four heads of 32: full, or linear in the length (Shen et al.).

    Examples:
        >>> SequenceAttention(4, linear=True)(torch.randn(2, 4, 16)).shape
        torch.Size([2, 4, 16])
    """

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
    """RMS norm over the channels of (B, C, L).

    Examples:
        >>> ChannelNorm(4)(torch.randn(2, 4, 16)).square().mean(1).allclose(torch.ones(2, 16))
        True
    """

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=1) * self.gain * x.shape[1] ** 0.5
