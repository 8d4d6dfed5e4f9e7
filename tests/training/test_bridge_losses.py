"""Shares of a batch: their losses and gradients add up to those of the batch, so any number of processes is one."""

import pytest
import torch

from diffusion_link_hf.bridges.sampling import make_scheduler
from diffusion_link_hf.training.bridge import build_bridge
from diffusion_link_hf.training.bridge_losses import Share, link_loss, own_loss
from support.bridges import make_rows, unit
from support.models import EMBEDDING_DIM, make_link


def loss_and_gradients(loss, bridge, count, source, target, **options):
    """Added up over ``count`` shares."""
    bridge.zero_grad()
    total = 0.0
    for index in range(count):
        generator = torch.Generator().manual_seed(3)
        value = loss(bridge, source, target, make_scheduler(), generator, 300, Share(index, count), **options)
        value = getattr(value, "total", value)
        value.backward()
        total += value.item()
    return total, [parameter.grad.clone() for parameter in bridge.parameters()]


def assert_same(shared, whole):
    assert shared[0] == pytest.approx(whole[0], rel=1e-9)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole[1])
    for found, expected in zip(shared[1], whole[1], strict=True):
        assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize(
    ("paired", "options"),
    [
        (7, {}),
        (7, {"topology_source": "both", "topology_reduction": "sum"}),
        (4, {"topology_weight": 30.0}),
        (4, {"batch_reduction": "sum", "dim_reduction": "mean"}),
        (7, {"text_to_text": False, "topology_weight": 30.0}),
        (0, {}),
    ],
)
def test_shares_of_the_link_loss_add_up(count, paired, options):
    torch.manual_seed(0)
    link = make_link().double()
    source, target = (5 * unit(make_rows(n, seed)).double() for n, seed in ((paired, 1), (7, 2)))
    whole = loss_and_gradients(link_loss, link, 1, source, target, **options)
    assert_same(loss_and_gradients(link_loss, link, count, source, target, **options), whole)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("method", ["mlp", "diffgap", "diffusion-bridge"])
def test_shares_of_an_own_loss_add_up(method, count):
    """Those of noise too: it is drawn for the whole batch."""
    torch.manual_seed(0)
    bridge = build_bridge(method, EMBEDDING_DIM, width=16, time_embed_dim=8).double()
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    source, target = (5 * unit(make_rows(7, seed)).double() for seed in (1, 2))
    whole = loss_and_gradients(own_loss, bridge, 1, source, target)
    assert_same(loss_and_gradients(own_loss, bridge, count, source, target), whole)


@pytest.mark.parametrize(("rows", "count"), [(7, 3), (128, 8), (5, 5)])
def test_shares_cover_the_batch(rows, count):
    parts = [list(range(rows))[Share(k, count).rows(rows)] for k in range(count)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
