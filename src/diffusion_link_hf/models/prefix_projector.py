"""The projection head: a text-like embedding to the soft prefix that the decoder reads."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn

from ..errors import InputError
from ..loading import StrictModel

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "none": nn.Identity}


class PrefixProjector(StrictModel):
    """ê^t (B, D) → soft prefix p (B, m, h) (paper §5).

    Args:
        embedding_dim: D.
        hidden_size: h, width of the decoder's token embeddings.
        num_prefix_tokens: m; the paper uses 1 for text-only training and 10 for supervised training.
        num_layers: linear layers, 1 (text-only) or 2 (supervised).
        activation: between two layers: "gelu", "silu", "tanh" or "none". The paper gives none; without one the two
            layers would be one of lower rank.
        slots: of an embedding with places for several events, start and stop of each place, all of one width. The
            layers then run once for each, which is shown in the first one's place with the others empty, and the
            prefixes follow one another: what they know of an event as the first, they know of it as the second. None
            runs them once, on the embedding as it is.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf import PrefixProjector
        >>> projector = PrefixProjector(embedding_dim=64, hidden_size=32, num_prefix_tokens=10, num_layers=2)
        >>> projector(torch.randn(4, 64)).shape
        torch.Size([4, 10, 32])
    """

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        hidden_size: int = 4096,
        num_prefix_tokens: int = 1,
        num_layers: int = 1,
        activation: str = "gelu",
        slots: list[list[int]] | None = None,
    ):
        super().__init__()
        if num_layers not in (1, 2):
            raise InputError("num_layers", f"is {num_layers}", "Use 1 or 2")
        if num_prefix_tokens < 1:
            raise InputError("num_prefix_tokens", f"is {num_prefix_tokens}", "Use at least 1")
        if activation not in ACTIVATIONS:
            raise InputError("activation", f"is {activation!r}", f"Use one of {', '.join(ACTIVATIONS)}")
        if slots is not None:
            _check_slots(slots, embedding_dim)
        out = num_prefix_tokens * hidden_size
        if num_layers == 1:
            self.layers = nn.Sequential(nn.Linear(embedding_dim, out))
        else:
            self.layers = nn.Sequential(
                nn.Linear(embedding_dim, hidden_size), ACTIVATIONS[activation](), nn.Linear(hidden_size, out)
            )

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) unit embeddings → (B, m, h), or (B, slots · m, h)."""
        if embeds.ndim != 2 or embeds.shape[1] != self.config.embedding_dim:
            raise InputError(
                "embeds", f"has shape {tuple(embeds.shape)}", f"This projector takes (B, {self.config.embedding_dim})"
            )
        if self.config.slots is not None:
            embeds = self._views(embeds)
        tokens = self.layers(embeds).unflatten(-1, (self.config.num_prefix_tokens, self.config.hidden_size))
        return tokens.flatten(1, -2)

    def _views(self, embeds: torch.Tensor) -> torch.Tensor:
        """(B, D) → (B, slots, D), each with one event, in the first one's place."""
        slots = self.config.slots
        views = embeds[:, None].repeat(1, len(slots), 1)
        for start, stop in slots:
            views[:, :, start:stop] = 0
        first = slice(*slots[0])
        for k, (start, stop) in enumerate(slots):
            views[:, k, first] = embeds[:, start:stop]
        return views


def _check_slots(slots: object, embedding_dim: int) -> None:
    """Raises InputError for what are no places of one width, one behind the other, within an embedding."""
    try:
        ends = [0]
        for start, stop in slots:
            if not ends[-1] <= start < stop <= embedding_dim or stop - start != slots[0][1] - slots[0][0]:
                raise ValueError
            ends.append(stop)
        if len(ends) == 1:
            raise ValueError
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            "slots", f"are {slots!r}", f"Name places of one width, one behind the other, within 0 to {embedding_dim}"
        ) from error
