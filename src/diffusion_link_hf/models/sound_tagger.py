"""The tagger: from features over time to logits of sound classes, of a whole clip and of windows in it."""

import torch
from torch import nn
from torch.nn import functional as F

from .pooled_features import PooledFeatures
from .sfx_network import NUM_FEATURES

WINDOW_STEPS, WINDOW_STRIDE = 9, 4  # steps of 186 ms: windows of 1.7 s


class SoundTagger(PooledFeatures):
    """Tags of any stretch of time, from the largest and the weighted mean value of each feature in it.

    The same networks read the whole clip and windows of 1.7 s, so that what they learn from one serves the other. A
    step weighs as much in the mean as it differs from silence: padding a sound with silence hardly changes it.

    Args:
        num_tags: C, sound classes.
        hidden_size: width of the networks.
        num_networks: small networks that learn apart; their logits are averaged.
        num_fine: finer classes, an auxiliary task in training; 0 leaves it out.
        dropout: of inputs and of hidden units, in training.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.models.sound_tagger import SoundTagger
        >>> clip, windows = SoundTagger(num_tags=5).eval()(torch.rand(2, 53, 512))
        >>> clip.shape, windows.shape
        (torch.Size([2, 5]), torch.Size([2, 12, 5]))
    """

    def __init__(
        self,
        num_tags: int,
        hidden_size: int = 768,
        num_networks: int = 1,
        num_fine: int = 0,
        dropout: tuple[float, float] = (0.3, 0.5),
    ):
        pooled = 2 * NUM_FEATURES
        super().__init__(pooled)
        self.inner = nn.ModuleList(nn.Linear(pooled, hidden_size) for _ in range(num_networks))
        self.tags = nn.ModuleList(nn.Linear(hidden_size, num_tags) for _ in range(num_networks))
        fine = (nn.Linear(hidden_size, num_fine) for _ in range(num_networks))
        self.fine = nn.ModuleList(fine) if num_fine else None
        self.dropout = dropout

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """(…, T, 512) → (…, 1024): of each feature the largest value, and the mean weighted by loudness."""
        weights = self.loudness(features)[..., None] + 1e-3
        mean = (features * weights).sum(-2) / weights.sum(-2)
        return torch.cat([features.amax(-2), mean], dim=-1)

    def pool_windows(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, 512) → (B, W, 1024), windows of nine steps, four steps apart."""
        return self.pool(features.unfold(1, WINDOW_STEPS, WINDOW_STRIDE).transpose(2, 3))

    def window_loudness(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, 512) → (B, W)."""
        return self.loudness(features).unfold(1, WINDOW_STEPS, WINDOW_STRIDE).mean(-1)

    def logits(self, normalized: torch.Tensor, fine: bool = False) -> torch.Tensor:
        """(…, 1024) of `normalized` → logits of every network, (networks, …, C), or of the finer classes."""
        out = []
        for inner, outer in zip(self.inner, self.fine if fine else self.tags, strict=True):
            hidden = F.gelu(inner(F.dropout(normalized, self.dropout[0], self.training)))
            out.append(outer(F.dropout(hidden, self.dropout[1], self.training)))
        return torch.stack(out)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, 512) with T ≥ 9 → logits of the clip (B, C) and of its windows (B, W, C)."""
        clip, windows = self.normalized(self.pool(features)), self.normalized(self.pool_windows(features))
        return self.logits(clip).mean(0), self.logits(windows).mean(0)
