"""Ridge and Procrustes against their definitions in numpy float64."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.linear import (
    RIDGE_STRENGTHS,
    LinearBridge,
    choose_ridge_strength,
    held_out_rows,
    solve_ridge,
)
from diffusion_link_hf.errors import InputError
from support.bridges import make_bridge, make_pairs, make_rows, normalized, unit
from support.models import EMBEDDING_DIM


def normalized_pairs(bridge, rows=120):
    source, target = make_pairs(rows)
    return normalized(source, bridge.audio_mean).numpy(), normalized(target, bridge.text_mean).numpy()


@pytest.mark.parametrize("strength", [1e-4, 0.1, 10.0])
def test_ridge_is_least_squares_on_the_augmented_system(strength):
    bridge = make_bridge("ridge", strength=strength)
    x, y = normalized_pairs(bridge)
    penalty = np.sqrt(strength * len(x)) * np.eye(EMBEDDING_DIM)
    weight = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([y, np.zeros_like(penalty)]), rcond=None)[0]
    np.testing.assert_allclose(bridge.weight.numpy(), weight, atol=2e-6)
    rows = make_rows(4, 9, torch.float64)
    expected = normalized(rows, bridge.audio_mean) @ bridge.weight.double()
    torch.testing.assert_close(bridge.bridge(rows), unit(expected), atol=1e-12, rtol=0)


def test_the_strength_is_the_best_on_held_out_items():
    """By brute force, with np.linalg.solve, over the rows that `held_out_rows` names."""
    source, target = make_pairs(150)
    group = torch.arange(150) // 3
    bridge = LinearBridge(EMBEDDING_DIM).fit(source, target, group, seed=4)
    x, y = normalized_pairs(bridge, 150)
    held = held_out_rows(group, 0.1, 4).numpy()
    assert held.sum() == 15
    scores = {}
    for strength in RIDGE_STRENGTHS:
        a, b = x[~held], y[~held]
        found = x[held] @ np.linalg.solve(a.T @ a + strength * len(a) * np.eye(EMBEDDING_DIM), a.T @ b)
        cosine = (found * y[held]).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(y[held], axis=1)
        scores[strength] = cosine.mean()
    assert bridge.config.fitted_strength == max(scores, key=scores.get)
    assert len(set(np.round(list(scores.values()), 6))) > 3, "the strengths should differ here"


def test_items_are_held_out_whole():
    group = torch.tensor([7, 3, 7, 9, 3, 9, 9, 1])
    for seed in range(6):
        held = held_out_rows(group, 0.5, seed)
        assert set(group[held].tolist()).isdisjoint(group[~held].tolist())
        assert len(group[held].unique()) == 2
    with pytest.raises(InputError, match="only one item"):
        choose_ridge_strength(make_rows(4), make_rows(4, 1), torch.zeros(4, dtype=torch.long))


def test_ridge_limits():
    """No penalty recovers an exact linear map; a huge one shrinks XᵀY/λN."""
    x, weight = make_rows(80, 0, torch.float64), make_rows(EMBEDDING_DIM, 1, torch.float64)
    exact, shrunk = solve_ridge(x, x @ weight, [1e-14, 1e9])
    torch.testing.assert_close(exact, weight, atol=1e-8, rtol=0)
    torch.testing.assert_close(shrunk * 1e9, x.T @ x @ weight / 80, rtol=1e-5, atol=1e-8)


def test_procrustes_is_the_best_orthogonal_map():
    bridge = make_bridge("procrustes")
    x, y = normalized_pairs(bridge)
    u, _, vt = np.linalg.svd(x.T @ y)
    np.testing.assert_allclose(bridge.weight.numpy(), u @ vt, atol=1e-6)
    weight = bridge.weight.double().numpy()
    np.testing.assert_allclose(weight @ weight.T, np.eye(EMBEDDING_DIM), atol=1e-6)
    best = np.linalg.norm(x @ weight - y)
    for seed in range(5):
        small = 0.05 * make_rows(EMBEDDING_DIM, seed, torch.float64)
        turned = weight @ torch.matrix_exp(small - small.T).numpy()
        assert np.linalg.norm(x @ turned - y) > best


def test_procrustes_recovers_a_rotation():
    rotation = torch.linalg.qr(make_rows(EMBEDDING_DIM, 3)).Q
    source = make_rows(100)
    bridge = LinearBridge(EMBEDDING_DIM, kind="procrustes").fit(source, source @ rotation)
    torch.testing.assert_close(bridge.bridge(source), bridge.target(source @ rotation), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["ridge", "procrustes"])
def test_text_input(method):
    rows = make_rows(4, dtype=torch.float64)
    same, mapped = make_bridge(method), make_bridge(method, text_input="map")
    text = normalized(rows, same.text_mean)
    torch.testing.assert_close(same.bridge(rows, "text"), unit(text), atol=1e-12, rtol=0)
    torch.testing.assert_close(mapped.bridge(rows, "text"), unit(text @ mapped.weight.double()), atol=1e-12, rtol=0)
    assert torch.equal(same.bridge(rows), mapped.bridge(rows))


@pytest.mark.parametrize("config", [{"kind": "lasso"}, {"strength": 0.0}, {"text_input": "both"}])
def test_wrong_configurations_are_refused(config):
    with pytest.raises(InputError, match=next(iter(config))):
        LinearBridge(EMBEDDING_DIM, **config)
