"""Geometry against closed forms: KL of known Gaussians, spectra, separable and inseparable clouds."""

import math

import numpy as np
import pytest
import torch

from diffusion_link_hf.analysis.geometry import (
    centroid_distance,
    effective_dimension,
    gaussian_kl,
    kl_divergence,
    linear_separability,
    principal_axes,
)
from diffusion_link_hf.errors import InputError
from support.bridges import make_rows, unit


def normal(rows: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def closed_form_kl(mean_p, cov_p, mean_q, cov_q) -> float:
    """KL(p ‖ q) of two Gaussians, in numpy."""
    inverse, shift = np.linalg.inv(cov_q), mean_q - mean_p
    logs = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    return 0.5 * (np.trace(inverse @ cov_p) + shift @ inverse @ shift - len(shift) + logs)


def test_kl_is_unbiased_against_the_closed_form():
    """The mean over many small samples: the plain plug-in estimate is far off there."""
    k = 5
    root_p, root_q = normal(k, k, 1) / 2 + torch.eye(k), normal(k, k, 2) / 2 + torch.eye(k)
    shift = torch.linspace(-0.5, 0.5, k, dtype=torch.float64)
    truth = closed_form_kl(shift.numpy(), (root_p.T @ root_p).numpy(), np.zeros(k), (root_q.T @ root_q).numpy())
    draws = [(normal(25, k, 10 + i) @ root_p + shift, normal(40, k, 90_000 + i) @ root_q) for i in range(600)]
    found = np.array([gaussian_kl(p, q) for p, q in draws])
    plain = np.mean(
        [closed_form_kl(p.mean(0).numpy(), p.T.cov().numpy(), q.mean(0).numpy(), q.T.cov().numpy()) for p, q in draws]
    )
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - truth) < 4 * error
    assert abs(plain - truth) > 8 * error


def test_kl_with_many_rows_is_the_closed_form():
    p, q = normal(200_000, 2, 1) * 0.7 + 0.3, normal(200_000, 2, 2)
    truth = closed_form_kl(np.full(2, 0.3), 0.49 * np.eye(2), np.zeros(2), np.eye(2))
    assert gaussian_kl(p, q) == pytest.approx(truth, abs=0.01)
    assert gaussian_kl(q, p) == pytest.approx(
        closed_form_kl(np.zeros(2), np.eye(2), np.full(2, 0.3), 0.49 * np.eye(2)), abs=0.02
    )


def test_kl_of_equal_clouds_is_near_zero_and_of_collapsed_ones_infinite():
    a, b = make_rows(800, 1), make_rows(800, 2)
    axes = principal_axes(make_rows(800, 3), 8)
    assert abs(kl_divergence(a, b, axes)) < 0.1
    assert kl_divergence(a + 1, b, axes) > 1
    assert kl_divergence(torch.ones(800, 32), b, axes) == math.inf
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(4 * a[order], b, axes) == pytest.approx(kl_divergence(a, b, axes), abs=1e-6)
    with pytest.raises(InputError, match="vary in fewer"):
        kl_divergence(a, torch.ones(800, 32), axes)
    with pytest.raises(InputError, match="10"):
        kl_divergence(a[:10], b, axes)


def test_principal_axes():
    rows = torch.cat([unit(make_rows(300)[:, :3]), torch.zeros(300, 29)], dim=1)
    axes = principal_axes(rows, 8)
    assert axes.shape == (32, 3)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3, dtype=torch.float64))
    # numpy's own: the same subspace, ordered by the variance in it
    values, vectors = np.linalg.eigh(np.cov(unit(rows.double()).numpy().T))
    np.testing.assert_allclose(np.abs(vectors[:, -1] @ axes[:, 0].numpy()), 1, atol=1e-6)
    assert values[-1] >= values[-2]
    with pytest.raises(InputError, match="equal"):
        principal_axes(torch.ones(5, 4))
    with pytest.raises(InputError, match="components"):
        principal_axes(rows, 0)


def test_centroid_distance():
    a, b = make_rows(50, 1), make_rows(70, 2) + 1
    expected = np.linalg.norm(unit(a.double()).numpy().mean(0) - unit(b.double()).numpy().mean(0))
    assert centroid_distance(a, 4 * b) == pytest.approx(expected, abs=1e-12)
    assert centroid_distance(a, -a) == pytest.approx(2 * unit(a).mean(0).norm().item(), abs=1e-6)
    assert centroid_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-12)


def test_linear_separability():
    group = torch.arange(300)
    a, b = make_rows(300, 1), make_rows(300, 2)
    assert linear_separability(a + 2, b - 2, group, group) == 1
    assert linear_separability(a, b, group, group) == pytest.approx(0.5, abs=0.08)
    between = linear_separability(a + 0.15, b - 0.15, group, group)
    assert 0.6 < between < 0.97
    assert linear_separability(b - 0.15, a + 0.15, group, group) == pytest.approx(between)


def test_linear_separability_equals_a_classifier_of_scikit_learn():
    linear = pytest.importorskip("sklearn.discriminant_analysis")
    from diffusion_link_hf.bridges.linear import held_out_rows

    group = torch.arange(400)
    a, b = unit(make_rows(400, 1).double() + 0.1), unit(make_rows(400, 2).double() - 0.1)
    held = held_out_rows(torch.cat([group, group]), 0.5, 0)[:400].numpy()
    a, b = a.numpy(), b.numpy()
    rows = np.concatenate([a[~held], b[~held]])
    labels = np.repeat([0, 1], (~held).sum())
    classifier = linear.LinearDiscriminantAnalysis(solver="lsqr").fit(rows, labels)
    expected = (
        classifier.score(a[held], np.zeros(held.sum(), int)) + classifier.score(b[held], np.ones(held.sum(), int))
    ) / 2
    found = linear_separability(torch.tensor(a), torch.tensor(b), group, group, shrinkage=1e-9)
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_recording_is_never_on_both_sides_of_the_split():
    """Rows that can be learned by heart, but not from other recordings: seen ones would give them away."""
    group = torch.arange(40).repeat(8)
    a = make_rows(40, 1).repeat(8, 1) + 0.01 * make_rows(320, 2)
    b = make_rows(40, 3).repeat(8, 1) + 0.01 * make_rows(320, 4)
    assert linear_separability(a, b, group, group) < 0.7
    assert linear_separability(a, b, torch.arange(320), torch.arange(320)) > 0.75


def test_separability_of_two_points_and_of_one():
    one = torch.ones(40, 4)
    assert linear_separability(one, -one, torch.arange(40), torch.arange(40)) == 1
    assert linear_separability(one, one, torch.arange(40), torch.arange(40)) == 0.5
    with pytest.raises(InputError, match="four"):
        linear_separability(one[:2], one[:2], torch.arange(2), torch.arange(2))


def test_effective_dimension():
    rows = unit(normal(500, 32, 1) * torch.linspace(2, 0.1, 32, dtype=torch.float64))
    values = np.linalg.eigvalsh(np.cov(rows.numpy().T))
    assert effective_dimension(rows) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)
    axes = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_dimension(axes) == pytest.approx(4)
    assert effective_dimension(torch.ones(9, 4)) == 0
