"""Exact search against a full sort, on data that make screening hard."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffusion_link_hf.bridges.exact_search import PACK_ROWS, ScreenedSearch, search_in_blocks

GROUP = 64  # rows; packs hold few of them here


def brute_force(memory, queries, k):
    """Products and indices by a float64 sort of all of them."""
    scores = queries.double() @ memory.double().T
    return scores.sort(dim=1, descending=True, stable=True).values[:, :k]


def make_memory(kind: str, rows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    memory = torch.randn(rows, width, generator=generator)
    if kind == "clustered":  # near-duplicates, whose order 8 bits cannot tell
        memory = memory[:7].repeat(rows // 7 + 1, 1)[:rows] + 1e-3 * memory
    elif kind == "one large coordinate":  # leaves few of the 8 bits to the others
        memory[:, 0] += 20
    return torch.nn.functional.normalize(memory, dim=1)


@pytest.fixture
def few_to_a_pack(monkeypatch):
    """Several packs even in small memories."""
    monkeypatch.setattr("diffusion_link_hf.bridges.exact_search.PACK_ROWS", 4 * GROUP)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["gaussian", "clustered", "one large coordinate"]),
    rows=st.integers(GROUP * 8, 3000),
    k=st.integers(1, 8),
    batch=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_equals_a_full_sort(few_to_a_pack, kind, rows, k, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    memory = make_memory(kind, rows, 48, generator)
    queries = torch.nn.functional.normalize(torch.randn(batch, 48, generator=generator), dim=1)
    expected = brute_force(memory, queries, k)
    for scores, index in (search_in_blocks(memory, queries, k), ScreenedSearch(memory).search(queries, k)):
        torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=0)
        for row in range(batch):
            assert len(set(index[row].tolist())) == k
            torch.testing.assert_close(memory[index[row]] @ queries[row], scores[row], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_several_packs(few_to_a_pack, dtype):
    generator = torch.Generator().manual_seed(0)
    memory = make_memory("gaussian", 21 * GROUP + 5, 32, generator).to(dtype)
    queries = torch.randn(6, 32, generator=generator)  # of norms far from one
    queries[0] = 3 * memory[-1].float()
    scores, index = ScreenedSearch(memory).search(queries, 10)
    torch.testing.assert_close(scores.double(), brute_force(memory, queries, 10), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, search_in_blocks(memory, queries, 10)[0], atol=1e-5, rtol=0)
    assert index[0, 0] == len(memory) - 1


def test_blocks(monkeypatch):
    monkeypatch.setattr("diffusion_link_hf.bridges.exact_search.BLOCK_ROWS", 7)
    memory, queries = torch.randn(50, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    for k in (1, 6, 20, 50):
        scores, index = search_in_blocks(memory, queries, k)
        torch.testing.assert_close(scores, brute_force(memory, queries, k))
        torch.testing.assert_close((queries @ memory.T).gather(1, index), scores)


def test_screening_leaves_few_rows_to_compute(monkeypatch):
    """Otherwise it would be right, but of no use."""
    memory = make_memory("gaussian", 30_000, 256, torch.Generator().manual_seed(0))
    queries = make_memory("gaussian", 4, 256, torch.Generator().manual_seed(1))
    search, computed = ScreenedSearch(memory), []
    monkeypatch.setattr(
        search, "_products", lambda q, rows: (computed.append(len(rows)), ScreenedSearch._products(search, q, rows))[1]
    )
    search.search(queries, 10)
    assert sum(computed) < 0.02 * 4 * len(memory)


def test_an_index_belongs_to_its_memory():
    memory = torch.randn(1000, 16)
    search = ScreenedSearch(memory)
    assert search.is_of(memory)
    assert not search.is_of(memory.clone())
    assert copy.deepcopy(search) is None
    memory += 1
    assert not search.is_of(memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_index_is_small_against_its_memory(dtype):
    memory = torch.nn.functional.normalize(torch.randn(200_000, 8), dim=1).to(dtype)
    packed = sum(min(PACK_ROWS, len(memory) - start) for start, *_ in ScreenedSearch(memory)._packs)
    assert 0.15 < packed / (len(memory) * memory.element_size()) < 0.2


def test_the_rounding_of_the_memory_is_in_the_bound(few_to_a_pack):
    """One-hot queries survive 7 bits, so that only the memory's rounding can lose a row."""
    memory = torch.nn.functional.normalize(torch.randn(2000, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    memory[:, 0] = 0.1 + 1e-5 * torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    queries = torch.eye(32)[:1]
    scores, _ = ScreenedSearch(memory).search(queries, 5)
    torch.testing.assert_close(scores[0], memory[:, 0].sort(descending=True).values[:5])
