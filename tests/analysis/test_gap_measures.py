"""Bridges measured on held-out rows: against direct computation, and whatever the order, batch and company."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusion_link_hf.analysis.gap_measures import (
    FittedBridge,
    GapSettings,
    bridge_rows,
    check_data,
    content_noise,
    measure_bridges,
)
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, InputError
from support.analysis import QUICK, make_fitted, make_split
from support.bridges import make_bridge, make_rows


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def fitted(split):
    return make_fitted(split[0])


@pytest.fixture(scope="module")
def results(split, fitted):
    return {result.method: result for result in measure_bridges(fitted, split[1], split[0], QUICK)}


def test_methods_and_seeds(results):
    assert list(results) == ["identity", "centering", "ridge", "diffusion-link"]
    for result in results.values():
        assert [one.seed for one, _ in result.runs] == [0, 1]
        seeds = result.by_seed("matched_audio")
        assert result.estimate("matched_audio").value == pytest.approx(np.mean(seeds))
    one, other = results["diffusion-link"].by_seed("matched_audio")
    assert one != other


def test_figures_of_a_bridge_without_noise(results, split, fitted):
    held_out, ridge = split[1], fitted[2].bridge
    generated, real = ridge.bridge(held_out.source).double(), ridge.target(held_out.target).double()
    figures = {name: estimate.value for name, estimate in results["ridge"].runs[0][1].estimates.items()}
    cosines = F.normalize(generated) @ F.normalize(real).T
    same = held_out.group[:, None] == held_out.group
    assert figures["matched_audio"] == pytest.approx(cosines.diagonal().mean().item(), abs=1e-6)
    assert figures["unmatched_audio"] == pytest.approx(cosines[~same].mean().item(), abs=1e-6)
    assert figures["matched_text"] == pytest.approx(1, abs=1e-6)
    hit = same[torch.arange(len(same)), cosines.argmax(1)]
    assert figures["source_to_target_r1"] == pytest.approx(hit.double().mean().item(), abs=1e-9)
    geometry = results["identity"].runs[0][1].geometry
    raw = F.normalize(held_out.source[::2].double()).mean(0) - F.normalize(held_out.target.double()).mean(0)
    assert geometry["centroid_distance"] == pytest.approx(raw.norm().item(), abs=1e-6)
    assert geometry.keys() == results["ridge"].runs[0][1].geometry.keys()


def test_ridge_closes_a_gap_that_is_a_rotation(results):
    for better in ("matched_audio", "source_to_target_r1"):
        assert (results["ridge"].estimate(better) - results["centering"].estimate(better)).interval()[0] > 0.1
    kl = {name: result.by_seed("kl_divergence")[0] for name, result in results.items()}
    assert kl["ridge"] < kl["identity"]


@pytest.mark.parametrize("method", ["ridge", "diffusion-link"])
def test_neither_order_nor_batch_nor_company_matters(method, results, split, fitted):
    train, held_out = split
    order = torch.randperm(len(held_out.target), generator=torch.Generator().manual_seed(0))
    alone = [one for one in fitted if one.method == method][:1]
    (result,) = measure_bridges(alone, held_out.select(order), train, replace(QUICK, batch_size=7))
    expected, found = results[method].runs[0][1], result.runs[0][1]
    for name, estimate in expected.estimates.items():
        np.testing.assert_allclose(found.estimates[name].resampled, estimate.resampled, atol=1e-5)
    for name, value in expected.geometry.items():
        assert found.geometry[name] == pytest.approx(value, rel=1e-4, abs=1e-5)


def test_noise_belongs_to_the_row():
    rows = make_rows(2000)
    noise = content_noise(rows, 0)
    assert noise.mean().abs() < 0.02
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert torch.equal(content_noise(rows[[5, 3]], 0), noise[[5, 3]])
    assert not torch.equal(content_noise(rows[:1], 1), noise[:1])
    assert noise.unique(dim=0).shape == noise.shape


def test_options_reach_the_bridge_and_repeated_rows_are_bridged_once():
    bridge, rows = make_bridge("diffusion-link"), make_rows(3)
    repeated = rows[[0, 2, 0, 1, 2]]
    options = {"noise_timestep": 40, "num_inference_steps": 2, "add_noise": True}
    found, count = bridge_rows(FittedBridge("link", bridge, options=options), repeated, "audio", QUICK)
    expected = bridge.bridge(repeated, noise=content_noise(repeated, QUICK.seed), **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert count == 3
    plain, _ = bridge_rows(FittedBridge("link", bridge), repeated, "audio", QUICK)
    assert (plain - found).abs().max() > 1e-3


def test_geometry_can_be_left_out(split, fitted):
    (result,) = measure_bridges(fitted[:1], split[1], split[0], replace(QUICK, geometry=False))
    assert result.runs[0][1].geometry == {}


def test_wrong_data_are_refused_before_anything_is_measured(split, fitted):
    train, held_out = split
    with pytest.raises(DataError, match="held-out recordings"):
        check_data(held_out.select(held_out.group < held_out.group.unique()[3]), train, QUICK)
    few = held_out.select(held_out.group < held_out.group.unique()[20])
    check_data(few, train, QUICK)
    with pytest.raises(DataError, match="32 KL components"):
        check_data(few, train, GapSettings())
    other = EmbeddingPairs(make_rows(40)[:, :16], make_rows(40, 1)[:, :16])
    with pytest.raises(DataError, match="wide"):
        measure_bridges(fitted[:1], other, other, QUICK)
    with pytest.raises(InputError, match="batch_size"):
        GapSettings(batch_size=0)


def test_data_that_fill_few_dimensions_are_told_what_to_do():
    """Captions that are names of classes: 20 in training, of which the held-out part has 6."""
    rows, classes = make_rows(400, 1), make_rows(20, 2)
    label = torch.arange(400) % 20
    pairs = EmbeddingPairs(rows, classes[label], name="classes")
    train, held_out = pairs.select(torch.arange(300)), pairs.select(300 + torch.arange(100)[label[300:] < 6])
    with pytest.raises(DataError, match="KL components") as caught:
        check_data(held_out, train, GapSettings())
    components = int(re.search(r"kl_components=(\d+)", caught.value.remedy).group(1))
    check_data(held_out, train, GapSettings(kl_components=components))
    with pytest.raises(DataError):
        check_data(held_out, train, GapSettings(kl_components=components + 1))
    check_data(held_out, train, GapSettings(geometry=False))
