"""Fits the two read-outs of a bridge: the stack, and the retrieval score from leave-one-out errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from ..errors import DataError, InputError
from ..tensors import rescale_rows
from .base import BridgeModel
from .linear import RIDGE_STRENGTHS, solve_ridge
from .readout_refining import refine
from .readouts import Readouts, source_vectors, target_vectors, unit

BLEND_WEIGHTS = (0.8, 0.6, 0.4, 0.2)  # of the bridge, beside ridge
SHRINKAGES = (0.03, 0.1, 0.3, 1.0)  # ε: relative to the mean variance of the errors
# The least variance that errors are taken to have, relative to that of the text: on pairs that are exactly linear there
# is none, and its inverse would be infinite.
LEAST_VARIANCE = 1e-6
DEFAULTS = {"stack": True, "steps": 600, "batch_size": 1024, "learning_rate": 0.005}  # of `fit_readouts`
BLOCK = 4096
CUTOFFS = (1, 5, 10)


class Pairs(Protocol):
    """Matched rows, such as `EmbeddingPairs`: (N, D) source and target, and (N,) group or None.

    Examples:
        >>> from diffusion_link_hf import EmbeddingPairs
        >>> pairs: Pairs = EmbeddingPairs(torch.ones(2, 4), torch.ones(2, 4))
    """

    source: torch.Tensor
    target: torch.Tensor
    group: torch.Tensor | None


@dataclass(frozen=True)
class ReadoutChoice:
    """What `fit_readouts` chose, and the figures on the validation pairs by which it did.

    Attributes:
        stack: the chosen one of ``stack_cosines``.
        stack_cosines: matched cosine of each candidate: "bridge alone", "blend W" of the bridge's share, and "stack λ".
        score: the chosen one of ``score_recalls``.
        score_recalls: mean of R@1, R@5 and R@10 in both directions, of each Gaussian score, "input" or
            "bridge + input" with its shrinkage ε.
        refined_steps: steps of refinement that were kept, 0 for none.
        refined_recalls: number of steps → recall, of every checkpoint of the refinement, 0 included.

    Examples:
        >>> ReadoutChoice("bridge alone", {"bridge alone": 0.6}, "input, ε 0.1", {"input, ε 0.1": 0.5}).refined_steps
        0
    """

    stack: str
    stack_cosines: dict[str, float]
    score: str
    score_recalls: dict[str, float]
    refined_steps: int = 0
    refined_recalls: dict[int, float] | None = None


@dataclass(frozen=True)
class _Rows:
    """Normalized rows in float64 on the CPU: input x, bridge's output b, text y, and text where the bridge leads to."""

    x: torch.Tensor
    b: torch.Tensor
    y: torch.Tensor
    led_to: torch.Tensor
    group: torch.Tensor

    @property
    def both(self) -> torch.Tensor:
        return torch.cat([self.b, self.x], dim=1)


def fit_readouts(
    bridge: BridgeModel,
    pairs: Pairs,
    validation: Pairs,
    *,
    stack: bool = DEFAULTS["stack"],
    steps: int = DEFAULTS["steps"],
    batch_size: int = DEFAULTS["batch_size"],
    learning_rate: float = DEFAULTS["learning_rate"],
    seed: int = 0,
    **options: Any,
) -> ReadoutChoice:
    """Give a fitted bridge its two read-outs, which are saved and loaded with it.

    One vector cannot serve cosine and retrieval alike: the mean of the texts that fit an audio has the best cosine, and
    retrieval wants back the directions that shrink in it. So a bridge gets two:

    - **The stack**, for cosine and captions. ê = [b; x]·W, a ridge of the text on the bridge's output and its input; or
      a blend of the bridge with ridge. Whichever has the best matched cosine on ``validation``; the bridge alone is
      among the candidates. From then on `BridgeModel.bridge` returns this ê for "audio".
    - **The score**, for search: log p(y | x) − log p(y) of Gaussians, whose covariances are those of leave-one-out
      errors of a ridge and of the text, each plus ε times the errors' mean variance. It is then refined by the
      symmetric cross-entropy of batches (as CLIP is trained). Features, ε and the number of steps (0 among them) are
      those of the best recall on ``validation``. See `BridgeModel.retrieval_source`.

    A score that reads the input alone does not depend on the bridge, only on its statistics. Fit read-outs before a
    decoder is trained behind the bridge, since the stack changes what the decoder sees; or pass ``stack=False``.

    Args:
        bridge: fitted or trained; it gets, or exchanges, its ``readouts``.
        pairs: rows to fit on, such as the bridge's training pairs: ``source`` (N, D), ``target`` (N, D), ``group`` (N,)
            or None. Rows of one group are left out together.
        validation: rows to choose on, of other recordings; the bridge must not have been trained on them.
        stack: whether to fit the stack.
        steps: of the refinement; 0 leaves the Gaussian score.
        batch_size: pairs of a step of the refinement, each of which has all others for negatives.
        learning_rate: of the refinement, relative to the standard deviation of each matrix.
        seed: of the refinement's batches.
        options: of `BridgeModel.bridge`, such as ``noise_timestep``.

    Returns:
        What was chosen, with the figures of all candidates.

    Raises:
        DataError: rows of a wrong width, number or content.
        InputError: ``steps``, ``batch_size`` or ``learning_rate`` out of range.

    Examples:
        >>> from diffusion_link_hf import EmbeddingPairs, MeanCentering
        >>> text = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> pairs = EmbeddingPairs(text.roll(1, dims=1) + 1, text)  # a rotation, which centering does not undo
        >>> train, validation = pairs.split(0.3, seed=0)
        >>> bridge = MeanCentering(embedding_dim=4).fit(train.source, train.target)
        >>> choice = fit_readouts(bridge, train, validation, steps=0)
        >>> choice.stack.startswith("stack"), choice.stack_cosines["bridge alone"] < 0.5
        (True, True)
        >>> bridge.retrieval_source(text[:3]).shape
        torch.Size([3, 6])
    """
    refinement = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    readouts, _, choice = compute_readouts(bridge, pairs, validation, stack=stack, **refinement, **options)
    bridge.readouts = readouts
    return choice


