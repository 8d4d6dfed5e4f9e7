"""The diffusion process: noising, and shallow DDIM sampling (η = 0) from a chosen timestep back to the clean sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import DDIMScheduler

from ..errors import InputError
from ..tensors import dense_floats


def make_scheduler(num_train_timesteps: int = 1000) -> DDIMScheduler:
    """The stock scheduler with the paper's process: cosine schedule, sample prediction, trailing timesteps.

    ``clip_sample`` is off: its default would clip embeddings of norm 5 to ±1 per dimension.

    Args:
        num_train_timesteps: length of the process; the paper's is 1000.

    Examples:
        >>> scheduler = make_scheduler()
        >>> scheduler.config.prediction_type, scheduler.config.clip_sample
        ('sample', False)
    """
    return DDIMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


def check_scheduler(scheduler: DDIMScheduler) -> None:
    """Refuses a scheduler whose process is not the one that the sampler computes.

    Raises:
        InputError: it clips or thresholds samples, or does not predict the sample.

    Examples:
        >>> check_scheduler(make_scheduler())
        >>> check_scheduler(DDIMScheduler())
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.InputError: scheduler.prediction_type: is 'epsilon'. Use prediction_type='sample'
    """
    config = scheduler.config
    if config.prediction_type != "sample":
        raise InputError("scheduler.prediction_type", f"is {config.prediction_type!r}", "Use prediction_type='sample'")
    for option in ("clip_sample", "thresholding"):
        if config.get(option, False):
            raise InputError(f"scheduler.{option}", "is True", f"It would cut off embeddings: use {option}=False")


def check_options(
    scheduler: DDIMScheduler | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    noise: torch.Tensor | None = None,
    num_inference_steps: int | None = None,
    noise_timestep: int | None = None,
    add_noise: bool | None = None,
) -> None:
    """Refuses options that no bridge takes, whether or not the bridge at hand uses them.

    Raises:
        InputError: a wrong type; a timestep or number of steps outside of the process; see also `check_noise`.

    Examples:
        >>> check_options(noise_timestep=100, num_inference_steps=5)
        >>> check_options(add_noise="yes")
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.InputError: add_noise: is 'yes'. Use True, False or None
    """
    check_noise(generator, noise)
    if add_noise is not None and not isinstance(add_noise, bool):
        raise InputError("add_noise", f"is {add_noise!r}", "Use True, False or None")
    last = 1000 if scheduler is None else scheduler.config.num_train_timesteps
    shallow_timesteps(last if noise_timestep is None else noise_timestep, 1, last)
    shallow_timesteps(last, 1 if num_inference_steps is None else num_inference_steps, last)


def check_noise(
    generator: torch.Generator | Sequence[torch.Generator] | None = None, noise: torch.Tensor | None = None
) -> None:
    """Refuses sources of noise that cannot be used.

    Raises:
        InputError: ``generator`` is neither a generator nor a list of them; ``noise`` is no dense floating-point
            tensor, or holds NaN or infinity; or both are given.

    Examples:
        >>> check_noise(generator=torch.Generator().manual_seed(0))
        >>> check_noise(torch.Generator(), torch.randn(1, 8))
        Traceback (most recent call last):
        ...
        diffusion_link_hf.errors.InputError: noise: is given together with a generator. Pass only one of them
    """
    each = generator if isinstance(generator, (list, tuple)) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in each):
        raise InputError("generator", f"is {generator!r}", "Pass a torch.Generator, or a list of one per row")
    if noise is None:
        return
    if generator is not None:
        raise InputError("noise", "is given together with a generator", "Pass only one of them")
    if not isinstance(noise, torch.Tensor):
        raise InputError("noise", f"is a {type(noise).__name__}", "Pass a floating-point torch tensor")
    if not torch.isfinite(dense_floats(noise, "noise")).all():
        raise InputError("noise", "holds NaN or infinite values", "Pass standard normal values")


def shallow_timesteps(noise_timestep: int, num_inference_steps: int, num_train_timesteps: int = 1000) -> list[int]:
    """Descending timesteps from s* = ``noise_timestep`` (counted from 1) with trailing spacing.

    The step after the last is the clean sample. Grids that `DDIMScheduler.set_timesteps` cannot express, such as 300 in
    7 steps, are rounded to the nearest timestep.

    Raises:
        InputError: s* outside 1 … num_train_timesteps, or steps outside 1 … s*.

    Examples:
        >>> shallow_timesteps(100, 5)
        [99, 79, 59, 39, 19]
    """
    for name, value in (("noise_timestep", noise_timestep), ("num_inference_steps", num_inference_steps)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(name, f"is {value!r}", "Pass a whole number")
    if not 1 <= noise_timestep <= num_train_timesteps:
        raise InputError("noise_timestep", f"is {noise_timestep}", f"Use 1 to {num_train_timesteps}")
    if not 1 <= num_inference_steps <= noise_timestep:
        raise InputError(
            "num_inference_steps", f"is {num_inference_steps}", f"Use 1 to noise_timestep ({noise_timestep})"
        )
    stride = noise_timestep / num_inference_steps
    return [round(noise_timestep - k * stride) - 1 for k in range(num_inference_steps)]


def add_noise(
    clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor | int, scheduler: DDIMScheduler
) -> torch.Tensor:
    """z_s = √ᾱ_s · z_0 + √(1 − ᾱ_s) · ε (paper §3).

    Args:
        clean: z_0, (B, D).
        noise: ε, (B, D) or (1, D).
        timestep: s, 0 to 999: one for all rows, or (B,).

    Returns:
        (B, D) in the dtype of ``clean``.

    Examples:
        >>> clean, noise = torch.ones(2, 3), torch.zeros(1, 3)
        >>> add_noise(clean, noise, torch.tensor([0, 999]), make_scheduler())[:, 0].round(decimals=3)
        tensor([1., 0.])
    """
    if isinstance(timestep, int):
        alpha = scheduler.alphas_cumprod[timestep].item()
        return alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise.to(clean.dtype)
    alpha = scheduler.alphas_cumprod.to(clean.device, torch.float64)[timestep][:, None]
    return alpha.sqrt().to(clean.dtype) * clean + (1 - alpha).sqrt().to(clean.dtype) * noise.to(clean.dtype)


@dataclass(frozen=True)
class TrainingNoise:
    """The forward process as a training step draws from it: each row at a timestep of its own.

    Args:
        scheduler: the process.
        generator: on the CPU, so that devices agree.
        max_timestep: timesteps are uniform on 0 … max_timestep − 1.

    Examples:
        >>> noise = TrainingNoise(make_scheduler(), torch.Generator().manual_seed(0), max_timestep=150)
        >>> state, timesteps = noise.add_to(torch.randn(4, 8))
        >>> state.shape, bool((timesteps < 150).all())
        (torch.Size([4, 8]), True)
    """

    scheduler: DDIMScheduler
    generator: torch.Generator
    max_timestep: int

    def add_to(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A fresh draw, timesteps before noise. (B, D) → z_s (B, D) and s (B,), on the device of ``clean``."""
        timesteps = torch.randint(self.max_timestep, (len(clean),), generator=self.generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=self.generator).to(clean.device)
        return add_noise(clean, noise, timesteps, self.scheduler), timesteps


