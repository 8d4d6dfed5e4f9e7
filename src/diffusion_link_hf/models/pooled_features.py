"""Pooled features of sounds as the taggers take them: their roots, standardized by what training saw."""

import torch
from torch import nn

from .sfx_network import NUM_FEATURES


class PooledFeatures(nn.Module):
    """The inputs of a network on pooled features, which are not negative and have long tails.

    Args:
        num_pooled: P, width of a pooled clip.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.models.pooled_features import PooledFeatures
        >>> inputs, pooled = PooledFeatures(4), torch.rand(100, 4)
        >>> inputs.fit_scale(pooled)
        >>> inputs.normalized(pooled).mean(0).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(self, num_pooled: int):
        super().__init__()
        self.register_buffer("silence", torch.zeros(NUM_FEATURES))  # features of digital silence
        self.register_buffer("mean", torch.zeros(num_pooled))
        self.register_buffer("scale", torch.ones(num_pooled))

    def loudness(self, features: torch.Tensor) -> torch.Tensor:
        """(…, T, 512) → (…, T), how much each step differs from silence."""
        return (features - self.silence).abs().mean(-1)

    def fit_scale(self, pooled: torch.Tensor) -> None:
        """Standardize inputs from now on by the statistics of ``pooled`` (N, P)."""
        x = _root(pooled)
        self.mean.copy_(x.mean(0))
        self.scale.copy_(1 / (x.std(0) + 0.02))

    def normalized(self, pooled: torch.Tensor) -> torch.Tensor:
        """(…, P) → (…, P), as the network takes it."""
        return (_root(pooled) - self.mean) * self.scale


def _root(pooled: torch.Tensor) -> torch.Tensor:
    return (pooled.clamp_min(0) + 1e-6).sqrt()
