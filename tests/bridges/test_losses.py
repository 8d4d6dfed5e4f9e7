"""The losses against the paper's equations written out in float64."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.losses import SHORTEST, diffusion_loss, topology_loss, total_loss
from diffusion_link_hf.errors import InputError


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_diffusion_loss_is_the_mean_squared_norm(batch):
    text, from_text, from_audio = batch
    expected = np.mean(
        [
            np.linalg.norm(t - a) ** 2 + np.linalg.norm(t - b) ** 2
            for t, a, b in zip(*(x.numpy() for x in batch), strict=True)
        ]
    )
    assert diffusion_loss(text, from_text, from_audio).item() == pytest.approx(expected, rel=1e-12)
    assert diffusion_loss(text, from_text, from_audio, "mean", "sum").item() == pytest.approx(
        expected * 7 / 5, rel=1e-12
    )


def test_topology_loss_is_the_frobenius_norm(batch):
    x, g = (b.numpy() / np.linalg.norm(b.numpy(), axis=1, keepdims=True) for b in batch[:2])
    expected = np.linalg.norm(x @ x.T - x @ g.T, "fro") ** 2
    assert topology_loss(*batch[:2], "sum").item() == pytest.approx(expected, rel=1e-12)
    assert topology_loss(*batch[:2]).item() == pytest.approx(expected / 49, rel=1e-12)


def test_perfect_generation_costs_nothing(batch):
    text = batch[0]
    assert total_loss(text, text, text, topology_source="both").total.item() == pytest.approx(0, abs=1e-20)


def test_topology_ignores_the_norm(batch):
    torch.testing.assert_close(topology_loss(batch[0], batch[1]), topology_loss(3 * batch[0], 7 * batch[1]))


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3])
def test_the_gradient_of_the_topology_stays_bounded_where_the_network_starts(batch, length):
    text, generated = batch[0], (length * batch[1]).requires_grad_()
    # |dL/dx̂| ≤ 2 ‖X′‖² ‖x′ − x̂′‖ / (SHORTEST ‖x‖), and 7 unit rows have ‖X′‖² ≤ 7.
    topology_loss(text, generated, "sum").backward()
    bound = 2 * 7 * 2 / (SHORTEST * text.norm(dim=1))
    assert (generated.grad.norm(dim=1) <= bound).all()
    assert generated.grad.abs().sum() > 0


@pytest.mark.parametrize("source", ["audio", "text", "both"])
def test_total_is_the_sum_of_its_parts(batch, source):
    loss = total_loss(*batch, topology_weight=0.3, topology_source=source)
    topology = {"audio": topology_loss(batch[0], batch[2]), "text": topology_loss(batch[0], batch[1])}
    topology["both"] = topology["audio"] + topology["text"]
    torch.testing.assert_close(loss.topology, topology[source])
    torch.testing.assert_close(loss.total, diffusion_loss(*batch) + 0.3 * topology[source])


def test_order_of_the_batch_does_not_matter(batch):
    order = torch.randperm(7)
    torch.testing.assert_close(total_loss(*batch).total, total_loss(*(b[order] for b in batch)).total)


def test_unknown_choices_are_refused(batch):
    with pytest.raises(InputError, match="median"):
        topology_loss(batch[0], batch[1], "median")
    with pytest.raises(InputError, match="video"):
        total_loss(*batch, topology_source="video")
