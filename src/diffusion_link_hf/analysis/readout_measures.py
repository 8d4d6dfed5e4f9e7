"""The read-outs of a bridge on held-out recordings: cosine, stack and scores, each with and without CSLS."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..bridges.base import BridgeModel
from ..bridges.readout_fitting import DEFAULTS, ReadoutChoice, compute_readouts
from ..embeddings.pairs import EmbeddingPairs
from .bootstrap import Estimate, GroupBootstrap
from .retrieval import CUTOFFS, csls, recall
from .similarity import matched_cosine, unit_rows

# What ranks: cosine of the bridge's own output, cosine of the stack, and the two scores.
SCORES = ("cosine", "stack", "gaussian", "refined")
WITH_CSLS = " + CSLS"
BANK_ROWS = 4000  # training rows of the bank of CSLS
BATCH = 4096

Vectors = tuple[torch.Tensor, torch.Tensor]  # (N, E) of the sources, (N, E) of the targets


@dataclass(frozen=True)
class ReadoutFigures:
    """The read-outs of one bridge.

    Attributes:
        recalls: of each read-out ("cosine", "cosine + CSLS", "stack", … "refined + CSLS"), what `recall` gives.
        matched: matched cosine of the chosen ê, that of the stack or of the bridge alone.
        validation: of each read-out, the mean of all its recalls on the validation pairs.
        choice: what `fit_readouts` chose.
    """

    recalls: dict[str, dict[str, Estimate]]
    matched: Estimate
    validation: dict[str, float]
    choice: ReadoutChoice

    @property
    def chosen(self) -> str:
        """The read-out with the best recall on the validation pairs, the first of equal ones."""
        return max(self.validation, key=self.validation.__getitem__)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What the validation pairs chose: ``matched_audio``, and `recall`'s of the chosen read-out."""
        return {"matched_audio": self.matched, **self.recalls[self.chosen]}


def measure_readouts(
    bridge: BridgeModel,
    train: EmbeddingPairs,
    validation: EmbeddingPairs,
    held_out: EmbeddingPairs,
    boot: GroupBootstrap,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ReadoutFigures:
    """Fit read-outs on ``train``, choose on ``validation``, measure on ``held_out``. The bridge stays as it is.

    Args:
        boot: of the held-out groups.
        options: of `BridgeModel.bridge`.
        seed: of the refinement and of the bank of CSLS.

    Raises:
        DataError: see `fit_readouts`.
    """
    options = options or {}
    gaussian, refined = copy.deepcopy(bridge), copy.deepcopy(bridge)
    found = compute_readouts(copy.deepcopy(bridge), train, validation, seed=seed, **DEFAULTS, **options)
    refined.readouts, gaussian.readouts, choice = found
    order = torch.randperm(len(train.source), generator=torch.Generator().manual_seed(seed))
    bank = train.select(order[:BANK_ROWS])
    alone = GroupBootstrap(validation.group.numpy(), resamples=1)
    recalls, on_validation, matched = {}, {}, None
    # `gaussian` has no stack, so that its ê is the bridge's own.
    for score, of in zip(SCORES, (gaussian, refined, gaussian, refined), strict=True):
        by_score = score in ("gaussian", "refined")
        of_bank, of_validation, of_held_out = (
            _vectors(of, pairs, by_score, options) for pairs in (bank, validation, held_out)
        )
        if score == "stack":
            matched = matched_cosine(*of_held_out, held_out.group, boot)
        for name, correct in ((score, False), (score + WITH_CSLS, True)):
            found = recall(
                *(csls(*of_held_out, *of_bank) if correct else of_held_out), held_out.group, boot, CUTOFFS, True
            )
            chosen = csls(*of_validation, *of_bank) if correct else of_validation
            figures = recall(*chosen, validation.group, alone, CUTOFFS, True).values()
            recalls[name], on_validation[name] = found, float(np.mean([figure.value for figure in figures]))
    return ReadoutFigures(recalls, matched, on_validation, choice)


def _vectors(bridge: BridgeModel, pairs: EmbeddingPairs, by_score: bool, options: Mapping[str, Any]) -> Vectors:
    """Vectors of both sides whose inner product ranks, in float64; equal rows have equal ones."""
    if not by_score:
        source = _each(lambda rows: bridge.bridge(rows, "audio", **options), pairs.source, bridge)
        return unit_rows(source), unit_rows(_each(bridge.target, pairs.target, bridge))
    source = _each(lambda rows: bridge.retrieval_source(rows, **options), pairs.source, bridge)
    return source, _each(bridge.retrieval_target, pairs.target, bridge)


@torch.no_grad()
def _each(compute: Any, embeds: torch.Tensor, bridge: BridgeModel) -> torch.Tensor:
    distinct, place = embeds.unique(dim=0, return_inverse=True)
    return torch.cat([compute(rows.to(bridge.device)).cpu().double() for rows in distinct.split(BATCH)])[place]
