"""Averaged weights: diffusers' `EMAModel` with its update as one pass over all parameters."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel

from ..bridges.base import BridgeModel


class AveragedWeights(EMAModel):
    """ē ← d · ē + (1 − d) · w with d = min(decay, (1 + n) / (10 + n)) in step n, equal to `EMAModel` to rounding.

    Args:
        parameters: all of them trained.
        decay: 0 to below 1; 0 for no averaging.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float):
        super().__init__(parameters, decay=decay, min_decay=0.0, use_ema_warmup=False, foreach=True)

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - self.cur_decay_value)


@contextmanager
def averaged(bridge: BridgeModel, average: EMAModel) -> Iterator[None]:
    """Within it the bridge has the averaged weights and is in evaluation mode."""
    bridge.eval()
    average.store(bridge.parameters())
    average.copy_to(bridge.parameters())
    yield
    average.restore(bridge.parameters())
    bridge.train()
