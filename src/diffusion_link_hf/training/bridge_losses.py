"""The losses of a training batch, whole or a share of it: of Diffusion-Link, and of any bridge that brings its own."""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDIMScheduler

from ..bridges.base import BridgeModel
from ..bridges.denoisers import draw_noised
from ..bridges.diffusion_link import DiffusionLinkModel
from ..bridges.losses import DiffusionLinkLoss, Reduction, total_loss


@dataclass(frozen=True)
class Share:
    """The part of a batch that one process works on at a time: number ``index`` of ``count``.

    The losses of all shares of a batch add up to the loss of the batch.
    """

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """Consecutive rows; shares differ by one row at most."""
        return slice(batch_size * self.index // self.count, batch_size * (self.index + 1) // self.count)


WHOLE = Share()


def own_loss(
    bridge: BridgeModel,
    source: torch.Tensor,
    target: torch.Tensor,
    scheduler: DDIMScheduler,
    generator: torch.Generator,
    max_train_timestep: int,
    share: Share = WHOLE,
    **options,
) -> torch.Tensor:
    """The bridge's ``training_loss`` of a share of the batch.

    That method takes the whole batch, draws timesteps and noise for all of it, and returns the mean over ``rows``, a
    slice of its targets. So the shares' losses add up to that of the batch to rounding, gradients too.
    """
    rows = share.rows(len(target))
    loss = bridge.training_loss(source, target, scheduler, generator, max_train_timestep, rows=rows, **options)
    return loss * ((rows.stop - rows.start) / len(target))


def link_loss(
    bridge: DiffusionLinkModel,
    source: torch.Tensor,
    target: torch.Tensor,
    scheduler: DDIMScheduler,
    generator: torch.Generator,
    max_train_timestep: int,
    share: Share = WHOLE,
    *,
    text_to_text: bool = True,
    topology_weight: float = 1.0,
    topology_source: Literal["audio", "text", "both"] = "audio",
    topology_reduction: Reduction = "mean",
    dim_reduction: Reduction = "sum",
    batch_reduction: Reduction = "mean",
) -> DiffusionLinkLoss:
    """L_diff + weight · L_topo of Diffusion-Link (paper §3); the reductions are those of `bridges.losses.total_loss`.

    Both branches go through the network as one batch. Rows without a partner have the text→text branch alone.

    Args:
        share: of the batch. Timesteps and noise are drawn for the whole batch, and the topology loss compares with its
            text, so that the shares' losses add up to that of the batch to rounding, gradients too.
        text_to_text: whether there is that branch; without it ``target`` must have no such rows.
    """
    rows = share.rows(len(target))
    drawn = [draw_noised(target, scheduler, max_train_timestep, generator)] if text_to_text else []
    drawn.append(draw_noised(source, scheduler, max_train_timestep, generator))
    states, timesteps = (torch.cat([part[rows] for part in parts]) for parts in zip(*drawn, strict=True))
    predicted = bridge(states, timesteps, return_dict=False)[0].float()
    text, paired, own = target[rows], len(source), len(source[rows])
    options = {
        "topology_weight": topology_weight,
        "topology_reduction": topology_reduction,
        "dim_reduction": dim_reduction,
        "batch_reduction": batch_reduction,
    }
    parts = []  # with the share of the batch that rows of their kind have
    with torch.autocast(target.device.type, enabled=False):
        if not text_to_text:
            return total_loss(text, predicted, None, topology_source="text", batch=target, **options)
        from_text, from_source = predicted.split([len(text), own])
        if own:
            both = total_loss(
                text[:own],
                from_text[:own],
                from_source,
                topology_source=topology_source,
                batch=target[:paired],
                **options,
            )
            parts.append((paired / len(target), both))
        if own < len(text):
            alone = total_loss(text[own:], from_text[own:], None, batch=target[paired:], **options)
            parts.append((1 - paired / len(target), alone))
    return DiffusionLinkLoss(
        total=sum(weight * part.total for weight, part in parts),
        diffusion=sum(weight * part.diffusion for weight, part in parts),
        topology=sum(weight * part.topology for weight, part in parts),
    )
