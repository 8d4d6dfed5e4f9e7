"""The level of a sound, which tells silence."""

import torch

STEP_SECONDS = 0.186  # over which the level is measured
FLOOR = 1e-12  # mean square of what counts as nothing: -120 dB


def loudest_dbfs(waveforms: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Level of the loudest 186 ms of each row, without its constant part, which is no sound.

    Args:
        waveforms: (B, n) floats, full scale ±1; what is left behind the last whole step is not looked at.
        sampling_rate: Hz.

    Returns:
        (B,) dB relative to full scale, at least -120.

    Examples:
        >>> import torch
        >>> loudest_dbfs(torch.ones(1, 48_000) * 0.5, 48_000), loudest_dbfs(torch.randn(1, 48_000), 48_000) > -3
        (tensor([-120.]), tensor([True]))
    """
    step = min(round(STEP_SECONDS * sampling_rate), waveforms.shape[1])
    steps = waveforms[:, : waveforms.shape[1] // step * step].float().unflatten(1, (-1, step))
    power = (steps - steps.mean(-1, keepdim=True)).square().mean(-1)
    return 10 * torch.log10(power.amax(1).clamp_min(FLOOR))
