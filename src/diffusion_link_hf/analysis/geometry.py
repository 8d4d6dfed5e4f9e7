"""How two clouds of embeddings lie to each other: centroids, linear separability, dimension, KL divergence.

All functions take (N, D) and (M, D) floats of any norm but zero, L2-normalize them, and compute in float64.
"""

import math

import torch

from ..bridges.linear import held_out_rows
from ..errors import InputError
from .similarity import unit_rows

# Axes of the text in which the KL divergence is taken. Real captions have an effective dimension of about 40, and a
# Gaussian in 32 dimensions is well determined by 1,000 rows, the paper's number of pairs.
KL_COMPONENTS = 32
RANK_TOLERANCE = 1e-10  # of the largest eigenvalue; what is below is rounding


def centroid_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖mean(a) − mean(b)‖, 0 to 2: the modality gap of Liang et al. (NeurIPS 2022).

    Examples:
        >>> centroid_distance(torch.eye(2), -torch.eye(2)) == 2**0.5
        True
    """
    return (unit_rows(a).mean(0) - unit_rows(b).mean(0)).norm().item()


def linear_separability(
    a: torch.Tensor,
    b: torch.Tensor,
    group_a: torch.Tensor,
    group_b: torch.Tensor,
    seed: int = 0,
    held_out: float = 0.5,
    shrinkage: float = 1e-3,
) -> float:
    """Balanced accuracy with which a linear classifier tells ``a`` from ``b`` on recordings that it has not seen.

    Fisher's discriminant w = (Σ + λI)⁻¹(μ_a − μ_b), Σ the mean of both covariances, λ = ``shrinkage`` · tr(Σ)/D, cut
    half-way between the means. 0.5: nothing to tell; 1: two separate regions. It sees differences of the means alone,
    as any linear rule does, so centering brings it down to 0.5 without making the clouds alike.

    Args:
        group_a, group_b: (N,), (M,) the recording of each row; both sides of one are held out together.
        seed: of the choice of held-out recordings.
        held_out: their share.

    Raises:
        InputError: fewer than two rows of a side on either side of the split.

    Examples:
        >>> rows = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
        >>> linear_separability(rows + 9, rows - 9, torch.arange(100), torch.arange(100))
        1.0
        >>> linear_separability(rows, rows, torch.arange(100), torch.arange(100))
        0.5
    """
    a, b, group_a, group_b = unit_rows(a), unit_rows(b), group_a.cpu(), group_b.cpu()
    held = held_out_rows(torch.cat([group_a, group_b]), held_out, seed)
    held_a, held_b = held[: len(a)], held[len(a) :]
    if min(int(part.sum()) for side in (held_a, held_b) for part in (side, ~side)) < 2:
        raise InputError("group", "has too few recordings to hold some out", "Pass at least four")
    means = [rows[~part].mean(0) for rows, part in ((a, held_a), (b, held_b))]
    spread = (torch.cov(a[~held_a].T) + torch.cov(b[~held_b].T)) / 2
    level = shrinkage * spread.trace() / len(spread)
    if level == 0:  # two points: any direction between them will do
        level = spread.new_ones(())
    w = torch.linalg.solve(spread + level * torch.eye(len(spread), dtype=spread.dtype), means[0] - means[1])
    cut = w @ (means[0] + means[1]) / 2
    # A row on the cut is nobody's: half a hit for either side.
    hits = [
        ((side > 0).double() + (side == 0).double() / 2).mean().item()
        for side in (a[held_a] @ w - cut, cut - b[held_b] @ w)
    ]
    return sum(hits) / 2


def effective_dimension(rows: torch.Tensor) -> float:
    """Participation ratio (Σλ)² / Σλ² of the covariance's eigenvalues, 1 to D; 0 where all rows are equal.

    D for a round cloud, k for one that fills k directions evenly. It falls when a bridge draws everything towards the
    mean of what it has seen.

    Examples:
        >>> round(effective_dimension(torch.cat([torch.eye(3), -torch.eye(3)])), 6)
        3.0
    """
    rows = unit_rows(rows)
    centered = rows - rows.mean(0)
    # tr(C)² / tr(C²) is the same ratio, and needs no eigenvalues.
    covariance = centered.T @ centered
    if covariance.trace() <= RANK_TOLERANCE * len(rows):
        return 0.0
    return (covariance.trace() ** 2 / covariance.square().sum()).item()


def principal_axes(rows: torch.Tensor, components: int = KL_COMPONENTS) -> torch.Tensor:
    """The first principal axes of ``rows`` about their mean, (D, k) orthonormal float64, k ≤ ``components``.

    Fewer than asked for where the rows do not span as many directions.

    Raises:
        InputError: fewer than one component, or all rows equal.

    Examples:
        >>> principal_axes(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).shape
        torch.Size([3, 2])
    """
    if components < 1:
        raise InputError("components", f"is {components}", "Use at least 1")
    rows = unit_rows(rows)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > max(RANK_TOLERANCE * values[0].item(), RANK_TOLERANCE**2)).sum())
    if not rank:
        raise InputError("rows", "are all equal", "Pass rows that differ")
    return vectors[:, : min(components, rank)]


def kl_divergence(generated: torch.Tensor, real: torch.Tensor, axes: torch.Tensor) -> float:
    """KL(generated ‖ real) of two clouds in a subspace of the real text, in nats, by `gaussian_kl`.

    Why not k nearest neighbors (Wang, Kulkarni and Verdú 2009), which need no model: with about 1,000 rows in hundreds
    of dimensions all distances are nearly equal, the estimate is mostly bias, and captions that occur twice make it
    infinite. In a few dozen principal axes of the real text, projections are close to Gaussian, the estimate has a
    closed form, and equal clouds come out at zero. What it does not see: differences beyond mean and covariance, or
    outside of these axes.

    Args:
        generated, real: (N, D), (M, D).
        axes: (D, k) orthonormal, from `principal_axes` of other real text.

    Raises:
        InputError: see `gaussian_kl`.

    Examples:
        >>> text = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
        >>> axes = principal_axes(text, 3)
        >>> abs(kl_divergence(text[:100], text[100:], axes)) < 0.2 < kl_divergence(text[:100] + 1, text[100:], axes)
        True
    """
    axes = axes.cpu().double()
    return gaussian_kl(unit_rows(generated) @ axes, unit_rows(real) @ axes)


def gaussian_kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p ‖ q) of the Gaussians that samples (N, k) and (M, k) come from, in nats, corrected for their finite number.

    With unbiased covariances S of ν = n − 1 degrees of freedom and means m, unbiased for independent Gaussian rows:
    2·KL = t + c·(m_p − m_q)ᵀS_q⁻¹(m_p − m_q) − t/n_p − k/n_q − k + (ln|S_q| − b_q) − (ln|S_p| − b_p),
    t = c·tr(S_q⁻¹S_p), c = (ν_q − k − 1)/ν_q, b = Σ_{i=1…k} ψ((ν − i + 1)/2) + k·ln(2/ν) = E ln|S| − ln|Σ|.
    As any unbiased estimate of something near zero, it can come out slightly negative.

    Returns:
        Infinity where the samples of p do not fill the space.

    Raises:
        InputError: no more rows than k + 2, or samples of q that do not fill the space.
    """
    k, n_p, n_q = p.shape[1], len(p), len(q)
    if min(n_p, n_q) <= k + 2:
        raise InputError("rows", f"are {n_p} and {n_q} for {k} dimensions", "Pass more rows, or use fewer components")
    p, q = p.double(), q.double()
    cov_p, cov_q = (torch.cov(rows.T).reshape(k, k) for rows in (p, q))
    log_p, log_q = _log_determinant(cov_p), _log_determinant(cov_q)
    if log_q == -math.inf:
        raise InputError("real rows", f"vary in fewer than {k} dimensions", "Use fewer components")
    if log_p == -math.inf:
        return math.inf
    c = (n_q - k - 2) / (n_q - 1)
    trace = c * torch.linalg.solve(cov_q, cov_p).trace().item()
    shift = p.mean(0) - q.mean(0)
    distance = c * (shift @ torch.linalg.solve(cov_q, shift)).item() - trace / n_p - k / n_q
    return 0.5 * (trace + distance - k + log_q - _log_bias(n_q - 1, k) - log_p + _log_bias(n_p - 1, k))


def _log_determinant(covariance: torch.Tensor) -> float:
    """ln|C|, −∞ where C lacks full rank but for rounding."""
    values = torch.linalg.eigvalsh(covariance)
    if values[0] <= max(RANK_TOLERANCE * values[-1].item(), RANK_TOLERANCE**2):
        return -math.inf
    return values.log().sum().item()


def _log_bias(freedom: int, k: int) -> float:
    """E ln|S| − ln|Σ| of a k × k sample covariance with ``freedom`` degrees of freedom (Wishart)."""
    halves = (freedom - torch.arange(k, dtype=torch.float64)) / 2
    return torch.digamma(halves).sum().item() + k * math.log(2 / freedom)
