"""Cosines against double loops in numpy, and their invariances."""

import numpy as np
import pytest
import torch

from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.similarity import distinct_items, matched_cosine, unmatched_cosine
from diffusion_link_hf.errors import InputError
from support.bridges import make_rows

GROUP = torch.tensor([4, 4, 9, 2, 2, 2, 9, 5])


def cosine(a, b) -> float:
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def both(generated, target, group, resamples=50):
    boot = GroupBootstrap(group.numpy(), resamples)
    return [measure(generated, target, group, boot) for measure in (matched_cosine, unmatched_cosine)]


def test_equals_a_double_loop():
    a, b = make_rows(8, 1), make_rows(8, 2) + 0.5
    matched, unmatched = both(a, b, GROUP)
    assert matched.value == pytest.approx(np.mean([cosine(a[i], b[i]) for i in range(8)]), abs=1e-12)
    pairs = [cosine(a[i], b[j]) for i in range(8) for j in range(8) if GROUP[i] != GROUP[j]]
    assert unmatched.value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_resamples_of_the_unmatched_equal_a_loop():
    """In a resample, copies of a recording count as often as drawn, and never with each other."""
    a, b = make_rows(8, 1), make_rows(8, 2)
    boot = GroupBootstrap(GROUP.numpy(), 5)
    found = unmatched_cosine(a, b, GROUP, boot)
    for counts, value in zip(next(boot._blocks()), found.resampled, strict=True):
        times = dict(zip(boot.items.tolist(), counts.tolist(), strict=True))
        weighted = [
            (times[int(GROUP[i])] * times[int(GROUP[j])], cosine(a[i], b[j]))
            for i in range(8)
            for j in range(8)
            if GROUP[i] != GROUP[j]
        ]
        total = sum(weight for weight, _ in weighted)
        assert value == pytest.approx(sum(weight * c for weight, c in weighted) / total, abs=1e-12)


def test_neither_norm_nor_order_matters():
    a, b, order = make_rows(8, 1), make_rows(8, 2), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    for one, other in zip(both(a, b, GROUP), both(7 * a[order], b[order] / 3, GROUP[order]), strict=True):
        np.testing.assert_allclose(one.resampled, other.resampled, atol=1e-7)
        assert one.value == pytest.approx(other.value, abs=1e-7)


def test_distinct_items():
    rows = make_rows(4)
    items, group = distinct_items(rows[[0, 1, 0, 0, 2, 3]], torch.tensor([8, 8, 8, 3, 8, 3]))
    assert group.tolist() == [3, 3, 8, 8, 8]
    expected = {(3, 0), (3, 3), (8, 0), (8, 1), (8, 2)}
    found = {(int(g), int((rows.double() == item).all(1).nonzero())) for g, item in zip(group, items, strict=True)}
    assert found == expected


def test_wrong_shapes_are_refused():
    boot = GroupBootstrap(GROUP.numpy())
    for measure in (matched_cosine, unmatched_cosine):
        with pytest.raises(InputError, match="target"):
            measure(make_rows(8), make_rows(7), GROUP, boot)
        with pytest.raises(InputError, match="group"):
            measure(make_rows(8), make_rows(8), GROUP[:7], boot)
    alone = torch.zeros(8, dtype=torch.long)
    with pytest.raises(InputError, match="only one recording"):
        unmatched_cosine(make_rows(8), make_rows(8), alone, GroupBootstrap(alone.numpy()))
