"""Identity, and mean-centering with C3's noise."""

import pytest
import torch

from diffusion_link_hf.bridges.centering import MeanCentering
from diffusion_link_hf.errors import InputError
from support.bridges import make_bridge, make_rows, normalized, unit
from support.models import EMBEDDING_DIM


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_identity_is_the_unit_row(modality):
    rows = make_rows(5, dtype=torch.float64)
    torch.testing.assert_close(make_bridge("identity").bridge(rows, modality), unit(rows))


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_centering_is_the_papers_normalization(modality):
    bridge, rows = make_bridge("centering"), make_rows(5, dtype=torch.float64)
    expected = normalized(rows, getattr(bridge, f"{modality}_mean"), 1.0)
    torch.testing.assert_close(bridge.bridge(rows, modality), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(make_bridge("centering", scale=1.0).bridge(rows, modality), expected, atol=1e-12, rtol=0)


def test_centering_removes_the_mean_gap():
    source, target = make_rows(200) + 2, make_rows(200, 1) - 1
    bridge = MeanCentering(EMBEDDING_DIM).fit(source, target)
    gap = unit(source).mean(0) - unit(target).mean(0)
    assert gap.norm() > 1
    assert (bridge.bridge(source).mean(0) - bridge.bridge(target, "text").mean(0)).norm() < 0.2


def test_corruption_is_gaussian_noise_on_the_unit_row():
    bridge, noise = make_bridge("c3", noise_std=0.3), make_rows(5, 3, torch.float64)
    rows = unit(make_rows(5, dtype=torch.float64))
    torch.testing.assert_close(bridge.corrupt(rows, noise=noise), unit(rows + 0.3 * noise))
    fresh = bridge.corrupt(rows.expand(5, -1), torch.Generator().manual_seed(0))
    assert torch.equal(fresh, bridge.corrupt(rows, torch.Generator().manual_seed(0)))
    assert not torch.equal(fresh, bridge.corrupt(rows, torch.Generator().manual_seed(1)))
    same = bridge.corrupt(rows[:1].expand(4, -1), torch.Generator().manual_seed(0))
    assert not torch.equal(same[0], same[1]), "each row has its own noise"


def test_the_noise_has_its_standard_deviation():
    bridge = make_bridge("c3")
    row = unit(make_rows(1)).expand(20_000, -1)
    noisy = row + bridge.config.noise_std * torch.randn(row.shape, generator=torch.Generator().manual_seed(0))
    found = bridge.corrupt(row, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, unit(noisy))
    assert bridge.config.noise_std**2 == pytest.approx(0.016)


def test_only_text_is_corrupted_and_only_on_demand():
    bridge, plain, rows = make_bridge("c3"), make_bridge("centering"), make_rows(4)
    assert torch.equal(bridge.bridge(rows, "audio"), plain.bridge(rows, "audio"))
    assert torch.equal(bridge.bridge(rows, "text", add_noise=False), plain.bridge(rows, "text"))
    assert torch.equal(bridge.bridge(rows, "text"), plain.bridge(rows, "text", add_noise=True))
    noise = make_rows(1, 4)
    torch.testing.assert_close(
        bridge.bridge(rows, "text", noise=noise), unit(plain.bridge(rows, "text") + 0.016**0.5 * noise)
    )


def test_a_negative_deviation_is_refused():
    with pytest.raises(InputError, match="noise_std"):
        MeanCentering(noise_std=-1.0)
