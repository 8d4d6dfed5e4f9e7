"""Recall@k in both directions, with several captions per recording and ties counted as they would fall by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InputError
from .bootstrap import Estimate, GroupBootstrap
from .similarity import distinct_items, unit_rows

CUTOFFS = (1, 5, 10)
# Below float32's resolution of a cosine: two rows that are equal may differ so much by the place they had in a batch.
TIE = 1e-6
BLOCK = 256  # queries compared with the whole gallery at once


@dataclass(frozen=True)
class Ranking:
    """Where each query finds the first of its own items.

    Attributes:
        group: (Q,) the recording of each query.
        better: (Q,) items of other recordings that are more similar than the most similar own one.
        tied: (Q,) items of other recordings as similar as that one.
        own: (Q,) own items as similar as that one, at least 1.
    """

    group: np.ndarray
    better: np.ndarray
    tied: np.ndarray
    own: np.ndarray

    def hits(self, k: int) -> np.ndarray:
        """(Q,) probability that an own item is among the first k when equal ones come in random order.

        Of the own + tied equal items, k − better stand within the first k; none of them is an own one with probability
        C(tied, k − better) / C(own + tied, k − better). Without ties that is 0 or 1. So a bridge that sends everything
        to one point scores chance, whatever the order of the rows.
        """
        missed = np.ones(len(self.group))
        places = np.maximum(k - self.better, 0)
        for taken in range(int(places.max(initial=0))):
            left = np.maximum(self.tied - taken, 0) / np.maximum(self.own + self.tied - taken, 1)
            missed = np.where(taken < places, missed * left, missed)
        return 1 - missed


def rank_items(
    queries: torch.Tensor, query_group: torch.Tensor, gallery: torch.Tensor, gallery_group: torch.Tensor
) -> Ranking:
    """Rank a gallery by cosine for every query; items of the query's recording are the ones to find.

    Args:
        queries, gallery: (Q, D), (M, D) of any norm but zero.
        query_group, gallery_group: (Q,), (M,) the recording of each row.

    Raises:
        InputError: a query without any item of its own in the gallery.
    """
    return rank_by_product(unit_rows(queries), query_group, unit_rows(gallery), gallery_group, tie=TIE)


def rank_by_product(
    queries: torch.Tensor,
    query_group: torch.Tensor,
    gallery: torch.Tensor,
    gallery_group: torch.Tensor,
    tie: float | None = None,
) -> Ranking:
    """As `rank_items`, by inner product, such as of `BridgeModel.retrieval_source` and `retrieval_target`.

    Args:
        queries, gallery: (Q, E), (M, E) float64.
        tie: difference up to which scores are equal; by default `TIE` times the largest score of a query.

    Examples:
        >>> rows, group = torch.eye(2).double(), torch.arange(2)
        >>> rank_by_product(rows, group, 5 * rows, group).better
        array([0, 0])
    """
    query_group, gallery_group = query_group.cpu(), gallery_group.cpu()
    if not torch.isin(query_group, gallery_group).all():
        raise InputError("gallery_group", "has no item for the recording of a query", "Add an item for every query")
    counts = []
    for rows, groups in zip(queries.split(BLOCK), query_group.split(BLOCK), strict=True):
        scores = rows @ gallery.T
        own = groups[:, None] == gallery_group
        best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        margin = TIE * scores.abs().amax(1, keepdim=True) if tie is None else tie
        better, equal = scores > best + margin, (scores - best).abs() <= margin
        counts.append(torch.stack([(better & ~own).sum(1), (equal & ~own).sum(1), (equal & own).sum(1)]))
    better, tied, own = torch.cat(counts, dim=1).numpy() if counts else np.zeros((3, 0), dtype=np.int64)
    return Ranking(query_group.numpy(), better, tied, own)


def recall(
    generated: torch.Tensor,
    target: torch.Tensor,
    group: torch.Tensor,
    boot: GroupBootstrap,
    cutoffs: Sequence[int] = CUTOFFS,
    by_product: bool = False,
) -> dict[str, Estimate]:
    """Recall@k source → target and target → source: ``source_to_target_r1`` and so on.

    Source → target: a bridged source item finds any one of its recording's targets among all targets (as AudioCaps'
    audio → text with five captions). Target → source: each target finds its recording among the bridged sources. An
    embedding repeated within a recording, as the audio of several captions, counts as one item.

    Args:
        generated: (N, D) bridged sources.
        target: (N, D) real targets, in the space that the bridge leads to.
        group: (N,) the recording of each row.
        boot: made with the same groups.
        cutoffs: the k.
        by_product: whether items are ranked by inner product instead of cosine.

    Raises:
        InputError: k below 1.

    Examples:
        >>> group = torch.tensor([0, 1, 2])
        >>> boot = GroupBootstrap(group.numpy(), resamples=20)
        >>> found = recall(torch.eye(3), torch.eye(3)[[0, 2, 1]], group, boot, cutoffs=[1, 3])
        >>> round(found["source_to_target_r1"].value, 3), found["target_to_source_r3"].value
        (0.333, 1.0)
    """
    if any(k < 1 for k in cutoffs):
        raise InputError("cutoffs", f"are {tuple(cutoffs)}", "Use whole numbers from 1")
    sides = {name: distinct_items(rows, group) for name, rows in (("source", generated), ("target", target))}
    rank = rank_by_product if by_product else rank_items
    found = {}
    for query, gallery in (("source", "target"), ("target", "source")):
        ranking = rank(*sides[query], *sides[gallery])
        for k in cutoffs:
            found[f"{query}_to_{gallery}_r{k}"] = boot.mean(ranking.hits(k), ranking.group)
    return found


def csls(
    u: torch.Tensor, v: torch.Tensor, bank_u: torch.Tensor, bank_v: torch.Tensor, neighbors: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """CSLS (Conneau et al., ICLR 2018, https://arxiv.org/abs/1710.04087) as vectors: 2s(u, v) − r(u) − r(v).

    r is an item's mean score with its best ``neighbors`` of a bank of the other side. It takes from items that lie near
    everything, such as generic captions, what they have over the others.

    Args:
        u, v: (N, E), (M, E) of the two sides; the score s is their inner product.
        bank_u, bank_v: (K, E), (L, E) training rows of either side.
        neighbors: k; all of a smaller bank.

    Returns:
        (N, E + 2) and (M, E + 2), whose inner product is the corrected score.

    Examples:
        >>> one = torch.eye(2).double()
        >>> u, v = csls(one, one, one, one, neighbors=1)
        >>> u @ v.T
        tensor([[ 0., -2.],
                [-2.,  0.]], dtype=torch.float64)
    """

    def density(rows: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
        best = [(part @ bank.T).topk(min(neighbors, len(bank)), dim=1).values.mean(1) for part in rows.split(BLOCK)]
        return torch.cat(best)[:, None]

    one_u, one_v = torch.ones_like(u[:, :1]), torch.ones_like(v[:, :1])
    return torch.cat([2 * u, -density(u, bank_v), one_u], dim=1), torch.cat([v, one_v, -density(v, bank_u)], dim=1)
