"""Optimizers with fused updates, and the schedule with warm-up."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def make_optimizer(
    kind: type[torch.optim.Adam], parameters: Iterable[nn.Parameter], **options: Any
) -> torch.optim.Optimizer:
    """Adam or AdamW whose update of all weights is one fused kernel where their device and dtype have it.

    Examples:
        >>> make_optimizer(torch.optim.AdamW, [nn.Parameter(torch.zeros(2))], lr=0.1).defaults["fused"]
        True
    """
    parameters = list(parameters)
    fused = all(each.device.type in FUSED_DEVICES and each.is_floating_point() for each in parameters)
    return kind(parameters, fused=fused, **options)


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear to 1 over ``warmup`` steps, then half a cosine to 0.

    Examples:
        >>> [round(warmup_cosine(step, warmup=2, total=6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup)))
