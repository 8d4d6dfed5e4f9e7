"""Refines the retrieval score of a bridge: symmetric cross-entropy over batches, stopped where validation is best."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from .readouts import source_vectors, target_vectors

CHECKPOINTS = 24  # of a refinement, beside its start
PATIENCE = 6  # checkpoints without a better one, after which it ends
EMA_DECAY = 0.95
START_TEMPERATURE = math.exp(-1.7)  # the scale of the logits, which is learned

Forms = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def refine(
    start: Forms,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    recall: Callable[[Forms], float],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> tuple[Forms, dict[int, float]]:
    """(G, C, B) that find the right partner among those of a batch, starting from the Gaussian score.

    Adam on the mean of both directions' cross-entropies, with a cosine schedule to zero and averaged weights. Partners
    of other rows of one's own item are no negatives. Predictions are leave-one-out, or the score would trust them too
    much.

    Args:
        start: (D, D) each, float64.
        rows: leave-one-out predictions c (N, D), text y (N, D), and group (N,).
        recall: of some (G, C, B), on validation rows.
        steps, batch_size, learning_rate, seed: see `fit_readouts`.

    Returns:
        The checkpoint of the best recall, of equal ones the first, and every checkpoint's recall by its step; step 0 is
        ``start`` itself.

    Examples:
        >>> eye, rows = torch.eye(2).double(), torch.randn(8, 2).double()
        >>> best, recalls = refine(
        ...     (eye, eye, eye), (rows, rows, torch.arange(8)), lambda forms: -1.0 * (forms[0] != eye).any(),
        ...     steps=3, batch_size=4, learning_rate=0.1, seed=0,
        ... )
        >>> torch.equal(best[0], eye), list(recalls)
        (True, [0, 1, 2, 3])
    """
    c, y = (each.float() for each in rows[:2])
    group, generator = rows[2], torch.Generator().manual_seed(seed)
    weights = [form.float().requires_grad_() for form in start]
    log_scale = torch.tensor(math.log(START_TEMPERATURE), requires_grad=True)
    # Relative to each matrix: their entries differ by orders of magnitude.
    rates = [learning_rate * form.std().clamp(min=1e-12).item() for form in weights]
    groups = [{"params": [each], "lr": rate} for each, rate in zip(weights, rates, strict=True)]
    optimizer = torch.optim.Adam([*groups, {"params": [log_scale], "lr": learning_rate}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    averaged = [each.detach().clone() for each in weights]
    best, best_step, recalls = start, 0, {0: recall(start)}
    every = max(1, steps // CHECKPOINTS)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(c), (min(batch_size, len(c)),), generator=generator).unique()
        loss = _loss(weights, log_scale, c[chosen], y[chosen], group[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for mean, each in zip(averaged, weights, strict=True):
            mean.lerp_(each.detach(), 1 - EMA_DECAY)
        if step % every == 0 or step == steps:
            forms = tuple(each.double() for each in averaged)
            recalls[step] = recall(forms) if all(each.isfinite().all() for each in forms) else 0.0
            if recalls[step] > recalls[best_step]:
                best, best_step = forms, step
            elif step - best_step >= PATIENCE * every:
                break
    return best, recalls


def _loss(
    weights: list[torch.Tensor], log_scale: torch.Tensor, c: torch.Tensor, y: torch.Tensor, group: torch.Tensor
) -> torch.Tensor:
    cross, source_form, target_form = weights
    logits = source_vectors(c, cross, source_form) @ target_vectors(y, target_form).T * log_scale.exp()
    place = torch.arange(len(c))
    others_of_own = (group[:, None] == group) & (place[:, None] != place)
    logits = logits.masked_fill(others_of_own, -torch.inf)
    return (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, place)) / 2
