"""The training losses of the bridges, written as the papers' equations, with every reduction explicit.

Each loss is computed for a `Share` of a batch: the losses of all shares add up to that of the batch, gradients too.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from ..errors import InputError
from .base import BridgeModel
from .diffusion_link import DiffusionLinkModel
from .sampling import TrainingNoise

Reduction = Literal["sum", "mean"]

# Readings of the paper's L_total = L_diff + L_topo, which leaves reductions and weight open (paper §3).
LOSS_PRESETS: dict[str, dict[str, Any]] = {
    # Both terms are means over their elements. What share L_topo then has depends on the embeddings.
    "paper": {"dim_reduction": "mean", "batch_reduction": "mean", "topology_reduction": "mean", "topology_weight": 1.0},
    # To the letter: squared norms, averaged over the batch, and a squared Frobenius norm, which grows with the batch.
    "literal": {"dim_reduction": "sum", "batch_reduction": "mean", "topology_reduction": "sum", "topology_weight": 1.0},
    "none": {"dim_reduction": "mean", "batch_reduction": "mean", "topology_reduction": "mean", "topology_weight": 0.0},
}

SHORTEST = 0.1  # of the text's norm: L_topo divides a shorter prediction by this much instead of its own norm


@dataclass(frozen=True)
class Share:
    """The part of a batch that one process works on at a time: number ``index`` of ``count``.

    Examples:
        >>> [Share(index, count=3).rows(8) for index in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """Consecutive rows; shares differ by one row at most."""
        return slice(batch_size * self.index // self.count, batch_size * (self.index + 1) // self.count)


WHOLE = Share()


@dataclass
class DiffusionLinkLoss:
    """``total`` = ``diffusion`` + weight · ``topology``; all ().

    Examples:
        >>> one = torch.ones(())
        >>> DiffusionLinkLoss(total=2 * one, diffusion=one, topology=one).total.item()
        2.0
    """

    total: torch.Tensor
    diffusion: torch.Tensor
    topology: torch.Tensor


def squared_error(
    target: torch.Tensor, predicted: torch.Tensor, dim_reduction: Reduction = "sum", batch_reduction: Reduction = "mean"
) -> torch.Tensor:
    """‖e − ê‖², reduced over dimensions and batch.

    Args:
        target, predicted: (B, D).

    Returns:
        ().

    Raises:
        InputError: an unknown reduction.

    Examples:
        >>> squared_error(torch.zeros(4, 3), torch.ones(4, 3)).item()
        3.0
        >>> squared_error(torch.zeros(4, 3), torch.ones(4, 3), "mean", "sum").item()
        4.0
    """
    errors = (predicted - target).square()
    errors = _reduce(errors.sum(1), dim_reduction, errors.shape[1])
    return _reduce(errors.sum(), batch_reduction, len(target))


def diffusion_loss(
    text: torch.Tensor,
    from_text: torch.Tensor | None,
    from_audio: torch.Tensor,
    dim_reduction: Reduction = "sum",
    batch_reduction: Reduction = "mean",
    batch_size: int | None = None,
) -> torch.Tensor:
    """L_diff = E[ ‖e^t − φ(e^t_s, s)‖² + ‖e^t − φ(e^a_s, s)‖² ] (paper §3).

    Args:
        text: (B, D) clean, normalized text embeddings, the target of both branches.
        from_text: (B, D) the network's prediction from noised text embeddings, or None without that branch.
        from_audio: (P, D) the same from the noised audio embeddings that belong to the first P ≤ B texts.
        dim_reduction, batch_reduction: the paper leaves them open. A sum over dimensions and a mean over the batch is
            the squared norm as it is written.
        batch_size: number of texts in the whole batch, where these are a share of it; B by default.

    Returns:
        ().

    Raises:
        InputError: an unknown reduction.

    Examples:
        >>> text = torch.ones(4, 3)
        >>> diffusion_loss(text, from_text=text, from_audio=torch.zeros(2, 3)).item()  # 2 of 4 rows, each ‖1‖² = 3
        1.5
    """
    loss = squared_error(text[: len(from_audio)], from_audio, dim_reduction, "sum")
    if from_text is not None:
        loss = loss + squared_error(text, from_text, dim_reduction, "sum")
    return _reduce(loss, batch_reduction, len(text) if batch_size is None else batch_size)


def topology_loss(
    text: torch.Tensor, generated: torch.Tensor, reduction: Reduction = "mean", batch: torch.Tensor | None = None
) -> torch.Tensor:
    """L_topo = ‖X′X′ᵀ − X′X̂′ᵀ‖²_F, rows L2-normalized: generated embeddings keep the relations of the text (paper §3).

    Column j of that matrix, X′(x′_j − x̂′_j), needs one generated row and all *text* rows, which take no gradient. So a
    batch that is spread over processes needs no gathering of predictions. Each process computes the columns of its own
    rows against the text of the whole batch.

    A prediction shorter than `SHORTEST` times its text is divided by that, not by its own norm. The network's output
    starts at zero, where normalizing has an unbounded gradient: a single one would stay in Adam's second moments and
    hold the last layer still for tens of thousands of steps.

    Args:
        text: X, (B, D).
        generated: X̂, (B, D).
        reduction: over the entries of the matrix. "sum" is the Frobenius norm to the letter. It grows with the batch
            and keeps L_diff from falling at batch 128, so the default is "mean".
        batch: (N, D) text of the whole batch where ``text`` and ``generated`` are a share of it.

    Returns:
        (), the share's part of the loss.

    Raises:
        InputError: an unknown reduction.

    Examples:
        >>> text = torch.eye(4)
        >>> topology_loss(text, 9 * text).item()  # norms do not count
        0.0
        >>> topology_loss(text, text.roll(1, 0), "sum").item()
        8.0
    """
    shortest = SHORTEST * text.norm(dim=-1, keepdim=True)
    generated = generated / generated.norm(dim=-1, keepdim=True).maximum(shortest)
    text = F.normalize(text, dim=-1)
    batch = text if batch is None else F.normalize(batch, dim=-1)
    return _reduce((batch @ (generated - text).T).square().sum(), reduction, len(batch) ** 2)


def diffusion_link_loss(
    bridge: DiffusionLinkModel,
    source: torch.Tensor,
    target: torch.Tensor,
    noise: TrainingNoise,
    share: Share = WHOLE,
    *,
    topology_weight: float = 1.0,
    topology_source: Literal["audio", "text", "both"] = "audio",
    topology_reduction: Reduction = "mean",
    dim_reduction: Reduction = "mean",
    batch_reduction: Reduction = "mean",
    text_to_text: bool = True,
) -> DiffusionLinkLoss:
    """L_total = L_diff + weight · L_topo of Diffusion-Link (paper §3).

    Both branches go through the network as one batch. Rows without a partner have the text→text branch alone, and no
    topology. Timesteps and noise are drawn for the whole batch, and L_topo compares with all of its text.

    The defaults are the reading "paper" of `LOSS_PRESETS`.

    Args:
        source, target: (P, D), (B, D), as in `BridgeModel.training_loss`.
        noise: of the training.
        share: of the batch.
        topology_weight: of L_topo; the paper leaves it open.
        topology_source: which predictions are X̂ of `topology_loss`; the paper leaves it open. "both" adds the two.
            Without the text→text branch it is always the audio's.
        topology_reduction: over the pairs of rows; see `topology_loss`.
        dim_reduction, batch_reduction: of the squared errors; see `diffusion_loss`. With a sum over dimensions beside a
            mean of the topology, L_topo would be 0.02 % of the loss.
        text_to_text: whether there is that branch. Without it, ``target`` must have no rows without a partner.

    Returns:
        The share's part of the loss of the batch.

    Raises:
        InputError: an unknown reduction or ``topology_source``.

    Examples:
        >>> from diffusion_link_hf import make_scheduler
        >>> bridge = DiffusionLinkModel(embedding_dim=8, width=16, time_embed_dim=4)
        >>> source, target = bridge.normalize(torch.randn(6, 8), "audio"), bridge.normalize(torch.randn(9, 8), "text")
        >>> noise = TrainingNoise(make_scheduler(), torch.Generator().manual_seed(0), max_timestep=1000)
        >>> loss = diffusion_link_loss(bridge, source, target, noise, topology_weight=0.0)
        >>> round(loss.total.item(), 3)  # an untrained network returns zeros: 25 / 8 for each of 9 texts and 6 sources
        5.208
    """
    if topology_source not in ("audio", "text", "both"):
        raise InputError("topology_source", f"is {topology_source!r}", "Use 'audio', 'text' or 'both'")
    rows = share.rows(len(target))
    branches = [target, source] if text_to_text else [source]
    drawn = [noise.add_to(clean) for clean in branches]
    states, timesteps = (torch.cat([part[rows] for part in parts]) for parts in zip(*drawn, strict=True))
    predicted = bridge(states, timesteps, return_dict=False)[0].float()
    text, paired = target[rows], target[: len(source)]
    own = len(source[rows])
    from_text, from_source = predicted.split([len(predicted) - own, own])
    generated = [from_source] if topology_source in ("audio", "both") or not text_to_text else []
    if topology_source in ("text", "both") and text_to_text:
        generated.append(from_text[:own])
    with torch.autocast(target.device.type, enabled=False):
        diffusion = diffusion_loss(
            text, from_text if text_to_text else None, from_source, dim_reduction, batch_reduction, len(target)
        )
        topology = diffusion.new_zeros(())
        if own:
            topology = sum(topology_loss(text[:own], part, topology_reduction, paired) for part in generated)
            topology = topology * (len(source) / len(target))
    return DiffusionLinkLoss(diffusion + topology_weight * topology, diffusion, topology)


def share_of_loss(
    bridge: BridgeModel,
    source: torch.Tensor,
    target: torch.Tensor,
    noise: TrainingNoise,
    share: Share = WHOLE,
) -> torch.Tensor:
    """A share's part of a bridge's own `BridgeModel.training_loss`.

    Args:
        source, target: (P, D), (B, D), as there.
        noise: of the training.
        share: of the batch.

    Returns:
        (): the mean over the share's rows, weighted by their number, so that all shares add up to the batch's loss.

    Examples:
        >>> from diffusion_link_hf import RegressionBridge, make_scheduler
        >>> bridge = RegressionBridge(embedding_dim=8, width=16, time_embed_dim=4)
        >>> noise = TrainingNoise(make_scheduler(), torch.Generator(), max_timestep=1000)
        >>> batch = torch.randn(7, 8), torch.randn(7, 8), noise
        >>> parts = [share_of_loss(bridge, *batch, Share(index, count=3)) for index in range(3)]
        >>> sum(parts).allclose(share_of_loss(bridge, *batch))
        True
    """
    rows = share.rows(len(target))
    loss = bridge.training_loss(source, target, noise.scheduler, noise.generator, noise.max_timestep, rows)
    return loss * ((rows.stop - rows.start) / len(target))


def _reduce(total: torch.Tensor, reduction: Reduction, count: int) -> torch.Tensor:
    """A sum over ``count`` values as it is, or their mean."""
    if reduction not in ("sum", "mean"):
        raise InputError("reduction", f"is {reduction!r}", "Use 'sum' or 'mean'")
    return total if reduction == "sum" else total / count
