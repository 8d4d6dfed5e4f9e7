"""Matched and not-matched cosine between generated and real text embeddings (Table 1 of the paper)."""

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import InputError
from .bootstrap import Estimate, GroupBootstrap


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """(N, D) → (N, D) float64 of norm 1."""
    return F.normalize(rows.detach().to("cpu", torch.float64), dim=-1)


def distinct_items(rows: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (N, D) without repetitions within a group, float64 (K, D), and their groups (K,), sorted."""
    items, item = group.cpu().unique(return_inverse=True)
    # Numbered anew, groups are exact in the rows' own dtype.
    tagged = torch.cat([item.double()[:, None], rows.detach().cpu().double()], dim=1).unique(dim=0)
    return tagged[:, 1:], items[tagged[:, 0].long()]


def matched_cosine(
    generated: torch.Tensor, target: torch.Tensor, group: torch.Tensor, boot: GroupBootstrap
) -> Estimate:
    """Mean of cos(ê_i, e_i) over the rows i.

    Args:
        generated, target: (N, D) of any norm but zero; row i belongs to row i.
        group: (N,) the recording of each row.
        boot: made with the same groups.

    Raises:
        InputError: unequal shapes.

    Examples:
        >>> import torch
        >>> group = torch.tensor([0, 1])
        >>> text, boot = torch.eye(2), GroupBootstrap(group.numpy(), resamples=20)
        >>> matched_cosine(2 * text, text, group, boot).value
        1.0
    """
    _check(generated, target, group)
    return boot.mean((unit_rows(generated) * unit_rows(target)).sum(1).numpy(), group.cpu().numpy())


def unmatched_cosine(
    generated: torch.Tensor, target: torch.Tensor, group: torch.Tensor, boot: GroupBootstrap
) -> Estimate:
    """Mean of cos(ê_i, e_j) over *all* pairs of rows (i, j) of different recordings, not over a drawn few.

    Computed from the sums over recordings, S_g = Σ ê and T_g = Σ e, as (Σ_g S_g · Σ_g T_g − Σ_g S_g·T_g) over the
    number of such pairs. In a resample, a recording that was drawn twice is not a pair with its own copy.

    Arguments and errors as `matched_cosine`; also InputError where all rows are of one recording.

    Examples:
        >>> import torch
        >>> group = torch.tensor([0, 1])
        >>> text, boot = torch.eye(2), GroupBootstrap(group.numpy(), resamples=20)
        >>> unmatched_cosine(text, text, group, boot).value
        0.0
    """
    _check(generated, target, group)
    if len(boot.items) < 2:
        raise InputError("group", "has only one recording", "Pass at least two: not-matched pairs need them")
    group = group.cpu().numpy()
    s, t = (boot.group_sums(unit_rows(rows).numpy(), group) for rows in (generated, target))
    sizes = boot.group_sums(np.ones((len(group), 1)), group)[:, 0]
    own = (s * t).sum(1)

    def mean(counts: np.ndarray) -> np.ndarray:
        total = ((counts @ s) * (counts @ t)).sum(1) - counts**2 @ own
        pairs = (counts @ sizes) ** 2 - counts**2 @ sizes**2
        # A resample of one recording over and over has no such pair; with a handful of recordings that does happen.
        return np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)

    return boot.statistic(mean)


def _check(generated: torch.Tensor, target: torch.Tensor, group: torch.Tensor) -> None:
    if generated.ndim != 2 or generated.shape != target.shape:
        raise InputError(
            "generated", f"has shape {tuple(generated.shape)}, target {tuple(target.shape)}", "Pass matched rows (N, D)"
        )
    if group.shape != (len(target),):
        raise InputError("group", f"has shape {tuple(group.shape)}", f"Use ({len(target)},), one number per row")
