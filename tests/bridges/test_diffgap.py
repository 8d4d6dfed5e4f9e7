"""DiffGAP's samplers and loss against few-line references, in both directions."""

import math
from itertools import pairwise

import pytest
import torch

from diffusion_link_hf.bridges.diffgap import DiffGapModel
from diffusion_link_hf.bridges.sampling import make_scheduler
from diffusion_link_hf.errors import DataError, InputError
from support.bridges import alpha_bar, make_bridge, make_rows, normalized, unit


def reference(denoiser, condition, noise, steps):
    """DDIM (η = 0) from pure noise at T = 1000, given the condition."""
    x = noise.expand_as(condition)
    times = [round(1000 * (1 - k / steps)) for k in range(steps + 1)]
    for now, after in pairwise(times):
        with torch.no_grad():
            clean = denoiser(x, now - 1, condition)
        if after == 0:
            return clean
        epsilon = (x - math.sqrt(alpha_bar(now)) * clean) / math.sqrt(1 - alpha_bar(now))
        x = math.sqrt(alpha_bar(after)) * clean + math.sqrt(1 - alpha_bar(after)) * epsilon
    raise AssertionError


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_sampling_in_both_directions(steps):
    bridge = torch.nn.Module.to(make_bridge("diffgap"), torch.float64)
    rows, noise = make_rows(3, 2, torch.float64), make_rows(3, 4, torch.float64)
    options = {"noise": noise, "num_inference_steps": steps}
    for modality in ("audio", "text"):
        x = normalized(rows, getattr(bridge, f"{modality}_mean"))
        to_text = unit(reference(bridge.denoisers["text"], x, noise, steps))
        to_audio = unit(reference(bridge.denoisers["audio"], x, noise, steps))
        torch.testing.assert_close(bridge.bridge(rows, modality, **options), to_text, atol=1e-5, rtol=0)
        torch.testing.assert_close(bridge.bridge_to_audio(rows, modality, **options), to_audio, atol=1e-5, rtol=0)


def test_cycle():
    """Text → audio → text, the middle embedding back on the sphere."""
    bridge = torch.nn.Module.to(make_bridge("diffgap", text_input="cycle"), torch.float64)
    rows, noise = make_rows(3, 2, torch.float64), make_rows(1, 4, torch.float64)
    x = normalized(rows, bridge.text_mean)
    audio = 5 * unit(reference(bridge.denoisers["audio"], x, noise, 5))
    expected = unit(reference(bridge.denoisers["text"], audio, noise, 5))
    torch.testing.assert_close(bridge.bridge(rows, "text", noise=noise), expected, atol=1e-5, rtol=0)
    plain = torch.nn.Module.to(make_bridge("diffgap"), torch.float64)
    assert torch.equal(bridge.bridge(rows, noise=noise), plain.bridge(rows, noise=noise))


def test_starts_from_noise_alone():
    bridge, rows = make_bridge("diffgap"), make_rows(3)
    once = bridge.bridge(rows, generator=torch.Generator().manual_seed(1))
    assert (once - bridge.bridge(rows, generator=torch.Generator().manual_seed(2))).abs().max() > 1e-3
    same = bridge.bridge(rows, generator=torch.Generator().manual_seed(1), noise_timestep=5, add_noise=False)
    assert torch.equal(once, same)


def test_training_loss():
    """Both directions, each with its own timesteps and noise; rows without a partner are left out."""
    bridge, scheduler = make_bridge("diffgap"), make_scheduler()
    source = normalized(make_rows(4), bridge.audio_mean).float()
    target = normalized(make_rows(6, 1), bridge.text_mean).float()
    found = bridge.training_loss(source, target, scheduler, torch.Generator().manual_seed(5), 700)
    generator, total = torch.Generator().manual_seed(5), 0.0
    for side, clean, condition in (("text", target[:4], source), ("audio", source, target[:4])):
        timesteps = torch.randint(700, (4,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        for e, c, s, epsilon in zip(clean, condition, timesteps.tolist(), noise, strict=True):
            a = alpha_bar(s + 1)
            z = math.sqrt(a) * e + math.sqrt(1 - a) * epsilon
            total += (e - bridge.denoisers[side](z[None], s, c[None])[0]).square().sum().item() / 4
    assert found.item() == pytest.approx(total, rel=1e-3)
    with pytest.raises(DataError, match="pairs"):
        bridge.training_loss(source[:0], target, scheduler, torch.Generator(), 700)


def test_wrong_input_is_refused():
    bridge = make_bridge("diffgap")
    with pytest.raises(InputError, match="embeds"):
        bridge.bridge_to_audio(torch.zeros(2, 32))
    for config in ({"num_inference_steps": 0}, {"text_input": "identity"}):
        with pytest.raises(InputError, match=next(iter(config))):
            DiffGapModel(**config)
