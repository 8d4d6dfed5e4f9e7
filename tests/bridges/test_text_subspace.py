"""Text-PCA projection against numpy's singular vectors."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.text_subspace import TextSubspaceBridge
from diffusion_link_hf.errors import InputError
from support.bridges import make_bridge, make_pairs, make_rows, normalized, unit
from support.models import EMBEDDING_DIM


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.95])
def test_projection_is_that_on_the_leading_singular_vectors(energy):
    bridge = make_bridge("text-subspace", energy=energy)
    y = normalized(make_pairs()[1], bridge.text_mean).numpy()
    values, axes = np.linalg.svd(y)[1:]
    share = np.cumsum(values**2) / np.sum(values**2)
    count = next(k for k in range(1, EMBEDDING_DIM + 1) if share[k - 1] >= energy)
    assert bridge.config.fitted_components == count
    np.testing.assert_allclose(bridge.projection.numpy(), axes[:count].T @ axes[:count], atol=1e-6)
    rows = make_rows(4, 9, torch.float64)
    for modality in ("audio", "text"):
        x = normalized(rows, getattr(bridge, f"{modality}_mean"))
        expected = unit(x @ bridge.projection.double())
        torch.testing.assert_close(bridge.bridge(rows, modality), expected, atol=1e-12, rtol=0)


def test_text_of_low_rank_is_kept_and_the_rest_is_removed():
    basis = torch.linalg.qr(make_rows(EMBEDDING_DIM, 1)).Q
    coefficients = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    text = coefficients @ basis[:, :4].T
    bridge = TextSubspaceBridge(EMBEDDING_DIM, energy=0.999999).fit(None, torch.cat([text, -text]))
    assert bridge.config.fitted_components == 4
    torch.testing.assert_close(bridge.bridge(text, "text"), unit(text), atol=1e-4, rtol=0)
    audio = text + 5 * make_rows(300, 3)[:, :8] @ basis[:, 4:12].T
    torch.testing.assert_close(bridge.bridge(audio), unit(text), atol=1e-4, rtol=0)


def test_all_components_are_the_identity():
    whole = make_bridge("text-subspace", num_components=EMBEDDING_DIM)
    rows = make_rows(4)
    torch.testing.assert_close(whole.bridge(rows), make_bridge("centering").bridge(rows), atol=1e-6, rtol=0)
    assert make_bridge("text-subspace", energy=1.0).config.fitted_components <= EMBEDDING_DIM


@pytest.mark.parametrize("config", [{"energy": 0.0}, {"energy": 1.1}, {"num_components": 0}, {"num_components": 99}])
def test_wrong_configurations_are_refused(config):
    with pytest.raises(InputError, match=next(iter(config))):
        TextSubspaceBridge(EMBEDDING_DIM, **config)
