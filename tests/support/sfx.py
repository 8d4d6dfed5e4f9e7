"""A sound and weights by formula, of which tests/fixtures/aisfx holds what the package aisfx makes."""

import numpy as np
import torch
from torch import nn

RATE = 44_100


def sound() -> np.ndarray:
    """(88200,) float32: a rising tone, a click every 0.3 s, and noise."""
    t = np.arange(2 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * (300 * t + 900 * t * t))
    clicks = 0.5 * np.exp(-400 * (t % 0.3)) * np.sin(2 * np.pi * 3000 * t)
    noise = 0.02 * np.sin(1e4 * np.sin(np.arange(len(t)) ** 2 % 977))
    return (tone + clicks + noise).astype(np.float32)


def formula_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and batch norm statistics for the package's network, from a generator that is the same everywhere."""
    rng = np.random.default_rng(2022)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = value
            continue
        if value.ndim == 4:  # a kernel, which keeps the size of what it is given
            drawn = rng.standard_normal(value.shape) * np.sqrt(2 / value[0].numel())
        elif name.endswith(("running_var", "weight")):
            drawn = rng.uniform(0.5, 1.5, value.shape)
        else:
            drawn = 0.1 * rng.standard_normal(value.shape)
        state[name] = torch.from_numpy(drawn).float()
    return state


def package_shapes() -> nn.Module:
    """Named as the package's network: blocks of two convolutions and two batch norms."""
    network = nn.Module()
    for k, (n, m) in enumerate(((1, 64), (64, 128), (128, 256), (256, 512)), 1):
        block = nn.Module()
        block.conv1, block.conv2 = nn.Conv2d(n, m, 3, bias=False), nn.Conv2d(m, m, 3, bias=False)
        block.bn1, block.bn2 = nn.BatchNorm2d(m), nn.BatchNorm2d(m)
        network.add_module(f"conv_block{k}", block)
    return network
