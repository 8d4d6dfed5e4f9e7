"""What a training step draws besides the batch, and its learning rate."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import EMAModel

from diffusion_link_hf.bridges.base import BridgeModel
from diffusion_link_hf.training.bridge_run import AveragedWeights, averaged
from diffusion_link_hf.training.optimize import seed_dropout
from diffusion_link_hf.training.optimizers import warmup_cosine
from support.models import make_link


def test_dropout_is_seeded_as_by_torch():
    rows, cpu = torch.ones(8, 64), SimpleNamespace(device=torch.device("cpu"), process_index=0)
    seed_dropout(7, cpu)
    found = torch.nn.functional.dropout(rows)
    torch.manual_seed(7)
    assert torch.equal(found, torch.nn.functional.dropout(rows))
    seed_dropout(8, cpu)
    assert not torch.equal(found, torch.nn.functional.dropout(rows))


def test_schedule():
    factors = [warmup_cosine(s, 10, 100) for s in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0)
    assert factors[55] == pytest.approx(0.5)


def test_a_failing_validation_leaves_the_weights():
    """The bridge has its own weights again, not the averaged ones, and trains on."""
    link: BridgeModel = make_link().train()
    average = EMAModel(link.parameters(), decay=0.9)
    with torch.no_grad():
        for parameter in link.parameters():
            parameter.add_(1)
    before = [parameter.clone() for parameter in link.parameters()]

    def fails():
        assert not link.training
        raise ValueError("no figure")

    with pytest.raises(ValueError, match="no figure"), averaged(link, average):
        fails()
    assert link.training
    for parameter, expected in zip(link.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)


def test_averaged_weights_are_those_of_diffusers():
    """In float64, where the order of operations does not show."""
    link = make_link().double()
    expected, found = (make(link.parameters(), decay=0.9, foreach=True) for make in (EMAModel, AveragedWeights))
    for _ in range(20):
        with torch.no_grad():
            for parameter in link.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in (expected, found):
            average.step(link.parameters())
    for one, other in zip(expected.shadow_params, found.shadow_params, strict=True):
        torch.testing.assert_close(other, one, atol=1e-12, rtol=0)
    for average in (expected, found):  # of which the state says how far it is
        average.shadow_params = []
    assert found.state_dict() == expected.state_dict()
