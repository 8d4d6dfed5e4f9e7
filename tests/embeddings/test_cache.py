"""The embedding cache in memory: saved and loaded, split by recording, and refused where it is damaged."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.embeddings.cache import clap_fingerprint, embed_captions
from diffusion_link_hf.embeddings.shards import Shard, complete_shards, write_manifest, write_shard
from diffusion_link_hf.errors import DataError
from support.models import EMBEDDING_DIM, make_clap


def make(n=10, captions_each=2) -> EmbeddingCache:
    m = n * captions_each
    return EmbeddingCache(
        torch.randn(n, EMBEDDING_DIM),
        torch.randn(m, EMBEDDING_DIM),
        torch.arange(m) // captions_each,
        [f"caption {i}" for i in range(m)],
        [f"{i}.wav" for i in range(n)],
        {},
    )


def test_round_trip(tmp_path):
    cache = make()
    cache.save(tmp_path)
    again = EmbeddingCache.load(tmp_path)
    assert torch.equal(again.audio, cache.audio)
    assert again.captions == cache.captions
    assert again.fingerprint == cache.fingerprint


def test_split_shares_no_recording():
    cache = make(20)
    cache.caption_audio[::5] = -1
    train, validation = cache.split(0.25, seed=0)
    assert len(train.text) + len(validation.text) == len(cache.text)
    assert not set(train.audio_names) & set(validation.audio_names)
    for part in (train, validation):
        for k, caption in enumerate(part.captions):
            row = cache.captions.index(caption)
            assert torch.equal(part.text[k], cache.text[row])
            owner, original = int(part.caption_audio[k]), int(cache.caption_audio[row])
            assert (owner < 0) == (original < 0)
            if owner >= 0:
                assert torch.equal(part.audio[owner], cache.audio[original])
                assert part.audio_names[owner] == cache.audio_names[original]
    assert (validation.caption_audio >= 0).all()


@pytest.mark.parametrize("how", ["gone", "torn", "altered", "manifest", "format", "other clap"])
def test_damaged_caches_are_refused(tmp_path, how):
    make().save(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    if how == "gone":
        path.unlink()
    elif how == "torn":
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "altered":
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(bytes(data))
    elif how == "manifest":
        (tmp_path / "manifest.json").write_text("{")
    elif how == "format":
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": "2"}))
    with pytest.raises(DataError) as caught:
        EmbeddingCache.load(tmp_path, "abc" if how == "other clap" else None)
    assert caught.value.remedy
    with pytest.raises(DataError, match="no such folder"):
        EmbeddingCache.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b"\xff\xfe",
        {"shards": None},
        {"shards": [{}]},
        {"shards": ["shard-00000"]},
        {"embedding_dim": 33},
    ],
)
def test_manifests_of_another_form_are_refused(tmp_path, content):
    make().save(tmp_path)
    path = tmp_path / "manifest.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content}).encode()
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged") as caught:
        EmbeddingCache.load(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("shard-00000.json", b"{}"),
        ("shard-00000.json", b"[]"),
        ("shard-00000.safetensors", b"[]"),
        ("shard-00000.safetensors", save({"audio": torch.zeros(10, EMBEDDING_DIM)})),
        ("shard-00000.safetensors", save({"text": torch.zeros(20, EMBEDDING_DIM)})),
        ("shard-00000.captions.jsonl", b'{"caption": "caf\xe9"}\n' * 20),
        ("shard-00000.captions.jsonl", b'{"caption": 3}\n' * 20),
        ("shard-00000.captions.jsonl", b'["caption"]\n' * 20),
        ("shard-00000.captions.jsonl", b"3\n" * 20),
        ("shard-00000.captions.jsonl", b'{"caption": ' * 20),
        ("shard-00000.captions.jsonl", b"{}\n" * 20),
        ("shard-00000.captions.jsonl", b'{"caption": "x"}\n' * 19),
    ],
)
def test_shards_of_another_form_are_refused(tmp_path, file, content, sealed):
    """By their checksum; and where that was written for them, by what they lack."""
    make().save(tmp_path)
    (tmp_path / file).write_bytes(content)
    if sealed:
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        manifest["shards"][0]["sha256"][file] = hashlib.sha256(content).hexdigest()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"damaged|differ in number") as caught:
        EmbeddingCache.load(tmp_path)
    assert caught.value.remedy


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 3))
def test_shards_are_loaded_as_one(sizes, unpaired):
    """Shards of any sizes, some of them empty, equal the cache of all their rows."""
    n = sum(sizes)
    owners = torch.cat([torch.arange(n), torch.full((unpaired,), -1)])[torch.randperm(n + unpaired)]
    owners = torch.cat([owners, owners[:1]]) if n + unpaired else torch.tensor([-1])
    names = [f"{k}.wav" for k in range(n)]
    audio, text = torch.randn(n, EMBEDDING_DIM), torch.randn(len(owners), EMBEDDING_DIM)
    with TemporaryDirectory() as folder:
        order, first = [], 0
        for index, size in enumerate(sizes):
            last = index == len(sizes) - 1
            mine = (owners >= first) & (owners < first + size) | last & (owners < 0)
            rows = mine.nonzero()[:, 0]
            order += rows.tolist()
            local = torch.where(owners[rows] < 0, -1, owners[rows] - first)
            captions = [f"caption {k}" for k in rows.tolist()]
            part = slice(first, first + size)
            write_shard(Path(folder), index, Shard(audio[part], text[rows], local, captions, names[part]), {})
            first += size
        write_manifest(Path(folder), list(complete_shards(Path(folder), {}).values()), {"clap": "abc"})
        found = EmbeddingCache.load(folder, "abc")
    expected = EmbeddingCache(
        audio, text[order], owners[order], [f"caption {k}" for k in order], names, {"clap": "abc"}
    )
    assert found.fingerprint == expected.fingerprint
    assert found.audio_names == expected.audio_names


def test_saving_replaces_a_cache_of_more_shards(tmp_path):
    for index in range(3):
        cache = make(2)
        shard = Shard(cache.audio, cache.text, cache.caption_audio, cache.captions, cache.audio_names)
        write_shard(tmp_path, index, shard, {})
    write_manifest(tmp_path, list(complete_shards(tmp_path, {}).values()), {})
    (tmp_path / "notes.txt").write_text("mine")
    assert len(EmbeddingCache.load(tmp_path).audio) == 6
    cache = make()
    cache.save(tmp_path)
    assert EmbeddingCache.load(tmp_path).fingerprint == cache.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "notes.txt",
        "shard-00000.captions.jsonl",
        "shard-00000.json",
        "shard-00000.safetensors",
    ]


def test_what_made_a_cache_survives_saving(tmp_path):
    cache = make()
    cache.manifest.update(clap="abc", failures=[{"audio": "x.wav", "reason": "gone"}], folds=[1, 2], shard_size=3)
    cache.save(tmp_path)
    manifest = EmbeddingCache.load(tmp_path, "abc").manifest
    assert {key: manifest.get(key) for key in cache.manifest} == {**cache.manifest, "shard_size": None}
    assert (manifest["recordings"], manifest["captions"], manifest["embedding_dim"]) == (10, 20, EMBEDDING_DIM)


def test_splits_at_the_limits():
    cache = make(3, 1)
    train, validation = cache.split(0.0, 0)
    assert validation is None
    assert train.captions == cache.captions
    with pytest.raises(DataError, match="all held out"):
        cache.split(0.9, 0)
    lone = EmbeddingCache(cache.audio[:0], cache.text, torch.full((3,), -1), cache.captions, [], {})
    assert lone.split(0.5, 0)[1] is None


def test_inconsistent_caches_are_refused():
    good = make()
    with pytest.raises(DataError, match="differ in number"):
        EmbeddingCache(good.audio, good.text, good.caption_audio, good.captions[:-1], good.audio_names, {})
    with pytest.raises(DataError, match="out of range"):
        EmbeddingCache(good.audio[:2], good.text, good.caption_audio, good.captions, good.audio_names[:2], {})


def test_fingerprint_follows_the_weights():
    clap = make_clap()
    before = clap_fingerprint(clap)
    assert clap_fingerprint(clap) == before
    clap.model.text_projection.linear1.weight.data[0, 0] += 1
    assert clap_fingerprint(clap) != before
    assert embed_captions(clap, torch.randn(1, EMBEDDING_DIM), ["a"], [["x", "y"]]).caption_audio.tolist() == [0, 0]
