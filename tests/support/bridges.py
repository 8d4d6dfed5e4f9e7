"""Small fitted bridges of every method, and the independent references that several of their tests use."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from diffusion_link_hf.bridges.base import BridgeModel
from diffusion_link_hf.training.bridge import build_bridge
from support.models import EMBEDDING_DIM

SMALL = {"width": 40, "time_embed_dim": 16}
# What makes the method's bridge small.
SIZES = {
    "mlp": SMALL,
    "mlp-residual": SMALL,
    "diffusion-bridge": SMALL,
    "diffusion-bridge-unet": {"channels": 8, "time_embed_dim": 16},
    "diffgap": {**SMALL, "num_inference_steps": 5},
    "seed": SMALL,
    "diffusion-link": SMALL,
    "diffusion-link-shallow": SMALL,
}


def make_rows(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_pairs(rows: int = 120, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and target (rows, D) float64: a rotation, an offset and noise apart."""
    target = make_rows(rows, seed, torch.float64) * torch.linspace(2, 0.2, EMBEDDING_DIM)
    rotation = torch.linalg.qr(make_rows(EMBEDDING_DIM, seed + 1, torch.float64)).Q
    return target @ rotation + 1 + 0.3 * make_rows(rows, seed + 2, torch.float64), target + 0.5


def make_bridge(method: str, seed: int = 0, **config) -> BridgeModel:
    """A fitted bridge whose trainable weights are random: zero-initialized layers would hide mistakes."""
    torch.manual_seed(seed)
    bridge = build_bridge(method, EMBEDDING_DIM, **{**SIZES.get(method, {}), **config}).eval()
    bridge.fit(*make_pairs())
    if method == "diffusion-bridge-unet":  # nothing in it starts at zero
        return bridge
    with torch.no_grad():
        for name, parameter in bridge.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
            elif name.endswith("bias"):
                parameter.normal_(std=0.05)
    return bridge


def normalized(rows: torch.Tensor, mean: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    """Paper §2 in float64, independently of the package but for the stored mean."""
    rows = rows.double() / rows.double().norm(dim=1, keepdim=True) - mean.double()
    return scale * rows / rows.norm(dim=1, keepdim=True)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows, dim=1)


def alpha_bar(step: int) -> float:
    """Cosine schedule, betas clipped at 0.999, after ``step`` of 1000 steps; independent of diffusers."""

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    product = 1.0
    for k in range(step):
        product *= 1 - min(1 - f(k + 1) / f(k), 0.999)
    return product


def weights_of(module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def silu(x):
    return x / (1 + np.exp(-x))


def numpy_mlp(w: dict[str, np.ndarray], z: np.ndarray, s: int, prefix: str = "") -> np.ndarray:
    """RDM MLP (paper §3) over the concatenated input."""

    def linear(x, name):
        return x @ w[f"{prefix}{name}.weight"].T + w[f"{prefix}{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{prefix}{name}.weight"] + w[f"{prefix}{name}.bias"]

    half = w[f"{prefix}time_embed.0.weight"].shape[1] // 2
    angles = s * np.exp(-np.log(10_000) * np.arange(half) / half)
    t = linear(silu(linear(np.concatenate([np.cos(angles), np.sin(angles)])[None], "time_embed.0")), "time_embed.2")
    x = linear(z, "proj_in")
    for k in range(len({name.split("blocks.")[1].split(".")[0] for name in w if f"{prefix}blocks." in name})):
        h = linear(silu(norm(x, f"blocks.{k}.in_layers.0")), f"blocks.{k}.in_layers.2")
        h = h + linear(silu(t), f"blocks.{k}.time_layers.1")
        x = x + linear(silu(norm(h, f"blocks.{k}.out_layers.0")), f"blocks.{k}.out_layers.3")
    return linear(silu(norm(x, "proj_out.0")), "proj_out.2")