def ddim_sample(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    state: torch.Tensor,
    scheduler: DDIMScheduler,
    timesteps: Sequence[int],
    before_step: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Deterministic DDIM over an explicit grid.

    With ẑ_0 = predict(z_t, t):  z_s = √ᾱ_s · ẑ_0 + √(1 − ᾱ_s) · (z_t − √ᾱ_t · ẑ_0) / √(1 − ᾱ_t), and the step
    after the last timestep returns ẑ_0 itself. Equal to a loop over `DDIMScheduler.step` on every grid that it can
    express.

    Args:
        predict: (z (B, D), timestep) → predicted clean sample (B, D).
        state: (B, D) at ``timesteps[0]``; not changed.
        timesteps: descending, from `shallow_timesteps`.
        before_step: what becomes of the state z_t before each step, such as Diffusion-Bridge's rescaling.

    Returns:
        (B, D) in the dtype of ``state``.

    Raises:
        InputError: no timesteps.

    Examples:
        A network that always predicts ones:

        >>> ddim_sample(lambda z, t: torch.ones_like(z), torch.randn(1, 3), make_scheduler(), [99, 49])
        tensor([[1., 1., 1.]])
    """
    for timestep, (a, b) in zip(timesteps, ddim_coefficients(scheduler, timesteps), strict=True):
        if before_step is not None:
            state = before_step(state)
        clean = predict(state, timestep).to(state.dtype)
        state = a * clean + b * state if b else clean
    return state


def ddim_coefficients(scheduler: DDIMScheduler, timesteps: Sequence[int]) -> list[tuple[float, float]]:
    """(a, b) of each step of `ddim_sample` in the form z_s = a · ẑ_0 + b · z_t, in float64; the last is (1, 0).

    Raises:
        InputError: no timesteps.

    Examples:
        >>> [(round(a, 3), round(b, 3)) for a, b in ddim_coefficients(make_scheduler(), [99, 49])]
        [(0.468, 0.535), (1.0, 0.0)]
    """
    if not timesteps:
        raise InputError("timesteps", "is empty", "Pass at least one timestep")
    alphas = scheduler.alphas_cumprod.to(torch.float64)[list(timesteps)].tolist()
    slopes = [((1 - after) / (1 - before)) ** 0.5 for before, after in pairwise(alphas)]
    inner = [(after**0.5 - b * before**0.5, b) for b, (before, after) in zip(slopes, pairwise(alphas), strict=True)]
    return [*inner, (1.0, 0.0)]