def compute_readouts(
    bridge: BridgeModel,
    pairs: Pairs,
    validation: Pairs,
    *,
    stack: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    **options: Any,
) -> tuple[Readouts, Readouts, ReadoutChoice]:
    """What `fit_readouts` gives a bridge, and the same with the Gaussian score and no stack; the bridge has none yet.

    Arguments and errors as `fit_readouts`. It takes away read-outs that the bridge had.

    Examples:
        >>> from diffusion_link_hf import EmbeddingPairs, IdentityBridge
        >>> train, held = EmbeddingPairs(torch.randn(40, 4), torch.randn(40, 4)).split(0.5, seed=0)
        >>> how = {**DEFAULTS, "steps": 0, "seed": 0}
        >>> readouts, gaussian, choice = compute_readouts(IdentityBridge(4), train, held, **how)
        >>> torch.equal(readouts.cross, gaussian.cross), gaussian.stack is None
        (True, True)
    """
    if steps < 0 or batch_size < 2 or not learning_rate > 0:
        raise InputError(
            "refinement",
            f"has steps {steps}, batch_size {batch_size}, learning_rate {learning_rate}",
            "Use steps of 0 or more, batches of 2 or more and a positive learning rate",
        )
    _check(bridge, pairs, "pairs")
    _check(bridge, validation, "validation")
    bridge.readouts = None  # the bridge's own output is what the read-outs are fitted on
    train, held = _rows(bridge, pairs, options), _rows(bridge, validation, options)
    cosines, matrix = _choose_stack(train, held, bridge.config.scale) if stack else ({"bridge alone": 0.0}, None)
    recalls, (predictor, start, predicted) = _choose_score(train, held)
    refined, checkpoints = start, None
    if steps:
        c, held_c = predicted, _features(held, predictor) @ predictor
        refined, checkpoints = refine(
            start,
            (c, train.y, train.group),
            lambda forms: _score_recall(forms, held_c, held),
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
        )
    both = Readouts(predictor, *refined, stack=matrix), Readouts(predictor, *start)
    place = bridge.audio_mean.device, bridge.audio_mean.dtype
    choice = ReadoutChoice(
        stack=_best(cosines),
        stack_cosines=cosines if stack else {},
        score=_best(recalls),
        score_recalls=recalls,
        refined_steps=_best(checkpoints) if checkpoints else 0,
        refined_recalls=checkpoints,
    )
    return *(torch.nn.Module.to(readouts, *place) for readouts in both), choice


def _check(bridge: BridgeModel, pairs: Pairs, name: str) -> None:
    none = pairs.target.new_empty(0, bridge.config.embedding_dim)
    bridge._check_rows(pairs.source, pairs.target, none, none, pairs.group)
    items = len(pairs.target) if pairs.group is None else len(pairs.group.unique())
    if len(pairs.source) != len(pairs.target) or items < 2:
        raise DataError(name, f"has {items} items with a partner", "Pass matched rows of at least two")


