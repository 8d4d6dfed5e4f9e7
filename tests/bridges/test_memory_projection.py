"""Memory projection against the softmax over everything."""

import pytest
import torch

from diffusion_link_hf.bridges.exact_search import ScreenedSearch
from diffusion_link_hf.bridges.memory_projection import MemoryProjection
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


@pytest.mark.parametrize("rows", [1, 4096, 9000])
def test_blocks_do_not_show(rows):
    bridge = MemoryProjection(EMBEDDING_DIM, temperature=0.05).fit(None, make_rows(rows))
    x = make_rows(3, 1, torch.float64)
    torch.testing.assert_close(bridge.bridge(x), projected(unit(x), bridge.memory, 0.05), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_large_memory_is_screened_and_exact(dtype, tmp_path):
    bridge = MemoryProjection(EMBEDDING_DIM, top_k=20, memory_dtype=dtype).fit(None, make_rows(20_000))
    x = make_rows(5, 1)
    found = bridge.bridge(x)
    torch.testing.assert_close(found.double(), projected(unit(x), bridge.memory, 0.01, 20), atol=1e-4, rtol=0)
    if ScreenedSearch.is_available(bridge.memory, x):
        assert bridge._index is not None
    bridge.save_pretrained(tmp_path)
    again = MemoryProjection.from_pretrained(tmp_path)
    assert again.memory.dtype == getattr(torch, dtype)
    assert torch.equal(again.memory, bridge.memory)
    torch.testing.assert_close(again.bridge(x), found, atol=1e-6, rtol=0)
    size = (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size == pytest.approx(bridge.memory.nbytes, rel=0.01)


def test_a_new_memory_replaces_the_index():
    bridge = MemoryProjection(EMBEDDING_DIM, top_k=3).fit(None, make_rows(20_000))
    x = make_rows(4, 1)
    bridge.bridge(x)
    bridge.set_memory(make_rows(18_000, 2))
    assert bridge.config.memory_size == 18_000
    torch.testing.assert_close(bridge.bridge(x).double(), projected(unit(x), bridge.memory, 0.01, 3), atol=1e-4, rtol=0)
    with torch.no_grad():
        bridge.memory.copy_(bridge.memory.flip(1))
    torch.testing.assert_close(bridge.bridge(x).double(), projected(unit(x), bridge.memory, 0.01, 3), atol=1e-4, rtol=0)


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
