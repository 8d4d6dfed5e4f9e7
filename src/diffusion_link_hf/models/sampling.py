"""Sampling from a generator of its own: no global random state is read or changed, so threads do not disturb it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..tensors import draw_seed


class OwnGenerator(TorchFunctionMode):
    """While it is entered, `torch.multinomial` draws from a generator of its own.

    That is what transformers samples with, from the global state. A mode of torch is entered for one thread alone.
    The draws are those of a global state that was seeded alike.

    Args:
        seed: of the generator.
        device: of the probabilities.

    Examples:
        >>> probabilities = torch.ones(100)
        >>> with OwnGenerator(7, torch.device("cpu")):
        ...     drawn = torch.multinomial(probabilities, 5)
        >>> drawn.equal(torch.multinomial(probabilities, 5, generator=torch.Generator().manual_seed(7)))
        True
    """

    def __init__(self, seed: int, device: torch.device):
        super().__init__()
        self.generator = torch.Generator(device).manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        own = {"generator": self.generator} if func is torch.multinomial else {}
        return func(*args, **{**(kwargs or {}), **own})


def own_generator(generator: torch.Generator | None, device: torch.device) -> AbstractContextManager:
    """An `OwnGenerator` on ``device``, seeded with one number of ``generator``; without one, nothing is changed."""
    if generator is None:
        return nullcontext()
    return OwnGenerator(draw_seed(generator), device)