@torch.no_grad()
def _rows(bridge: BridgeModel, pairs: Pairs, options: Mapping[str, Any]) -> _Rows:
    parts = []
    for source, target in zip(pairs.source.split(BLOCK), pairs.target.split(BLOCK), strict=True):
        source, target = rescale_rows(source).to(bridge.device), target.to(bridge.device)
        bridged = bridge.bridge(source, "audio", **options)
        part = (bridge.normalize(source, "audio"), bridged, bridge.normalize(target, "text"), bridge.target(target))
        parts.append([rows.cpu().double() for rows in part])
    x, b, y, led_to = (torch.cat(rows) for rows in zip(*parts, strict=True))
    group = torch.arange(len(x)) if pairs.group is None else pairs.group.cpu()
    scale = bridge.config.scale
    return _Rows(x, unit(b) * scale, y, unit(led_to) * scale, group)


def _choose_stack(train: _Rows, held: _Rows, scale: float) -> tuple[dict[str, float], torch.Tensor | None]:
    """Matched cosine of each candidate on ``held``, and the best one's matrix (2D, D); None for the bridge alone."""
    width = train.x.shape[1]
    linear = solve_ridge(train.x, train.led_to, [_ridge_strength(train.x, train.led_to, held.x, held.led_to)])[0]
    linear = linear * scale / (train.x @ linear).norm(dim=1).mean().clamp(min=1e-12)
    eye = torch.eye(width, dtype=torch.float64)
    candidates = {"bridge alone": torch.cat([eye, 0 * eye])}
    for weight in BLEND_WEIGHTS:
        candidates[f"blend {weight}"] = torch.cat([weight * eye, (1 - weight) * linear])
    solved = solve_ridge(train.both, train.led_to, RIDGE_STRENGTHS)
    candidates |= {f"stack {strength:g}": each for strength, each in zip(RIDGE_STRENGTHS, solved, strict=True)}
    cosines = {name: _matched(held.both @ each, held.led_to) for name, each in candidates.items()}
    best = _best(cosines)
    return cosines, None if best == "bridge alone" else candidates[best]


def _choose_score(
    train: _Rows, held: _Rows
) -> tuple[dict[str, float], tuple[torch.Tensor, tuple[torch.Tensor, ...], torch.Tensor]]:
    """Recall of each Gaussian score on ``held``; the best one's predictor, (G, C, B) and leave-one-out c (N, D)."""
    recalls, found = {}, {}
    for name, own, others in (("input", train.x, held.x), ("bridge + input", train.both, held.both)):
        strength = _ridge_strength(own, train.y, others, held.y)
        (predictor,) = solve_ridge(own, train.y, [strength])
        errors = leave_one_out_errors(own, train.y, train.group, strength, predictor)
        for shrinkage in SHRINKAGES:
            forms = gaussian_forms(errors, train.y, shrinkage)
            key = f"{name}, ε {shrinkage:g}"
            recalls[key] = _score_recall(forms, others @ predictor, held)
            found[key] = predictor, forms, train.y - errors
    return recalls, found[_best(recalls)]


