"""The files of a cache: whole or not there, sealed by records, and never anybody else's."""

import os

import pytest
import torch

from diffusion_link_hf.embeddings.shards import (
    Shard,
    complete_shards,
    is_intact,
    read_manifest,
    read_shard,
    refuse_foreign,
    remove_cache,
    write_json,
    write_manifest,
    write_shard,
)
from diffusion_link_hf.errors import DataError

IDENTITY = {"clap": "abc", "batch_size": 4}


def make_shard(names=("a.wav", "b.wav")) -> Shard:
    n = len(names)
    return Shard(
        torch.randn(n, 8), torch.randn(n + 1, 8), torch.tensor([*range(n), -1]), [f"x{k}" for k in range(n + 1)], names
    )


def seal(folder):
    return write_manifest(folder, list(complete_shards(folder, IDENTITY).values()), IDENTITY)


def test_what_is_read_is_what_was_written(tmp_path):
    """Also names that are no valid UTF-8, as file systems have them, and line breaks of every kind in captions."""
    shard = make_shard(["caf\udce9.wav", "雨\n.wav"])
    shard.captions[:] = ["été\x85\u2028", "two\nlines", '"quoted"']
    write_shard(tmp_path, 0, shard, IDENTITY)
    found = read_shard(tmp_path, seal(tmp_path)["shards"][0])
    assert (found.captions, found.audio_names) == (list(shard.captions), list(shard.audio_names))
    for name in ("audio", "text", "caption_audio"):
        assert torch.equal(getattr(found, name), getattr(shard, name))


@pytest.mark.parametrize("file", ["shard-00000.safetensors", "shard-00000.captions.jsonl", "shard-00000.json"])
def test_a_shard_that_was_not_written_to_its_end_is_not_there(tmp_path, monkeypatch, file):
    replace = os.replace

    def fail(source, target):
        if target.name == file:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match="No space left") as caught:
        write_shard(tmp_path, 0, make_shard(), IDENTITY)
    assert file in caught.value.item
    assert "whole shards are kept" in caught.value.remedy
    assert not complete_shards(tmp_path, IDENTITY)
    assert not list(tmp_path.glob(".*"))


def test_shards_of_another_making_are_refused(tmp_path):
    write_shard(tmp_path, 0, make_shard(), IDENTITY)
    with pytest.raises(DataError, match="clap abc, now xyz; batch_size 4, now 8"):
        complete_shards(tmp_path, {"clap": "xyz", "batch_size": 8})
    refuse_foreign(tmp_path, {**IDENTITY, "more": 1}, IDENTITY)


def test_records_of_another_form_are_no_shards(tmp_path):
    write_shard(tmp_path, 3, make_shard(), IDENTITY)
    for name, content in (("shard-00000.json", []), ("shard-00001.json", {"sha256": 1}), ("shard-x.json", {})):
        write_json(tmp_path / name, content)
    (tmp_path / "shard-00002.json").write_bytes(b"\xff{")
    assert list(complete_shards(tmp_path, IDENTITY)) == [3]


def test_missing_and_unfinished_caches_have_their_own_remedies(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no embedding cache") as caught:
        read_manifest(tmp_path)
    assert "diffusion-link embed" in caught.value.remedy
    write_shard(tmp_path, 0, make_shard(), IDENTITY)
    with pytest.raises(DataError, match="unfinished") as caught:
        read_manifest(tmp_path)
    assert "Run the same embed command again" in caught.value.remedy
    assert seal(tmp_path) == read_manifest(tmp_path)


@pytest.mark.parametrize("shards", [None, 3, [{}], ["shard-00000"], [{"sha256": None}], [{"sha256": {"gone": "0"}}]])
def test_a_manifest_of_another_form_has_no_intact_shards(tmp_path, shards):
    assert not is_intact(tmp_path, {"shards": shards})
    assert not is_intact(tmp_path, {})


def test_only_the_cache_is_removed(tmp_path):
    write_shard(tmp_path, 0, make_shard(), IDENTITY)
    seal(tmp_path)
    for name in ("shard-1.json", "shard-00000.txt", "my-shard-00000.json", ".gitignore"):
        (tmp_path / name).write_text("mine")
    remove_cache(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "shard-1.json",
        "shard-00000.txt",
        "my-shard-00000.json",
        ".gitignore",
    }
