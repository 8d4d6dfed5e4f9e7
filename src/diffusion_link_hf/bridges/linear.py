"""Linear bridges in closed form: ridge regression and orthogonal Procrustes."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel, Modality

RIDGE_STRENGTHS = tuple(10.0**k for k in range(-5, 3))
HELD_OUT_SHARE = 0.1


class LinearBridge(BridgeModel):
    """x ↦ x·W on normalized embeddings (paper §2): the baseline that every table needs.

    - "ridge": W = argmin ‖XW − Y‖² + λN‖W‖² = (XᵀX + λN·I)⁻¹ XᵀY.
    - "procrustes": W = argmin ‖XW − Y‖² over orthogonal W = UVᵀ, with XᵀY = UΣVᵀ (Schönemann 1966).

    Args:
        embedding_dim: D, width of the embeddings.
        kind: "ridge" or "procrustes".
        scale: norm of the normalized embeddings; λ is relative to its square.
        strength: λ of the ridge. None lets `fit` choose among `RIDGE_STRENGTHS` by the matched cosine of held-out
            items.
        fitted_strength: the λ that `fit` used, written by it.
        text_input: what becomes of text: "identity", its normalized embedding unchanged, which is where the map leads;
            or "map", the same W, so that text loses what the map cannot carry, as audio does.

    Raises:
        InputError: an unknown choice, or a strength that is not positive.

    Examples:
        >>> audio = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> text = audio.roll(1, dims=1)  # a rotation
        >>> bridge = LinearBridge(embedding_dim=8, kind="procrustes").fit(audio, text)
        >>> bool((bridge.bridge(audio) * bridge.target(text)).sum(1).mean() > 0.99)  # the matched cosine
        True
    """

    needs_pairs = True

    @register_to_config
    def __init__(
        self,
        embedding_dim: int = 512,
        kind: Literal["ridge", "procrustes"] = "ridge",
        scale: float = 5.0,
        strength: float | None = None,
        fitted_strength: float | None = None,
        text_input: Literal["identity", "map"] = "identity",
    ):
        super().__init__()
        if kind not in ("ridge", "procrustes"):
            raise InputError("kind", f"is {kind!r}", "Use 'ridge' or 'procrustes'")
        check_text_input(text_input)
        if strength is not None and not strength > 0:
            raise InputError("strength", f"is {strength}", "Use a positive number, or None to choose it")
        self._register_statistics(embedding_dim)
        self.register_buffer("weight", torch.eye(embedding_dim))

    def _fit(
        self, source: torch.Tensor, target: torch.Tensor, group: torch.Tensor, text: torch.Tensor, seed: int
    ) -> None:
        x, y = self.normalize(source.double(), "audio"), self.normalize(target.double(), "text")
        if self.config.kind == "procrustes":
            self.weight.copy_(solve_procrustes(x, y))
            return
        strength = self.config.strength or choose_ridge_strength(x, y, group, seed)
        self.register_to_config(fitted_strength=strength)
        self.weight.copy_(solve_ridge(x, y, [strength])[0])

    def _bridge(self, embeds: torch.Tensor, modality: Modality, **options: Any) -> torch.Tensor:
        x = self.normalize(embeds, modality)
        if modality == "text" and self.config.text_input == "identity":
            return x
        return x @ self.weight.to(x.dtype)


def check_text_input(text_input: str) -> None:
    """Raises InputError for what is not a way to treat text.

    Examples:
        >>> check_text_input("map")
    """
    if text_input not in ("identity", "map"):
        raise InputError("text_input", f"is {text_input!r}", "Use 'identity' or 'map'")


def solve_ridge(x: torch.Tensor, y: torch.Tensor, strengths: Sequence[float]) -> list[torch.Tensor]:
    """(XᵀX + λN·I)⁻¹ XᵀY for each λ, through one eigendecomposition XᵀX = QΛQᵀ. (N, D), (N, E) → (D, E) each.

    Examples:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> [weight[0, 0].item() for weight in solve_ridge(x, x, [0.0, 1 / 3])]  # N is 3
        [1.0, 0.5]
    """
    values, vectors = torch.linalg.eigh(x.T @ x)
    values = values.clamp(min=0)  # rounding leaves tiny negative ones
    projected = vectors.T @ (x.T @ y)
    return [vectors @ (projected / (values + strength * len(x))[:, None]) for strength in strengths]


def choose_ridge_strength(
    x: torch.Tensor,
    y: torch.Tensor,
    group: torch.Tensor | None = None,
    seed: int = 0,
    strengths: Sequence[float] = RIDGE_STRENGTHS,
) -> float:
    """The λ whose ridge, fitted on nine tenths of the items, has the best mean matched cosine on the last tenth.

    Args:
        x, y: (N, D) and (N, E) normalized pairs, N at least 2.
        group: (N,) item of each row; items are held out whole. By default each row is one.
        seed: of the choice of items.

    Raises:
        InputError: all rows are of one item.

    Examples:
        >>> x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0)).double()
        >>> choose_ridge_strength(x, x) in RIDGE_STRENGTHS
        True
    """
    held = held_out_rows(torch.arange(len(x), device=x.device) if group is None else group, HELD_OUT_SHARE, seed)
    if held.all():
        raise InputError("group", "has only one item", "Pass pairs of at least two items, or give a strength")
    weights = solve_ridge(x[~held], y[~held], strengths)
    scores = [F.cosine_similarity(x[held] @ weight, y[held], dim=-1).mean().item() for weight in weights]
    return strengths[max(range(len(scores)), key=scores.__getitem__)]


def held_out_rows(group: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """(N,) bool: rows of a random ``share`` of the items in ``group`` (N,), at least one item.

    Examples:
        >>> held_out_rows(torch.tensor([7, 7, 9, 9]), share=0.5, seed=0).sum().item()
        2
    """
    items, item = group.unique(return_inverse=True)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).to(group.device)
    return torch.isin(item, order[: max(1, round(share * len(items)))])


def solve_procrustes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The orthogonal W with the least ‖XW − Y‖² (Schönemann 1966). (N, D), (N, D) → (D, D).

    Examples:
        >>> x = torch.eye(2)
        >>> solve_procrustes(x, x.flip(1)).abs().round()
        tensor([[0., 1.],
                [1., 0.]])
    """
    u, _, vh = torch.linalg.svd(x.T @ y)
    return u @ vh