def leave_one_out_errors(
    x: torch.Tensor, y: torch.Tensor, group: torch.Tensor, strength: float, weight: torch.Tensor
) -> torch.Tensor:
    """Errors of y by a ridge that was fitted without the row's group.

    (I − H_gg)⁻¹ (y_g − x_g W), with H = X(XᵀX + λN·I)⁻¹Xᵀ. λN is that of all rows.

    Args:
        x, y: (N, F), (N, D) float64.
        group: (N,).
        strength: λ, positive.
        weight: W, (F, D), fitted with all rows.

    Examples:
        >>> x = torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64)
        >>> weight = (x.T @ x + 3).inverse() @ x.T @ x  # λ = 1
        >>> leave_one_out_errors(x, x, torch.arange(3), 1.0, weight)[2].item()  # from two rows: 2 − 2 · 2 / (2 + 3)
        1.2
    """
    values, vectors = torch.linalg.eigh(x.T @ x)
    # H = ZZᵀ with Z = XQ(Λ + λN)^(−½): rounding leaves no negative share of a row.
    z = x @ vectors / (values.clamp(min=0) + strength * len(x)).sqrt()
    errors = y - x @ weight
    order = group.argsort(stable=True)
    sizes = group.unique(return_counts=True)[1]
    firsts = sizes.cumsum(0) - sizes
    out = torch.empty_like(errors)
    for size in sizes.unique().tolist():
        for start in firsts[sizes == size].split(max(1, BLOCK // size)):
            rows = order[start[:, None] + torch.arange(size)]  # (M, size)
            shares = z[rows] @ z[rows].mT
            out[rows] = torch.linalg.solve(torch.eye(size, dtype=z.dtype) - shares, errors[rows])
    return out


def gaussian_forms(
    errors: torch.Tensor, y: torch.Tensor, shrinkage: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """G = C = P and B = P − Q of the score, P = (Σ + e·I)⁻¹ and Q = (Σ_y + e·I)⁻¹, e = ε·tr(Σ)/D.

    Σ = mean rrᵀ of the errors, Σ_y = mean yyᵀ. Positive definite whatever the number of rows: rounding below zero is
    cut off, and e has a floor for errors that vanish.

    Args:
        errors, y: (N, D) float64.
        shrinkage: ε, positive.

    Examples:
        >>> y = torch.eye(3, dtype=torch.float64)
        >>> cross, _, target_form = gaussian_forms(0.5 * y, y, shrinkage=1.0)  # Σ = I/12, Σ_y = I/3
        >>> round(cross[0, 0].item(), 6), round(target_form[0, 0].item(), 6)
        (6.0, 3.6)
    """
    width = y.shape[1]
    least = LEAST_VARIANCE * y.square().sum() / len(y) / width
    added = shrinkage * (errors.square().sum() / len(errors) / width).clamp(min=least)
    precision, of_text = (_inverse(rows.T @ rows / len(rows), added) for rows in (errors, y))
    return precision, precision.clone(), precision - of_text


def _inverse(covariance: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """(Σ + e·I)⁻¹ of a covariance (D, D), exactly symmetric."""
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    inverse = vectors / (values.clamp(min=0) + added) @ vectors.T
    return (inverse + inverse.T) / 2


def _features(rows: _Rows, predictor: torch.Tensor) -> torch.Tensor:
    return rows.both if predictor.shape[0] > predictor.shape[1] else rows.x


def _score_recall(forms: Sequence[torch.Tensor], c: torch.Tensor, held: _Rows) -> float:
    """Mean recall on ``held`` of the score with (G, C, B) and predictions c (N, D)."""
    # Repetitions, such as the audio of each caption of a recording, count once.
    sources = torch.cat([held.group[:, None].double(), c], dim=1).unique(dim=0)
    targets = torch.cat([held.group[:, None].double(), held.y], dim=1).unique(dim=0)
    u, v = source_vectors(sources[:, 1:], *forms[:2]), target_vectors(targets[:, 1:], forms[2])
    return mean_recall(u.float(), sources[:, 0], v.float(), targets[:, 0])  # in float64 it takes twice as long


def mean_recall(u: torch.Tensor, u_group: torch.Tensor, v: torch.Tensor, v_group: torch.Tensor) -> float:
    """Mean of R@1, R@5 and R@10, in both directions, by inner product; ties count as lost, NaN as no recall at all.

    Args:
        u, v: (N, E), (M, E); ``u_group``, ``v_group``: (N,), (M,), the item of each row.

    Examples:
        >>> rows = torch.eye(3)
        >>> mean_recall(rows, torch.arange(3), rows, torch.arange(3))
        1.0
    """
    found = []
    for queries, query_group, gallery, gallery_group in ((u, u_group, v, v_group), (v, v_group, u, u_group)):
        ranks = []
        for rows, groups in zip(queries.split(BLOCK // 4), query_group.split(BLOCK // 4), strict=True):
            scores, own = rows @ gallery.T, groups[:, None] == gallery_group
            best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
            lost = torch.where(best[:, 0].isfinite(), 0, max(CUTOFFS))
            ranks.append(((scores >= best) & ~own).sum(1) + lost)
        ranks = torch.cat(ranks)
        found += [(ranks < k).double().mean() for k in CUTOFFS]
    return torch.stack(found).mean().item()


def _ridge_strength(x: torch.Tensor, y: torch.Tensor, held_x: torch.Tensor, held_y: torch.Tensor) -> float:
    """The λ of `RIDGE_STRENGTHS` with the best matched cosine on the held-out rows."""
    weights = solve_ridge(x, y, RIDGE_STRENGTHS)
    cosines = {s: _matched(held_x @ weight, held_y) for s, weight in zip(RIDGE_STRENGTHS, weights, strict=True)}
    return _best(cosines)


def _matched(predicted: torch.Tensor, target: torch.Tensor) -> float:
    return F.cosine_similarity(predicted, target, dim=-1).mean().item()


def _best(figures: Mapping[Any, float]) -> Any:
    """The key of the highest figure, the first of equal ones."""
    return max(figures, key=figures.__getitem__)
