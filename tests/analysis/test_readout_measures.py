"""Read-outs in the gap experiment: CSLS against its definition, the same read-outs for all, choices on validation."""

import json

import numpy as np
import pytest
import torch

from diffusion_link_hf import EmbeddingPairs, gap
from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.readout_measures import measure_readouts
from diffusion_link_hf.analysis.retrieval import csls, recall
from diffusion_link_hf.errors import InputError
from support.analysis import make_pairs_with_captions
from support.bridges import make_bridge, make_rows, unit


def test_csls_is_its_definition():
    u, v, bank_u, bank_v = (unit(make_rows(n, n, torch.float64)) for n in (5, 6, 30, 40))
    corrected_u, corrected_v = csls(u, v, bank_u, bank_v, neighbors=10)
    found = (corrected_u @ corrected_v.T).numpy()
    for i in range(5):
        for j in range(6):
            of_source = sorted((u[i] @ bank_v.T).tolist())[-10:]
            of_target = sorted((v[j] @ bank_u.T).tolist())[-10:]
            expected = 2 * float(u[i] @ v[j]) - np.mean(of_source) - np.mean(of_target)
            assert found[i, j] == pytest.approx(expected, abs=1e-12)


def test_recall_by_product_of_unit_rows_is_that_by_cosine():
    pairs = make_pairs_with_captions(40)
    boot = GroupBootstrap(pairs.group.numpy(), 10)
    source, target = unit(pairs.source.double()), unit(pairs.target.double())
    by_cosine, by_product = (recall(source, target, pairs.group, boot, by_product=way) for way in (False, True))
    assert {name: one.value for name, one in by_cosine.items()} == {name: one.value for name, one in by_product.items()}


def test_the_scale_of_a_score_does_not_matter():
    pairs = make_pairs_with_captions(40)
    boot = GroupBootstrap(pairs.group.numpy(), 10)
    source, target = pairs.source.double(), pairs.target.double()
    once, more = (recall(factor * source, target, pairs.group, boot, by_product=True) for factor in (1, 1e4))
    assert {name: one.value for name, one in once.items()} == {name: one.value for name, one in more.items()}


def test_validation_alone_chooses_and_the_bridge_stays():
    train, rest = make_pairs_with_captions(200).split(0.5, 0)
    validation, held_out = rest.split(0.5, 0)
    bridge = make_bridge("ridge")
    before = bridge.bridge(held_out.source)
    boot = GroupBootstrap(held_out.group.numpy(), 10)
    found = measure_readouts(bridge, train, validation, held_out, boot)
    assert bridge.readouts is None
    assert torch.equal(bridge.bridge(held_out.source), before)
    assert len(found.recalls) == 8
    assert found.validation[found.chosen] == max(found.validation.values())
    plain = recall(before, bridge.target(held_out.target), held_out.group, boot)
    for name, estimate in plain.items():
        assert found.recalls["cosine"][name].value == pytest.approx(estimate.value, abs=1e-12)
    other = held_out.select(torch.arange(len(held_out.target) // 2))  # whatever is held out, the choices are the same
    again = measure_readouts(bridge, train, validation, other, GroupBootstrap(other.group.numpy(), 10))
    assert again.validation == found.validation
    assert again.choice == found.choice


@pytest.mark.parametrize("given", [True, False])
def test_the_report_has_read_outs_for_every_method(given, tmp_path):
    pairs = make_pairs_with_captions(200)
    rest, validation = pairs.split(0.2, 3)
    more = {"validation": validation} if given else {}
    arguments = {"methods": ["procrustes"], "seeds": [0, 1], "resamples": 20, "held_out": 0.3, "kl_components": 4}
    document = gap(rest if given else pairs, tmp_path, figures=False, readouts=True, **arguments, **more)
    assert list(document["readouts"]) == ["identity", "centering", "ridge", "procrustes"]
    rows = document["data"]["validation"]
    assert (rows["rows"], rows["name"]) == ((80, "small") if given else (28, "10% of the training data"))
    assert document["data"]["train_recordings"] == (112 if given else 126)
    ridge = document["readouts"]["ridge"]
    assert [choice["retrieval"] in ridge["recalls"] for choice in ridge["choices"]] == [True, True]
    difference = document["readouts"]["procrustes"]["minus"]["ridge"]["matched_audio"]["value"]
    chosen = [document["readouts"][name]["chosen"]["matched_audio"]["value"] for name in ("procrustes", "ridge")]
    assert difference == pytest.approx(chosen[0] - chosen[1], abs=1e-5)
    report = (tmp_path / "report.md").read_text()
    assert "## Read-outs" in report
    assert "| ridge, refined + CSLS |" in report
    assert "The held-out pairs chose nothing." in report
    assert json.loads((tmp_path / "results.json").read_text()) == document


def test_validation_without_read_outs_is_refused(tmp_path):
    pairs = EmbeddingPairs(make_rows(40), make_rows(40, 1))
    with pytest.raises(InputError, match="nothing is chosen"):
        gap(pairs, tmp_path, figures=False, validation=pairs)
