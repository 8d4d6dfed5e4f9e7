"""What a bridge may carry beside its map: the stack, and the matrices of its retrieval score."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F

PREFIX = "readouts."  # of their keys in a bridge's state


class Readouts(nn.Module):
    """Two read-outs of a bridge, as `fit_readouts` makes them. About 6 D² numbers, all buffers.

    With x the normalized input (norm ``scale``), b the bridge's own output (norm ``scale``) and y normalized text:

    - The stack: ê = [b; x]·``stack``, at unit length.
    - The score: s(x, y) = cᵀGy − ½cᵀCc − ½yᵀBy, with c = x·``predictor``, or [b; x]·``predictor``. At the Gaussian
      start it is log p(y | x) − log p(y), up to a constant.

    Args:
        predictor: (D, D) or (2D, D).
        cross: G, (D, D).
        source_form: C, (D, D), symmetric.
        target_form: B, (D, D), symmetric.
        stack: (2D, D), or None where the bridge alone is better.

    Examples:
        >>> one = torch.eye(2)
        >>> readouts = Readouts(one, cross=one, source_form=one, target_form=one)
        >>> x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> (readouts.source_vectors(x, x) @ readouts.target_vectors(y).T).item()  # −½‖x − y‖²
        -1.0
    """

    def __init__(
        self,
        predictor: torch.Tensor,
        cross: torch.Tensor,
        source_form: torch.Tensor,
        target_form: torch.Tensor,
        stack: torch.Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("predictor", predictor)
        self.register_buffer("cross", cross)
        self.register_buffer("source_form", source_form)
        self.register_buffer("target_form", target_form)
        self.register_buffer("stack", stack)

    @classmethod
    def in_state(cls, state: Mapping[str, torch.Tensor], prefix: str = "") -> "Readouts | None":
        """Unfilled ones of the shapes that a state dict has them in, to load it into; None where it has none.

        A tensor that is missing has no rows, so that strict loading reports its shape.

        Examples:
            >>> Readouts.in_state({"audio_mean": torch.zeros(2)}) is None
            True
        """
        start = prefix + PREFIX
        found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
        if not found:
            return None
        shapes = {name: found[name].shape if name in found else (0, 0) for name in cls.names()}
        matrices = {name: torch.zeros(shape) for name, shape in shapes.items()}
        return cls(**matrices, stack=torch.zeros(found["stack"].shape) if "stack" in found else None)

    @staticmethod
    def names() -> tuple[str, ...]:
        """The tensors that are always there."""
        return ("predictor", "cross", "source_form", "target_form")

    @property
    def score_needs_bridge(self) -> bool:
        """Whether the score reads the bridge's output, or the input alone."""
        return self.predictor.shape[0] > self.predictor.shape[1]

    def stacked(self, bridged: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """[b; x]·stack. (B, D), (B, D) → (B, D) of any norm."""
        return torch.cat([bridged, source], dim=-1) @ self.stack.to(source.dtype)

    def source_vectors(self, bridged: torch.Tensor | None, source: torch.Tensor) -> torch.Tensor:
        """u = [Gᵀc; −½cᵀCc; 1]. (B, D), (B, D) → (B, D + 2).

        Args:
            bridged: b; None will do where `score_needs_bridge` says no.
            source: x.
        """
        features = torch.cat([bridged, source], dim=-1) if self.score_needs_bridge else source
        c = features @ self.predictor.to(source.dtype)
        return source_vectors(c, self.cross.to(c.dtype), self.source_form.to(c.dtype))

    def target_vectors(self, target: torch.Tensor) -> torch.Tensor:
        """v = [y; 1; −½yᵀBy]. (B, D) → (B, D + 2); u·v is the score."""
        return target_vectors(target, self.target_form.to(target.dtype))


def source_vectors(c: torch.Tensor, cross: torch.Tensor, source_form: torch.Tensor) -> torch.Tensor:
    """u = [Gᵀc; −½cᵀCc; 1] of predictions c. (B, D), G (D, D), C (D, D) → (B, D + 2).

    Examples:
        >>> source_vectors(torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        tensor([[ 6., -2.,  1.]])
    """
    own = -0.5 * (c @ source_form * c).sum(-1, keepdim=True)
    return torch.cat([c @ cross, own, torch.ones_like(own)], dim=-1)


def target_vectors(target: torch.Tensor, target_form: torch.Tensor) -> torch.Tensor:
    """v = [y; 1; −½yᵀBy]. (B, D), B (D, D) → (B, D + 2).

    Examples:
        >>> target_vectors(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
        tensor([[ 2.,  1., -2.]])
    """
    own = -0.5 * (target @ target_form * target).sum(-1, keepdim=True)
    return torch.cat([target, torch.ones_like(own), own], dim=-1)


def unit(rows: torch.Tensor) -> torch.Tensor:
    """(B, D) → (B, D) of norm 1.

    Examples:
        >>> unit(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    return F.normalize(rows, dim=-1)
