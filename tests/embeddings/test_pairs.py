"""Embedding pairs: from a cache or a plain file, split by group, in either direction."""

import pytest
import torch
from safetensors.torch import save_file

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError


def rows(count: int, seed: int = 0, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def make_cache() -> EmbeddingCache:
    """Four recordings with 2, 1, 0 and 3 captions, and one caption without a recording."""
    owner = torch.tensor([0, 0, 1, -1, 3, 3, 3])
    return EmbeddingCache(rows(4), rows(7, 1), owner, [f"caption {k}" for k in range(7)], list("abcd"), {})


def test_from_a_cache(tmp_path):
    cache = make_cache()
    cache.save(tmp_path)
    pairs = EmbeddingPairs.load(tmp_path)
    assert pairs.group.tolist() == [0, 0, 1, 3, 3, 3]
    assert torch.equal(pairs.source, cache.audio[[0, 0, 1, 3, 3, 3]])
    assert torch.equal(pairs.target, cache.text[[0, 1, 2, 4, 5, 6]])
    assert torch.equal(pairs.unpaired_target, cache.text[3:4])
    assert torch.equal(pairs.unpaired_source, cache.audio[2:3])


def test_who_made_them_travels_along():
    cache = make_cache()
    assert EmbeddingPairs.from_cache(cache).clap is None
    cache.manifest["clap"] = "0123"
    pairs = EmbeddingPairs.from_cache(cache)
    train, validation = pairs.split(0.4, 0)
    for part in (pairs, pairs.reversed(), pairs.select(torch.tensor([0, 2])), train, validation):
        assert part.clap == "0123"


def test_text_only_cache():
    cache = EmbeddingCache(rows(0), rows(3), torch.full((3,), -1), list("abc"), [], {})
    pairs = EmbeddingPairs.from_cache(cache)
    assert len(pairs.target) == 0
    assert torch.equal(pairs.unpaired_target, cache.text)
    train, validation = pairs.split(0.2, 0)
    assert validation is None
    assert len(train.unpaired_target) == 3


@pytest.mark.parametrize("group", [None, torch.tensor([4, 4, 9, 2], dtype=torch.int32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_from_a_plain_file(tmp_path, group, dtype):
    tensors = {"source": rows(4).to(dtype), "target": rows(4, 1).to(dtype)}
    save_file(tensors | ({} if group is None else {"group": group}), tmp_path / "p.safetensors")
    pairs = EmbeddingPairs.load(tmp_path / "p.safetensors")
    assert pairs.source.dtype == torch.float32
    assert torch.equal(pairs.target, tensors["target"].float())
    assert pairs.group.tolist() == ([0, 1, 2, 3] if group is None else [4, 4, 9, 2])
    assert pairs.unpaired_target.shape == (0, 6)


def test_round_trip_and_fingerprint(tmp_path):
    pairs = EmbeddingPairs.from_cache(make_cache())
    pairs.save(tmp_path / "p.safetensors")
    again = EmbeddingPairs.load(tmp_path / "p.safetensors")
    for name in ("source", "target", "group", "unpaired_source", "unpaired_target"):
        assert torch.equal(getattr(again, name), getattr(pairs, name))
    assert again.fingerprint == pairs.fingerprint
    assert pairs.reversed().fingerprint != pairs.fingerprint
    assert EmbeddingPairs(pairs.source, pairs.target, pairs.group).fingerprint != pairs.fingerprint


def test_reversed():
    pairs = EmbeddingPairs.from_cache(make_cache())
    back = pairs.reversed()
    assert torch.equal(back.source, pairs.target)
    assert torch.equal(back.target, pairs.source)
    assert torch.equal(back.unpaired_source, pairs.unpaired_target)
    assert back.reversed().fingerprint == pairs.fingerprint


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_split_keeps_groups_whole(fraction):
    group = torch.arange(60) % 20
    pairs = EmbeddingPairs(rows(60), rows(60, 1), group, unpaired_target=rows(5, 2))
    train, validation = pairs.split(fraction, 3)
    assert len(train.unpaired_target) == 5
    if fraction == 0:
        assert validation is None
        assert len(train.source) == 60
        return
    assert not set(train.group.tolist()) & set(validation.group.tolist())
    assert len(validation.group.unique()) == round(fraction * 20)
    together = torch.cat([train.source, validation.source])
    assert torch.equal(together.sort(0).values, pairs.source.sort(0).values)
    assert pairs.split(fraction, 4)[1].group.unique().tolist() != validation.group.unique().tolist()


def test_split_is_that_of_the_cache():
    owner = torch.arange(40) // 2
    cache = EmbeddingCache(rows(20), rows(40, 1), owner, ["x"] * 40, ["y"] * 20, {})
    held = EmbeddingPairs.from_cache(cache).split(0.25, 7)[1]
    assert torch.equal(held.target, cache.split(0.25, 7)[1].text)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"source": rows(3)}, "lacks target"),
        ({"source": rows(3), "target": rows(3), "labels": rows(3)}, "holds labels"),
        ({"source": rows(3), "target": rows(4)}, "4"),
        ({"source": rows(3), "target": rows(3, width=5)}, "wide"),
        ({"source": rows(3)[0], "target": rows(3)}, "shape"),
        ({"source": rows(3).long(), "target": rows(3)}, "int64"),
        ({"source": rows(3), "target": rows(3), "group": torch.rand(3)}, "group"),
        ({"source": rows(3), "target": rows(3), "group": torch.tensor([True, False, True])}, "group"),
        ({"source": rows(3), "target": rows(3), "group": torch.arange(2)}, "group"),
        ({"source": rows(3), "target": torch.zeros(3, 6)}, "row 0 is zero"),
        ({"source": rows(3) / 0, "target": rows(3)}, "row 0 is zero, NaN or infinite"),
        ({"source": rows(0), "target": rows(0)}, "empty"),
        ({"source": rows(3), "target": rows(3), "unpaired_target": rows(2, width=5)}, "unpaired_target"),
    ],
)
def test_wrong_files_are_refused(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "p.safetensors")
    with pytest.raises(DataError, match=words) as caught:
        EmbeddingPairs.load(tmp_path / "p.safetensors")
    assert str(tmp_path) in str(caught.value)
    assert caught.value.remedy


def test_unreadable_paths_are_refused(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"not tensors")
    for path in (tmp_path / "torn.safetensors", tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            EmbeddingPairs.load(path)
        assert str(path) in str(caught.value)


def test_nothing_left_to_train_on():
    with pytest.raises(DataError, match="all held out"):
        EmbeddingPairs(rows(2), rows(2), torch.zeros(2, dtype=torch.long)).split(0.9, 0)
