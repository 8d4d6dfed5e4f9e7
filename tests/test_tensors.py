"""Rescaling of rows, which must change no digit."""

import pytest
import torch

from diffusion_link_hf.tensors import rescale_rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rescaling_is_by_a_power_of_two(dtype):
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * torch.logspace(-2, 2, 50)[:, None]
    rows = rows.to(dtype)
    scaled = rescale_rows(rows)
    assert scaled.dtype == dtype
    peaks = scaled.abs().amax(1).double()
    assert ((peaks >= 1) & (peaks < 2)).all()
    powers = (rows.abs().amax(1).double() / peaks).log2()
    assert torch.equal(powers, powers.round())
    assert torch.equal(scaled.double() * 2 ** powers[:, None], rows.double())


def test_zero_rows_and_empty_batches_stay():
    assert torch.equal(rescale_rows(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert rescale_rows(torch.empty(0, 3)).shape == (0, 3)
