"""Recall@k against brute force, ties against every possible order, several captions per recording."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.retrieval import Ranking, rank_items, recall
from diffusion_link_hf.errors import InputError
from support.bridges import make_rows


def brute_force(queries, query_group, gallery, gallery_group, k) -> float:
    hits = []
    for query, group in zip(queries.double().numpy(), query_group.tolist(), strict=True):
        scores = [
            (query @ item / np.linalg.norm(query) / np.linalg.norm(item), int(other))
            for item, other in zip(gallery.double().numpy(), gallery_group.tolist(), strict=True)
        ]
        hits.append(group in [other for _, other in sorted(scores, reverse=True)[:k]])
    return float(np.mean(hits))


def make_captioned(recordings=60, captions=3, noise=4.0):
    """One source row per recording, repeated for each of its captions."""
    group = torch.arange(recordings).repeat_interleave(captions) * 5 + 2
    source = make_rows(recordings, 1)
    target = source.repeat_interleave(captions, 0) + noise * make_rows(recordings * captions, 2)
    return source, target, group


def test_equals_brute_force_with_several_captions():
    source, target, group = make_captioned()
    found = recall(source.repeat_interleave(3, 0), target, group, GroupBootstrap(group.numpy(), 10))
    for k in (1, 5, 10):
        there = brute_force(source, group[::3], target, group, k)
        back = brute_force(target, group, source, group[::3], k)
        assert 0.05 < there < 1
        assert found[f"source_to_target_r{k}"].value == pytest.approx(there, abs=1e-12)
        assert found[f"target_to_source_r{k}"].value == pytest.approx(back, abs=1e-12)


def test_more_queries_than_a_block():
    source, target, group = make_captioned(150, 2)
    found = recall(source.repeat_interleave(2, 0), target, group, GroupBootstrap(group.numpy(), 2), (3,))
    assert found["target_to_source_r3"].value == pytest.approx(
        brute_force(target, group, source, group[::2], 3), abs=1e-12
    )


def test_the_order_of_rows_does_not_matter():
    source, target, group = make_captioned()
    source = source.repeat_interleave(3, 0)
    target[6:9] = target[0]  # ties across recordings
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    one = recall(source, target, group, GroupBootstrap(group.numpy(), 20))
    other = recall(source[order], target[order], group[order], GroupBootstrap(group.numpy(), 20))
    for name in one:
        np.testing.assert_allclose(one[name].resampled, other[name].resampled, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(1, 8))
def test_ties_count_as_they_fall_by_chance(better, tied, own, k):
    """Over all orders of the tied items."""
    orders = list(permutations([True] * own + [False] * tied))
    chance = np.mean([any(order[: max(k - better, 0)]) for order in orders])
    ranking = Ranking(*(np.array([count]) for count in (0, better, tied, own)))
    assert ranking.hits(k)[0] == pytest.approx(chance, abs=1e-12)


def test_a_bridge_to_one_point_has_recall_at_chance():
    _, target, group = make_captioned(20, 1)
    found = recall(torch.ones_like(target), target, group, GroupBootstrap(group.numpy(), 5))
    assert found["target_to_source_r1"].value == pytest.approx(1 / 20)
    assert found["target_to_source_r10"].value == pytest.approx(10 / 20)


def test_equal_captions_of_other_recordings_are_ties():
    """Rounding in float32 does not break them."""
    query = make_rows(1)
    gallery = torch.cat([query, query * (1 + 1e-7), -query])
    ranking = rank_items(query, torch.tensor([1]), gallery, torch.tensor([0, 1, 2]))
    assert (ranking.better.item(), ranking.tied.item(), ranking.own.item()) == (0, 1, 1)
    assert ranking.hits(1).item() == 0.5
    assert ranking.hits(2).item() == 1


def test_wrong_input_is_refused():
    rows = make_rows(3)
    with pytest.raises(InputError, match="has no item"):
        rank_items(rows, torch.tensor([0, 1, 5]), rows, torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="cutoffs"):
        recall(rows, rows, torch.arange(3), GroupBootstrap(np.arange(3)), (0,))
