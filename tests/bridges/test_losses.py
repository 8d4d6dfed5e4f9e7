"""The losses against the paper's equations written out in float64; and shares, which add up to a batch's loss."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.bridges.losses import (
    LOSS_PRESETS,
    SHORTEST,
    Share,
    diffusion_link_loss,
    diffusion_loss,
    share_of_loss,
    squared_error,
    topology_loss,
)
from diffusion_link_hf.bridges.sampling import TrainingNoise, make_scheduler
from diffusion_link_hf.errors import InputError
from diffusion_link_hf.training.bridge import build_bridge
from support.bridges import make_rows, unit
from support.models import EMBEDDING_DIM, make_link


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
    assert diffusion_loss(text, text, text).item() == pytest.approx(0, abs=1e-20)
    assert topology_loss(text, text).item() == pytest.approx(0, abs=1e-20)


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


def link_and_batch():
    """A link in float64, its batch, and what it predicts in the two branches of the same draw."""
    torch.manual_seed(0)
    link = make_link().double()
    batch = [5 * unit(make_rows(7, seed)).double() for seed in (1, 2)]
    generator = torch.Generator().manual_seed(3)
    states = [TrainingNoise(make_scheduler(), generator, 300).add_to(clean) for clean in reversed(batch)]
    predictions = [link(*drawn).sample.float() for drawn in states]
    return link, batch, predictions


@pytest.mark.parametrize("source", ["audio", "text", "both"])
def test_total_is_the_sum_of_its_parts(source):
    link, (audio, text), (from_text, from_audio) = link_and_batch()
    generator = torch.Generator().manual_seed(3)
    options = {"topology_weight": 0.3, "topology_source": source}
    loss = diffusion_link_loss(link, audio, text, TrainingNoise(make_scheduler(), generator, 300), **options)
    topology = {"audio": topology_loss(text, from_audio), "text": topology_loss(text, from_text)}
    topology["both"] = topology["audio"] + topology["text"]
    torch.testing.assert_close(loss.topology, topology[source])
    diffusion = diffusion_loss(text, from_text, from_audio, "mean")
    torch.testing.assert_close(loss.total, diffusion + 0.3 * topology[source])


@pytest.mark.parametrize("preset", LOSS_PRESETS)
def test_presets_are_the_readings_of_the_paper(preset):
    """From the predictions of the same draw, in NumPy: means over elements, the letter, and L_diff alone."""
    link, (audio, text), predictions = link_and_batch()
    noise = TrainingNoise(make_scheduler(), torch.Generator().manual_seed(3), 300)
    found = diffusion_link_loss(link, audio, text, noise, **LOSS_PRESETS[preset])
    target, from_text, from_audio = (rows.detach().double().numpy() for rows in (text, *predictions))
    errors = (target - from_text) ** 2 + (target - from_audio) ** 2
    x, g = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (target, from_audio))
    entries = (x @ x.T - x @ g.T) ** 2
    expected = {
        "paper": errors.mean() + entries.mean(),
        "literal": errors.sum(1).mean() + entries.sum(),
        "none": errors.mean(),
    }
    assert found.total.item() == pytest.approx(expected[preset], rel=1e-5)


def test_the_topology_of_the_paper_is_seen():
    """Where the network starts, in the width of CLAP: neither term drowns the other, as one did in earlier versions."""
    torch.manual_seed(0)
    link = make_link(embedding_dim=512)
    space = torch.randn(20, 512)
    audio, text = (5 * unit(torch.randn(128, 20) @ space) for _ in range(2))
    shares = {}
    for name, options in {**LOSS_PRESETS, "earlier": {"dim_reduction": "sum"}}.items():
        noise = TrainingNoise(make_scheduler(), torch.Generator().manual_seed(3), 1000)
        loss = diffusion_link_loss(link, audio, text, noise, **options)
        parts = (loss.diffusion, options.get("topology_weight", 1.0) * loss.topology)
        grads = [torch.autograd.grad(part, link.denoiser.proj_out[-1].weight, retain_graph=True)[0] for part in parts]
        shares[name] = grads[1].norm() / grads[0].norm()
    assert 0.05 < shares["paper"] < 20
    assert shares["literal"] > 1
    assert shares["none"] == 0
    assert shares["earlier"] < 1e-3


def test_order_of_the_batch_does_not_matter(batch):
    order = torch.randperm(7)
    torch.testing.assert_close(diffusion_loss(*batch), diffusion_loss(*(b[order] for b in batch)))
    torch.testing.assert_close(topology_loss(*batch[:2]), topology_loss(*(b[order] for b in batch[:2])))


def test_reductions_over_a_batch_in_which_some_texts_have_no_partner(batch):
    text, from_text, from_audio = batch
    errors = [(text - from_text).square().sum(1), (text[:4] - from_audio[:4]).square().sum(1)]
    torch.testing.assert_close(
        diffusion_loss(text, from_text, from_audio[:4], "sum", "sum"), errors[0].sum() + errors[1].sum()
    )
    torch.testing.assert_close(diffusion_loss(text, from_text, from_audio[:4]), (errors[0].sum() + errors[1].sum()) / 7)
    torch.testing.assert_close(diffusion_loss(text, None, from_audio[:4]), errors[1].sum() / 7)


def test_unknown_choices_are_refused(batch):
    with pytest.raises(InputError, match="median"):
        topology_loss(batch[0], batch[1], "median")
    with pytest.raises(InputError, match="median"):
        squared_error(batch[0], batch[1], batch_reduction="median")
    link, (audio, text), _ = link_and_batch()
    noise = TrainingNoise(make_scheduler(), torch.Generator(), 300)
    with pytest.raises(InputError, match="video"):
        diffusion_link_loss(link, audio, text, noise, topology_source="video")


def loss_and_gradients(loss, bridge, count, source, target, **options):
    """Added up over ``count`` shares."""
    bridge.zero_grad()
    total = 0.0
    for index in range(count):
        generator = torch.Generator().manual_seed(3)
        noise = TrainingNoise(make_scheduler(), generator, 300)
        value = loss(bridge, source, target, noise, Share(index, count), **options)
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
        (4, {"batch_reduction": "sum", "dim_reduction": "sum"}),
        (7, LOSS_PRESETS["literal"]),
        (7, {"text_to_text": False, "topology_weight": 30.0}),
        (0, {}),
    ],
)
def test_shares_of_diffusion_links_loss_add_up(count, paired, options):
    torch.manual_seed(0)
    link = make_link().double()
    source, target = (5 * unit(make_rows(n, seed)).double() for n, seed in ((paired, 1), (7, 2)))
    whole = loss_and_gradients(diffusion_link_loss, link, 1, source, target, **options)
    assert_same(loss_and_gradients(diffusion_link_loss, link, count, source, target, **options), whole)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("method", ["mlp", "diffgap", "diffusion-bridge"])
def test_shares_of_a_bridges_own_loss_add_up(method, count):
    """Those of noise too: it is drawn for the whole batch."""
    torch.manual_seed(0)
    bridge = build_bridge(method, EMBEDDING_DIM, width=16, time_embed_dim=8).double()
    for parameter in bridge.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    source, target = (5 * unit(make_rows(7, seed)).double() for seed in (1, 2))
    whole = loss_and_gradients(share_of_loss, bridge, 1, source, target)
    assert_same(loss_and_gradients(share_of_loss, bridge, count, source, target), whole)


@pytest.mark.parametrize(("rows", "count"), [(7, 3), (128, 8), (5, 5)])
def test_shares_cover_the_batch(rows, count):
    parts = [list(range(rows))[Share(k, count).rows(rows)] for k in range(count)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
