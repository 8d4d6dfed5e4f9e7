"""What hears: from time-resolved features to tag scores, of a whole window and over time."""

import torch
from torch import nn
from torch.nn import functional as F

FEATURES = 512
WINDOW_STEPS, WINDOW_STRIDE = 9, 4  # steps of 186 ms


class TagHead(nn.Module):
    """Tags of any stretch of time, from the largest and the weighted mean value of each feature in it.

    The same network reads the whole clip and windows of 1.7 s, so that what it learns from one serves the other. A
    step weighs as much in the mean as it differs from silence: padding a sound with silence hardly changes it.

    Args:
        num_tags: classes.
        hidden: width.
        num_fine: fine classes, an auxiliary task of training only; 0 for none.
        heads: networks that learn apart; their logits are averaged.
    """

    def __init__(
        self,
        num_tags: int,
        hidden: int = 768,
        num_fine: int = 0,
        dropout: tuple[float, float] = (0.3, 0.5),
        transform: str = "sqrt",
        heads: int = 1,
    ):
        super().__init__()
        self.register_buffer("silence", torch.zeros(FEATURES))  # features of silence
        self.register_buffer("mean", torch.zeros(2 * FEATURES))
        self.register_buffer("scale", torch.ones(2 * FEATURES))
        self.inner = nn.ModuleList(nn.Linear(2 * FEATURES, hidden) for _ in range(heads))
        self.tags = nn.ModuleList(nn.Linear(hidden, num_tags) for _ in range(heads))
        self.fine = nn.ModuleList(nn.Linear(hidden, num_fine) for _ in range(heads)) if num_fine else None
        self.dropout, self.transform = dropout, transform

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """(…, T, 512) → (…, 1024): largest, weighted mean."""
        return torch.cat([features.amax(-2), weighted_mean(features, self.silence)], dim=-1)

    def windows(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, 512) → (B, W, 1024), each of nine steps, four steps apart."""
        return self.pool(features.unfold(1, WINDOW_STEPS, WINDOW_STRIDE).transpose(2, 3))

    def fit_scale(self, pooled: torch.Tensor) -> None:
        """Standardize inputs by the statistics of ``pooled`` (N, 1024)."""
        x = self.transformed(pooled)
        self.mean.copy_(x.mean(0))
        self.scale.copy_(1 / (x.std(0) + 0.02))

    def transformed(self, pooled: torch.Tensor) -> torch.Tensor:
        return {
            "sqrt": lambda x: (x.clamp_min(0) + 1e-6).sqrt(),
            "raw": lambda x: x,
            "log1p": lambda x: (4 * x).log1p(),
        }[self.transform](pooled)

    def normalized(self, pooled: torch.Tensor) -> torch.Tensor:
        return (self.transformed(pooled) - self.mean) * self.scale

    def each(self, x: torch.Tensor, fine: bool = False) -> torch.Tensor:
        """(…, 1024) of `normalized` → logits of every head, (heads, …, C), or of the fine classes."""
        out = []
        for inner, outer in zip(self.inner, self.fine if fine else self.tags, strict=True):
            hidden = F.gelu(inner(F.dropout(x, self.dropout[0], self.training)))
            out.append(outer(F.dropout(hidden, self.dropout[1], self.training)))
        return torch.stack(out)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, 512) → logits of the clip (B, C) and of its windows (B, W, C)."""
        clip, windows = self.normalized(self.pool(features)), self.normalized(self.windows(features))
        return self.each(clip).mean(0), self.each(windows).mean(0)


def load_tag_head(state: dict[str, torch.Tensor], num_fine: int = 0) -> TagHead:
    """The head of a state dict, whatever its number of heads; the fine classes are left out unless asked for."""
    state = {key: value for key, value in one_as_first(state).items() if num_fine or not key.startswith("fine.")}
    heads = sum(key.startswith("tags.") and key.endswith(".bias") for key in state)
    head = TagHead(len(state["tags.0.bias"]), len(state["inner.0.bias"]), num_fine, heads=heads)
    head.load_state_dict(state)
    return head


def one_as_first(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of one head, as written before there were several, with that head as the first."""
    parts = {f"{part}.{kind}": f"{part}.0.{kind}" for part in ("inner", "tags", "fine") for kind in ("weight", "bias")}
    return {parts.get(key, key): value for key, value in state.items()}


def joined(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """State dicts of one head each, which share their standardization, as one of several heads."""
    out = dict(one_as_first(states[0]))
    for number, state in enumerate(states[1:], 1):
        for key, value in one_as_first(state).items():
            part, *rest = key.split(".")
            if rest:
                out[f"{part}.{number}.{rest[-1]}"] = value
    return out


def step_weights(features: torch.Tensor, silence: torch.Tensor) -> torch.Tensor:
    """(…, T, 512) → (…, T, 1): how much each step differs from silence."""
    return (features - silence).abs().mean(-1, keepdim=True) + 1e-3


def weighted_mean(features: torch.Tensor, silence: torch.Tensor) -> torch.Tensor:
    weights = step_weights(features, silence)
    return (features * weights).sum(-2) / weights.sum(-2)
