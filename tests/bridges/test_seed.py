"""SEED: one network call from s* on embeddings of norm √D."""

import math

import torch

from diffusion_link_hf.bridges.seed import make_seed_bridge
from support.bridges import alpha_bar, make_bridge, make_rows, normalized, unit


def test_one_step_is_one_call():
    bridge = torch.nn.Module.to(make_bridge("seed"), torch.float64)
    rows, noise = make_rows(3, 2, torch.float64), make_rows(3, 4, torch.float64)
    width = rows.shape[1]
    assert bridge.config.scale == width**0.5
    x = normalized(rows, bridge.audio_mean, math.sqrt(width))
    for start in (100, 500):
        a = alpha_bar(start)
        with torch.no_grad():
            expected = bridge(math.sqrt(a) * x + math.sqrt(1 - a) * noise, start - 1).sample
        found = bridge.bridge(rows, noise=noise, noise_timestep=start)
        torch.testing.assert_close(found, unit(expected), atol=1e-5, rtol=0)


def test_configuration():
    seed = make_seed_bridge(64, noise_timestep=300)
    assert (seed.config.num_inference_steps, seed.config.noise_timestep, seed.config.scale) == (1, 300, 8.0)
    assert (seed.config.width, seed.config.num_blocks, seed.config.time_embed_dim) == (512, 3, 256)
