"""The shallow sampler against a loop over `DDIMScheduler.step`."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf.bridges.sampling import (
    TrainingNoise,
    add_noise,
    check_scheduler,
    ddim_sample,
    make_scheduler,
    shallow_timesteps,
)
from diffusion_link_hf.errors import InputError
from support.bridges import make_rows
from support.models import EMBEDDING_DIM, make_link


def scheduler_loop(link, state, scheduler, timesteps):
    for t in timesteps:
        state = scheduler.step(link(state, t).sample, t, state).prev_sample
    return state


def divisors(n):
    return [k for k in range(1, 101) if n % k == 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("steps", divisors(1000))
def test_equals_the_scheduler_on_whole_grids(steps, dtype, tolerance):
    scheduler = make_scheduler()
    # The scheduler's own alphas are float32; for a float64 comparison both sides get them in float64.
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(steps)
    grid = scheduler.timesteps.tolist()
    assert grid == shallow_timesteps(1000, steps)
    link = torch.nn.Module.to(make_link(), dtype)
    state = torch.randn(5, EMBEDDING_DIM, dtype=dtype, generator=torch.Generator().manual_seed(steps))
    with torch.no_grad():
        expected = scheduler_loop(link, state, scheduler, grid)
        ours = ddim_sample(lambda z, t: link(z, t).sample, state, scheduler, grid)
    assert (ours - expected).abs().max() < tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("start", "steps"), [(100, 5), (200, 10), (500, 25), (300, 3), (40, 2)])
def test_equals_the_scheduler_on_shallow_grids(start, steps, dtype, tolerance):
    """A shallow grid whose stride divides 1000 is the tail of a full one."""
    scheduler = make_scheduler()
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(1000 * steps // start)
    grid = scheduler.timesteps.tolist()[-steps:]
    if grid[0] != start - 1:
        pytest.skip(f"{start} in {steps} is not a tail of a full grid")
    assert grid == shallow_timesteps(start, steps)
    link = torch.nn.Module.to(make_link(), dtype)
    state = torch.randn(5, EMBEDDING_DIM, dtype=dtype)
    with torch.no_grad():
        expected = scheduler_loop(link, state, scheduler, grid)
        ours = ddim_sample(lambda z, t: link(z, t).sample, state, scheduler, grid)
    assert (ours - expected).abs().max() < tolerance * max(1.0, expected.abs().max().item())


def test_grid_that_the_scheduler_cannot_express():
    """s* = 300 in 7 steps against the DDIM equation written out in float64."""
    scheduler = make_scheduler()
    alphas = scheduler.alphas_cumprod.double()
    grid = shallow_timesteps(300, 7)
    link = torch.nn.Module.to(make_link(), torch.float64)
    z = start = torch.randn(4, EMBEDDING_DIM, dtype=torch.float64)
    with torch.no_grad():
        for k, t in enumerate(grid):
            clean = link(z, t).sample
            alpha = alphas[grid[k + 1]] if k + 1 < len(grid) else torch.tensor(1.0, dtype=torch.float64)
            epsilon = (z - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt()
            z = alpha.sqrt() * clean + (1 - alpha).sqrt() * epsilon
        ours = ddim_sample(lambda z, t: link(z, t).sample, start, scheduler, grid)
    torch.testing.assert_close(ours, z, atol=1e-12, rtol=0)


def test_the_papers_grid():
    assert shallow_timesteps(100, 5) == [99, 79, 59, 39, 19]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1000).flatmap(lambda s: st.tuples(st.just(s), st.integers(1, s))))
def test_grids_descend_from_the_start(case):
    start, steps = case
    grid = shallow_timesteps(start, steps)
    assert len(grid) == steps
    assert grid[0] == start - 1
    assert all(a > b >= 0 for a, b in pairwise(grid))


@pytest.mark.parametrize(("start", "steps"), [(0, 1), (1001, 5), (5, 6), (100, 0), (-1, 1), (100.0, 5), (100, True)])
def test_impossible_grids_are_refused(start, steps):
    with pytest.raises(InputError):
        shallow_timesteps(start, steps)


def test_noising_equals_the_scheduler():
    scheduler = make_scheduler()
    clean, noise = torch.randn(6, 8), torch.randn(6, 8)
    timesteps = torch.tensor([0, 1, 99, 500, 998, 999])
    torch.testing.assert_close(
        add_noise(clean, noise, timesteps, scheduler), scheduler.add_noise(clean, noise, timesteps)
    )
    torch.testing.assert_close(
        add_noise(clean, noise, 99, scheduler), scheduler.add_noise(clean, noise, torch.tensor([99] * 6))
    )


@pytest.mark.parametrize("config", [{"clip_sample": True}, {"prediction_type": "epsilon"}, {"thresholding": True}])
def test_unfit_schedulers_are_refused(config):
    scheduler = make_scheduler()
    scheduler.register_to_config(**config)
    with pytest.raises(InputError, match="scheduler"):
        check_scheduler(scheduler)


def test_no_timesteps_are_refused():
    with pytest.raises(InputError, match="timesteps"):
        ddim_sample(lambda z, t: z, torch.ones(1, 4), make_scheduler(), [])


def test_the_state_is_not_changed():
    state = torch.randn(2, 4)
    copy = state.clone()
    ddim_sample(lambda z, t: z * 0.5, state, make_scheduler(), [99, 49])
    assert torch.equal(state, copy)


def test_training_draw():
    """z_s = √ᾱ_s z_0 + √(1 − ᾱ_s) ε with timesteps below the bound, and a function of the generator alone."""
    clean, scheduler = make_rows(4000), make_scheduler()
    state, timesteps = TrainingNoise(scheduler, torch.Generator().manual_seed(3), 150).add_to(clean)
    assert timesteps.min() == 0
    assert timesteps.max() == 149
    again, _ = TrainingNoise(scheduler, torch.Generator().manual_seed(3), 150).add_to(clean)
    assert torch.equal(state, again)
    alpha = scheduler.alphas_cumprod[timesteps].double()[:, None]
    noise = (state.double() - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
