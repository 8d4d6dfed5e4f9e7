"""The tagger of two sounds at once: which sound, and given that one, which other or none."""

import torch
from torch import nn
from torch.nn import functional as F

from .pooled_features import PooledFeatures
from .sfx_network import NUM_FEATURES

QUANTILES = (0.15, 0.5, 0.85)  # over the steps with sound: what goes on all the time, most of it, now and then
SOUNDING = 0.2  # a step has sound if it differs from silence by this share of the most that any step does


class PairTagger(PooledFeatures):
    """Given nothing: tags of a clip. Given one of its tags: the other one, or none.

    Args:
        num_tags: C, sound classes. As a given tag, C stands for nothing; as an answer, for none.
        hidden_size: width of the network.
        dropout: of inputs and of hidden units, in training.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.models.pair_tagger import PairTagger
        >>> tagger = PairTagger(num_tags=5).eval()
        >>> pooled = tagger.normalized(tagger.pool(torch.rand(2, 53, 512)))
        >>> tagger(pooled, torch.tensor([[0, 1, 5], [2, 3, 5]])).shape
        torch.Size([2, 3, 6])
    """

    def __init__(self, num_tags: int, hidden_size: int = 512, dropout: tuple[float, float] = (0.2, 0.4)):
        pooled = (len(QUANTILES) + 1) * NUM_FEATURES
        super().__init__(pooled)
        self.inner = nn.Linear(pooled, hidden_size)
        self.given = nn.Embedding(num_tags + 1, hidden_size)
        self.outer = nn.Linear(hidden_size, num_tags + 1)
        nn.init.normal_(self.given.weight, std=0.02)
        self.num_tags, self.dropout = num_tags, dropout

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, 512) → (B, 2048): of each feature three quantiles over the steps with sound, and the largest value."""
        loudness = self.loudness(features)[..., None] + 1e-3  # (B, T, 1)
        sounding = loudness > SOUNDING * loudness.amax(1, keepdim=True)
        ordered = torch.where(sounding, features, torch.inf).sort(1).values
        last = sounding.sum(1, keepdim=True) - 1  # (B, 1, 1)
        places = [(q * last).round().long().expand(-1, -1, NUM_FEATURES) for q in QUANTILES]
        return torch.cat([*(ordered.gather(1, place)[:, 0] for place in places), features.amax(1)], 1)

    def forward(self, normalized: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """(B, 2048) of `normalized`, (B,) or (B, K) given tags → logits (B, C + 1) or (B, K, C + 1)."""
        hidden = self.inner(F.dropout(normalized, self.dropout[0], self.training))
        if given.ndim == 2:
            hidden = hidden[:, None]
        return self.outer(F.dropout(F.gelu(hidden + self.given(given)), self.dropout[1], self.training))
