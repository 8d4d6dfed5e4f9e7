"""The training losses of Diffusion-Link, written as the paper's equations, with every reduction explicit."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from ..errors import InputError

Reduction = Literal["sum", "mean"]

SHORTEST = 0.1  # of the text's norm: L_topo divides a shorter prediction by this much instead of its own norm


@dataclass
class DiffusionLinkLoss:
    """``total`` = ``diffusion`` + weight · ``topology``; all ()."""

    total: torch.Tensor
    diffusion: torch.Tensor
    topology: torch.Tensor


def _reduce(values: torch.Tensor, reduction: Reduction, dim: int | tuple[int, ...]) -> torch.Tensor:
    if reduction not in ("sum", "mean"):
        raise InputError("reduction", f"is {reduction!r}", "Use 'sum' or 'mean'")
    return values.sum(dim) if reduction == "sum" else values.mean(dim)


def squared_error(
    target: torch.Tensor, predicted: torch.Tensor, dim_reduction: Reduction = "sum", batch_reduction: Reduction = "mean"
) -> torch.Tensor:
    """‖e − ê‖², over dimensions and batch. (B, D), (B, D) → ()."""
    return _reduce(_reduce((predicted - target).square(), dim_reduction, 1), batch_reduction, 0)


def diffusion_loss(
    text: torch.Tensor,
    from_text: torch.Tensor,
    from_audio: torch.Tensor | None,
    dim_reduction: Reduction = "sum",
    batch_reduction: Reduction = "mean",
) -> torch.Tensor:
    """L_diff = E[ ‖e^t − φ(e^t_s, s)‖² + ‖e^t − φ(e^a_s, s)‖² ] (paper §3).

    Args:
        text: (B, D) clean, normalized text embeddings, the target of both branches.
        from_text: (B, D) the network's prediction from noised text embeddings.
        from_audio: (B, D) the same from the paired noised audio embeddings, or None where there is no audio.
        dim_reduction, batch_reduction: the paper leaves them open; a sum over dimensions and a mean over the batch is
            the squared norm as it is written.
    """
    loss = squared_error(text, from_text, dim_reduction, batch_reduction)
    if from_audio is not None:
        loss = loss + squared_error(text, from_audio, dim_reduction, batch_reduction)
    return loss


def topology_loss(
    text: torch.Tensor, generated: torch.Tensor, reduction: Reduction = "mean", batch: torch.Tensor | None = None
) -> torch.Tensor:
    """L_topo = ‖X′X′ᵀ − X′X̂′ᵀ‖²_F, rows L2-normalized: generated embeddings keep the relations of the text (paper §3).

    Column j of that matrix, X′(x′_j − x̂′_j), needs one generated row and all *text* rows, which take no gradient. So a
    batch that is spread over processes needs no gathering of predictions: each computes the columns of its own rows
    against the text of the whole batch, and the shares add up to the loss, and their gradients to its gradient.

    A prediction shorter than `SHORTEST` times its text is divided by that, not by its own norm. The network's output
    starts at zero, where normalizing has an unbounded gradient: a single one would stay in Adam's second moments and
    hold the last layer still for tens of thousands of steps.

    Args:
        text: X, (B, D).
        generated: X̂, (B, D).
        reduction: over the B² entries. "sum" is the Frobenius norm to the letter; it grows with the batch and keeps
            L_diff from falling at batch 128, so the default is "mean".
        batch: (N, D) text of the whole batch where ``text`` and ``generated`` are a share of it; reduced are then the
            N · B entries of the share.
    """
    shortest = SHORTEST * text.norm(dim=-1, keepdim=True)
    generated = generated / generated.norm(dim=-1, keepdim=True).maximum(shortest)
    text = F.normalize(text, dim=-1)
    batch = text if batch is None else F.normalize(batch, dim=-1)
    return _reduce((batch @ (generated - text).T).square(), reduction, (0, 1))


def total_loss(
    text: torch.Tensor,
    from_text: torch.Tensor,
    from_audio: torch.Tensor | None,
    topology_weight: float = 1.0,
    topology_source: Literal["audio", "text", "both"] = "audio",
    topology_reduction: Reduction = "mean",
    dim_reduction: Reduction = "sum",
    batch_reduction: Reduction = "mean",
    batch: torch.Tensor | None = None,
) -> DiffusionLinkLoss:
    """L_total = L_diff + weight · L_topo (paper §3).

    Args:
        topology_source: which predictions are X̂; the paper leaves it open. "both" adds the two.
        batch: (N, D) text of the whole batch where the other rows are a share of it. The losses of shares that cover
            the batch add up to its loss.
    """
    portion = 1.0 if batch is None else len(text) / len(batch)
    diffusion = diffusion_loss(text, from_text, from_audio, dim_reduction, batch_reduction)
    if batch_reduction == "mean":
        diffusion = diffusion * portion
    if topology_source not in ("audio", "text", "both"):
        raise InputError("topology_source", f"is {topology_source!r}", "Use 'audio', 'text' or 'both'")
    sources = []
    if topology_source in ("audio", "both") and from_audio is not None:
        sources.append(from_audio)
    if topology_source in ("text", "both"):
        sources.append(from_text)
    losses = (topology_loss(text, source, topology_reduction, batch) for source in sources)
    topology = sum(losses, diffusion.new_zeros(()))
    if topology_reduction == "mean":
        topology = topology * portion
    return DiffusionLinkLoss(diffusion + topology_weight * topology, diffusion, topology)
