"""Diffusion-Bridge's sampler and loss against a few lines written from its description."""

import math
from itertools import pairwise

import pytest
import torch

from diffusion_link_hf.bridges.diffusion_bridge import DiffusionBridgeModel
from diffusion_link_hf.bridges.sampling import make_scheduler
from diffusion_link_hf.errors import InputError
from support.bridges import alpha_bar, make_bridge, make_rows, normalized, unit


def reference(bridge, x, start: int, steps: int, scale=5.0):
    """DDIM (η = 0) from x taken as the state at ``start``, brought to norm ``scale`` before every prediction."""
    times = [round(start * (1 - k / steps)) for k in range(steps + 1)]
    for now, after in pairwise(times):
        x = scale * x / x.norm(dim=1, keepdim=True)
        with torch.no_grad():
            clean = bridge.denoiser(x, now - 1)
        if after == 0:
            return clean
        noise = (x - math.sqrt(alpha_bar(now)) * clean) / math.sqrt(1 - alpha_bar(now))
        x = math.sqrt(alpha_bar(after)) * clean + math.sqrt(1 - alpha_bar(after)) * noise
    raise AssertionError


@pytest.mark.parametrize("method", ["diffusion-bridge", "diffusion-bridge-unet"])
@pytest.mark.parametrize("modality", ["audio", "text"])
def test_sampler_is_the_papers(method, modality):
    bridge = torch.nn.Module.to(make_bridge(method), torch.float64)
    rows = make_rows(3, 2, torch.float64)
    x = normalized(rows, getattr(bridge, f"{modality}_mean"))
    start = {"audio": 600, "text": 400}[modality]
    # The schedule is float32 in diffusers.
    expected = unit(reference(bridge, x, start, 5))
    torch.testing.assert_close(bridge.bridge(rows, modality), expected, atol=1e-5, rtol=0)
    short = unit(reference(bridge, x, 90, 3))
    found = bridge.bridge(rows, modality, noise_timestep=90, num_inference_steps=3)
    torch.testing.assert_close(found, short, atol=1e-5, rtol=0)
    assert (found - bridge.bridge(rows, modality)).abs().max() > 1e-3


def test_no_noise_unless_asked_for():
    bridge, rows = make_bridge("diffusion-bridge"), make_rows(3)
    noise = make_rows(3, 4)
    assert torch.equal(bridge.bridge(rows, noise=noise), bridge.bridge(rows))
    double = torch.nn.Module.to(bridge, torch.float64)
    x = normalized(rows, bridge.audio_mean)
    noised = math.sqrt(alpha_bar(600)) * x + math.sqrt(1 - alpha_bar(600)) * noise.double()
    found = double.bridge(rows.double(), noise=noise.double(), add_noise=True)
    torch.testing.assert_close(found, unit(reference(double, noised, 600, 5)), atol=1e-5, rtol=0)


def test_the_network_sees_norm_five():
    bridge, rows = make_bridge("diffusion-bridge"), make_rows(3)
    seen = []
    bridge.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].norm(dim=1)))
    bridge.bridge(rows)
    bridge(rows * 9, 4)
    assert len(seen) == 6
    for norms in seen:
        torch.testing.assert_close(norms, torch.full((3,), 5.0))


@pytest.mark.parametrize(("snr_weight", "max_snr"), [(False, None), (True, None), (True, 2.0)])
def test_training_loss(snr_weight, max_snr):
    """‖e^t − φ(5·z_s/‖z_s‖, s)‖², weighted or not; the source is not looked at."""
    bridge = make_bridge("diffusion-bridge", snr_weight=snr_weight, max_snr=max_snr)
    target, scheduler = normalized(make_rows(6), bridge.text_mean).float(), make_scheduler()
    found = bridge.training_loss(target[:0], target, scheduler, torch.Generator().manual_seed(5), 300)
    generator = torch.Generator().manual_seed(5)
    timesteps = torch.randint(300, (6,), generator=generator)
    noise = torch.randn(target.shape, generator=generator)
    total = 0.0
    for clean, s, epsilon in zip(target, timesteps.tolist(), noise, strict=True):
        a = alpha_bar(s + 1)
        z = math.sqrt(a) * clean + math.sqrt(1 - a) * epsilon
        error = (clean - bridge.denoiser(5 * z[None] / z.norm(), s)[0]).square().sum().item()
        weight = a / (1 - a) if snr_weight else 1.0
        total += error * (min(weight, max_snr) if max_snr else weight) / 6
    assert found.item() == pytest.approx(total, rel=1e-3)
    with_source = bridge.training_loss(target + 1, target, scheduler, torch.Generator().manual_seed(5), 300)
    assert torch.equal(with_source, found)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"network": "transformer"}, "network"),
        ({"network": "unet", "embedding_dim": 100}, "multiple of 8"),
        ({"noise_timestep": 0}, "noise_timestep"),
        ({"text_noise_timestep": 2000}, "noise_timestep"),
    ],
)
def test_wrong_configurations_are_refused(config, words):
    with pytest.raises(InputError, match=words):
        DiffusionBridgeModel(**config)
