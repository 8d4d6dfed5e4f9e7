"""One-step regression against its equation, alone and over ridge."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.regression import RegressionBridge
from diffusion_link_hf.errors import InputError
from support.bridges import SMALL, make_bridge, make_pairs, make_rows, normalized, numpy_mlp, weights_of
from support.models import EMBEDDING_DIM


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("text_input", ["identity", "map"])
def test_equals_the_definition(residual, text_input):
    bridge = make_bridge("mlp", residual_over_ridge=residual, text_input=text_input)
    bridge = torch.nn.Module.to(bridge, torch.float64)
    rows, w = make_rows(4, 3, torch.float64), weights_of(bridge)
    for modality in ("audio", "text"):
        x = normalized(rows, getattr(bridge, f"{modality}_mean")).numpy()
        expected = numpy_mlp(w, x, 0, "network.") + (x @ w["ridge"] if residual else 0)
        if modality == "text" and text_input == "identity":
            expected = x
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(bridge.bridge(rows, modality).numpy(), expected, atol=1e-7)


def test_a_new_residual_bridge_is_the_ridge():
    source, target = make_pairs()
    group = torch.arange(len(source)) // 2
    bridge = RegressionBridge(EMBEDDING_DIM, residual_over_ridge=True, **SMALL).fit(source, target, group, seed=2)
    ridge = make_bridge("ridge").fit(source, target, group, seed=2)
    torch.testing.assert_close(bridge.ridge, ridge.weight)
    torch.testing.assert_close(bridge.bridge(source.float()), ridge.bridge(source.float()), atol=1e-5, rtol=0)
    assert "ridge" not in RegressionBridge(EMBEDDING_DIM, **SMALL).state_dict()


def test_training_loss():
    """Paired rows come first; text is in the loss only where it goes through the map."""
    source, target = make_rows(3), make_rows(5, 1)
    batch = (source, target, None, None, 1000)
    for text_input in ("identity", "map"):
        bridge = make_bridge("mlp", text_input=text_input)
        expected = (target[:3] - bridge(source)).square().sum(1).mean()
        if text_input == "map":
            expected = expected + (target - bridge(target)).square().sum(1).mean()
        torch.testing.assert_close(bridge.training_loss(*batch), expected)


def test_wrong_configurations_are_refused():
    with pytest.raises(InputError, match="text_input"):
        RegressionBridge(text_input="zero")
    with pytest.raises(InputError, match="time_embed_dim"):
        RegressionBridge(time_embed_dim=3)
