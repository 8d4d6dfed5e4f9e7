"""Memory projection against the softmax over everything."""

import pytest
import torch

from diffusion_link_hf.bridges.memory_projection import BLOCK_ROWS, MemoryProjection
from diffusion_link_hf.errors import InputError
from support.bridges import make_bridge, make_pairs, make_rows, normalized, unit
from support.models import EMBEDDING_DIM


def projected(x, memory, temperature, top_k=None):
    """Σ softmax(x·m / τ) m in float64, over all rows or the best k."""
    x, memory = x.double(), memory.double()
    scores = x @ memory.T
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    return unit((scores / temperature).softmax(1) @ memory)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 120, 1000])
@pytest.mark.parametrize("centered", [False, True])
def test_equals_the_definition(temperature, top_k, centered):
    bridge = make_bridge("memory", temperature=temperature, top_k=top_k, centered=centered)
    rows, text = make_rows(6, 5, torch.float64), make_pairs()[1]
    x = normalized(rows, bridge.audio_mean, 1.0) if centered else unit(rows)
    memory = normalized(text, bridge.text_mean, 1.0) if centered else unit(text)
    torch.testing.assert_close(bridge.memory.double(), memory, atol=1e-7, rtol=0)
    expected = projected(x, bridge.memory, temperature, top_k and min(top_k, len(memory)))
    torch.testing.assert_close(bridge.bridge(rows), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(bridge.bridge(rows.float()).double(), expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(bridge.target(text[:3]), memory[:3])


@pytest.mark.parametrize("top_k", [None, 7])
@pytest.mark.parametrize("rows", [7, BLOCK_ROWS, 2 * BLOCK_ROWS + 3])
def test_blocks_do_not_show(rows, top_k):
    bridge = MemoryProjection(EMBEDDING_DIM, temperature=0.05, top_k=top_k).fit(None, make_rows(rows))
    x = make_rows(3, 1, torch.float64)
    torch.testing.assert_close(bridge.bridge(x), projected(unit(x), bridge.memory, 0.05, top_k), atol=1e-12, rtol=0)


@pytest.mark.parametrize("k", [1, 5, BLOCK_ROWS + 10, 2 * BLOCK_ROWS + 3])
def test_search_finds_the_most_similar_rows_in_order(k):
    bridge = MemoryProjection(EMBEDDING_DIM).fit(None, make_rows(2 * BLOCK_ROWS + 3))
    x = unit(make_rows(3, 1, torch.float64))
    similarities, rows = bridge.search(x, k)
    expected = (x @ bridge.memory.double().T).topk(k)
    torch.testing.assert_close(similarities, expected.values, atol=1e-12, rtol=0)
    assert torch.equal(rows, expected.indices)
    assert all(part.shape == (0, k) for part in bridge.search(x[:0], k))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_large_memory_is_searched_exactly(dtype, tmp_path):
    bridge = MemoryProjection(EMBEDDING_DIM, top_k=20, memory_dtype=dtype).fit(None, make_rows(20_000))
    x = make_rows(5, 1)
    found = bridge.bridge(x)
    torch.testing.assert_close(found.double(), projected(unit(x), bridge.memory, 0.01, 20), atol=1e-4, rtol=0)
    bridge.save_pretrained(tmp_path)
    again = MemoryProjection.from_pretrained(tmp_path)
    assert again.memory.dtype == getattr(torch, dtype)
    assert torch.equal(again.memory, bridge.memory)
    torch.testing.assert_close(again.bridge(x), found, atol=1e-6, rtol=0)
    size = (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size == pytest.approx(bridge.memory.nbytes, rel=0.01)


def test_a_new_memory_replaces_the_old_one():
    bridge = MemoryProjection(EMBEDDING_DIM, top_k=3).fit(None, make_rows(20_000))
    x = make_rows(4, 1)
    bridge.bridge(x)
    bridge.set_memory(make_rows(18_000, 2))
    assert bridge.config.memory_size == 18_000
    torch.testing.assert_close(bridge.bridge(x).double(), projected(unit(x), bridge.memory, 0.01, 3), atol=1e-4, rtol=0)
    with torch.no_grad():
        bridge.memory.copy_(bridge.memory.flip(1))
    torch.testing.assert_close(bridge.bridge(x).double(), projected(unit(x), bridge.memory, 0.01, 3), atol=1e-4, rtol=0)


def test_a_configuration_field_loads_by_its_former_name(tmp_path):
    bridge, rows = make_bridge("memory", centered=True), make_rows(4)
    bridge.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"centered"', '"centred"'))
    again = MemoryProjection.from_pretrained(tmp_path)
    assert again.config.centered
    assert torch.equal(again.bridge(rows), bridge.bridge(rows))
    again.save_pretrained(tmp_path / "again")
    assert "centred" not in (tmp_path / "again" / "config.json").read_text()


def test_the_memory_holds_each_text_once():
    source, target = make_pairs(4)
    twice = torch.tensor([0, 0, 1, 2, 3])
    bridge = MemoryProjection(EMBEDDING_DIM).fit(source[twice], target[twice], twice, unpaired_target=target[:2] + 1)
    assert bridge.memory.shape == (6, EMBEDDING_DIM)


def test_text_input():
    same, mapped, rows = make_bridge("memory"), make_bridge("memory", text_input="map"), make_rows(4)
    torch.testing.assert_close(same.bridge(rows, "text"), unit(rows))
    torch.testing.assert_close(
        mapped.bridge(rows, "text").double(), projected(unit(rows), mapped.memory, 0.01), atol=1e-4, rtol=0
    )


def test_a_cold_softmax_is_the_nearest_text():
    bridge, rows = make_bridge("memory", temperature=1e-6), make_rows(4)
    nearest = (unit(rows) @ bridge.memory.T).argmax(1)
    torch.testing.assert_close(bridge.bridge(rows), bridge.memory[nearest])


@pytest.mark.parametrize(
    "config", [{"temperature": 0.0}, {"top_k": 0}, {"memory_dtype": "int8"}, {"text_input": "none"}]
)
def test_wrong_configurations_are_refused(config):
    with pytest.raises(InputError, match=next(iter(config))):
        MemoryProjection(EMBEDDING_DIM, **config)
