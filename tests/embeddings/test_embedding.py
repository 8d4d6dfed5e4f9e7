"""Embedding a data set: equal to CLAP alone, resumed to the same bytes, refused where it belongs to another cache."""

import errno
import json
import logging
import resource
import weakref
from collections import Counter
from itertools import product

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf import ClapEncoder, EmbeddingCache
from diffusion_link_hf.audio import split_windows
from diffusion_link_hf.data.captioned_audio import CaptionedAudio, open_data
from diffusion_link_hf.embeddings import cache as cache_module
from diffusion_link_hf.embeddings import embedding
from diffusion_link_hf.embeddings.cache import clap_fingerprint
from diffusion_link_hf.embeddings.embedding import EmbeddingOptions, embed, embed_data, text_spread
from diffusion_link_hf.errors import DataError, InputError, ModelFolderError
from support.embeddings import as_data, contents, embed_here, make_clip, make_clips, same_clap

TOLERANCE = 1e-5  # of embeddings in float32 between batch sizes, as `embed_data` promises


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache made in one go, by one process."""
    folder = tmp_path_factory.mktemp("whole")
    embed_here(folder)
    return folder


def watch_decoding(monkeypatch, decoded: list[str]) -> None:
    """Notes the names of the recordings that this process decodes."""
    load = CaptionedAudio.load
    monkeypatch.setattr(CaptionedAudio, "load", lambda clip: (decoded.append(clip.name), load(clip))[1])


def test_embeddings_are_those_of_clap(whole):
    clap, clips = same_clap(), [clip for k, clip in enumerate(make_clips()) if k not in (5, 9)]
    cache = EmbeddingCache.load(whole, clap_fingerprint(clap))
    assert cache.audio_names == [clip.name for clip in clips]
    assert cache.captions == [caption for clip in clips for caption in clip.captions]
    owners = [k for k, clip in enumerate(clips) for _ in clip.captions]
    assert cache.caption_audio.tolist() == owners
    torch.testing.assert_close(cache.text, clap.encode_text(cache.captions), atol=TOLERANCE, rtol=0)
    for row, clip in zip(cache.audio, clips, strict=True):
        windows = [torch.from_numpy(window.samples) for window in split_windows(clip.load())]
        mean = torch.cat([clap.encode_audio(window[None]) for window in windows]).mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), atol=TOLERANCE, rtol=0)


def test_the_manifest_says_what_was_left_out_and_what_made_it(whole):
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [failure["audio"] for failure in manifest["failures"]] == ["5.wav", "9.wav"]
    assert "5.wav: cannot be decoded" in manifest["failures"][0]["reason"]
    assert "bytes that it declares" in manifest["failures"][1]["reason"]
    assert (manifest["recordings"], manifest["captions"], len(manifest["shards"])) == (9, 17, 4)
    expected = {
        "clap": clap_fingerprint(same_clap()),
        "clap_source": None,
        "front_end_version": 1,
        "data": "clips",
        "data_fingerprint": as_data(make_clips()).fingerprint,
        "batch_size": 4,
        "shard_size": 3,
        "shard_count": 4,
        "dtype": "float32",
        "device": "cpu",
    }
    assert {key: manifest[key] for key in expected} == expected


def test_workers_do_not_change_a_bit(whole, tmp_path):
    embed_here(tmp_path, num_workers=2)
    assert contents(tmp_path) == contents(whole)


def test_processes_share_the_shards(whole, tmp_path):
    """The last one, whoever it is, seals the cache; its bytes are those of a single process."""
    assert embed_here(tmp_path, num_processes=3, process_index=1) is None
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["shard-00001.safetensors"]
    assert embed_here(tmp_path, num_processes=3, process_index=0) is None
    with pytest.raises(DataError, match="unfinished"):
        EmbeddingCache.load(tmp_path)
    assert embed_here(tmp_path, num_processes=3, process_index=2)["recordings"] == 9
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 3), (32, 11), (3, 1), (4, 100)])
def test_batches_and_shards_change_no_embedding(whole, tmp_path, batch_size, shard_size):
    embed_here(tmp_path, batch_size=batch_size, shard_size=shard_size)
    found, expected = EmbeddingCache.load(tmp_path), EmbeddingCache.load(whole)
    assert (found.audio_names, found.captions) == (expected.audio_names, expected.captions)
    torch.testing.assert_close(found.audio, expected.audio, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(found.text, expected.text, atol=TOLERANCE, rtol=0)
    assert torch.equal(found.caption_audio, expected.caption_audio)


def test_only_what_is_missing_is_embedded(whole, tmp_path, monkeypatch):
    with pytest.raises(ConnectionError):  # in the third shard
        embed_here(tmp_path, as_data(make_clips(), stop_at=7))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    decoded = []
    watch_decoding(monkeypatch, decoded)
    embed_here(tmp_path)
    assert decoded == [clip.name for clip in make_clips()[6:]]
    assert contents(tmp_path) == contents(whole)
    decoded.clear()
    assert embed_here(tmp_path) == json.loads((whole / "manifest.json").read_text())
    assert not decoded


FILES = ("shard-00001.safetensors", "shard-00001.captions.jsonl", "shard-00001.json")
DAMAGES = [
    (finished, file, how)
    for finished, file, how in product((False, True), FILES, ("gone", "torn", "altered"))
    if finished or (file, how) != (FILES[2], "altered")  # a record has no checksum before there is a manifest
]


@pytest.mark.parametrize(("finished", "file", "how"), DAMAGES)
def test_damaged_shards_are_made_again(whole, tmp_path, monkeypatch, finished, file, how):
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    path, content = tmp_path / file, bytearray((whole / file).read_bytes())
    if how == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "altered" else content[:-9])
    if not finished:
        (tmp_path / "manifest.json").unlink()
    decoded = []
    watch_decoding(monkeypatch, decoded)
    embed_here(tmp_path)
    assert decoded == ["3.wav", "4.wav", "5.wav"]
    assert contents(tmp_path) == contents(whole)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("other", ["clap", "data", "front_end_version", "batch_size", "shard_size", "dtype"])
def test_another_cache_is_refused(whole, tmp_path, monkeypatch, other, finished):
    """With what differs and a remedy; and nothing in the folder has changed."""
    for name, content in contents(whole).items():
        (tmp_path / name).write_bytes(content)
    if not finished:
        (tmp_path / "manifest.json").unlink()
    before = contents(tmp_path)
    clap, clips, options = same_clap(int(other == "clap")), make_clips(), {"batch_size": 4, "shard_size": 3}
    if other == "data":
        clips.append(make_clip(99))
    elif other == "front_end_version":
        monkeypatch.setattr(embedding, "FRONT_END_VERSION", 2)
    elif other == "dtype":
        options["dtype"] = torch.bfloat16
    elif other != "clap":
        options[other] += 1
    with pytest.raises(DataError, match="another cache") as caught:
        embed_data(as_data(clips), clap, tmp_path, EmbeddingOptions(**options), progress=False)
    assert other in caught.value.problem
    assert "remove this one" in caught.value.remedy
    assert contents(tmp_path) == before


def test_a_selection_that_was_saved_is_no_beginning(whole, tmp_path):
    EmbeddingCache.load(whole).split(0.3, 0)[0].save(tmp_path)
    with pytest.raises(DataError, match="shard_size None, now 3"):
        embed_here(tmp_path)


def test_a_full_disk_says_so_and_keeps_what_is_whole(whole, tmp_path):
    """The limit on a file's size fails as a disk does: in the middle of a writing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in whole.glob("*.safetensors"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written") as caught:
            embed_here(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert not list((tmp_path / "full").glob(".*.tmp"))
    assert not (tmp_path / "full" / "manifest.json").exists()
    embed_here(tmp_path / "full")
    assert contents(tmp_path / "full") == contents(whole)


def test_leftovers_of_killed_writers_go_and_other_files_stay(tmp_path):
    for name in (".shard-00000.safetensors.17.tmp", ".manifest.json.17.tmp", ".notes.17.tmp", "notes.txt"):
        (tmp_path / name).write_text("mine")
    embed_here(tmp_path, as_data([make_clip(0)]))
    assert {".notes.17.tmp", "notes.txt"} == {
        name for name in contents(tmp_path) if not name.startswith(("shard", "manifest"))
    }


def test_what_cannot_be_embedded_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no recording that can be read \(2 failed\)") as caught:
        embed_here(tmp_path / "b", as_data([CaptionedAudio(f"{k}.wav", ("x",), audio=b"") for k in range(2)]))
    assert "0.wav: holds 0 bytes" in caught.value.remedy
    assert not (tmp_path / "b" / "manifest.json").exists()
    clap = same_clap()
    clap.tokenizer = None
    with pytest.raises(ModelFolderError, match="no tokenizer"):
        embed_data(as_data(make_clips()), clap, tmp_path / "c", progress=False)
    for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"process_index": 2, "num_processes": 2}):
        with pytest.raises(InputError):
            EmbeddingOptions(**wrong)


def test_nan_is_never_stored(tmp_path, monkeypatch):
    clap = same_clap()
    monkeypatch.setattr(clap, "encode_audio", lambda windows: torch.full((len(windows), 32), torch.nan))
    with pytest.raises(InputError, match=r"0\.wav: has an embedding with NaN"):
        embed_data(as_data(make_clips()), clap, tmp_path, EmbeddingOptions(shard_size=3), progress=False)
    assert not contents(tmp_path)


def test_16_bits_are_close(whole, tmp_path):
    embed_here(tmp_path, dtype=torch.bfloat16)
    found, expected = EmbeddingCache.load(tmp_path), EmbeddingCache.load(whole)
    assert found.audio.dtype == torch.float32
    assert found.manifest["clap"] == expected.manifest["clap"]
    assert (found.audio * expected.audio).sum(1).min() > 0.999


def test_recordings_are_let_go():
    """However many there are, only those of a moment are in memory."""
    alive, most = weakref.WeakSet(), 0

    class Stream:
        def shard(self, index, count):
            nonlocal most
            for k in range(10 * index, 10 * index + 10):
                clip = make_clip(k)
                alive.add(clip)
                most = max(most, len(alive))
                yield clip
                del clip

    clips = embedding.decoded(embedding.ShardedClips(Stream(), [0, 1], 2), EmbeddingOptions())
    assert [clip.name for clip in clips] == [f"{k}.wav" for k in range(20)]
    assert most <= 2


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 5))
def test_shards_hold_every_recording_once_in_order(count, shard_size, part):
    """And never a shard of the data more than they should."""
    data = as_data([CaptionedAudio(str(k), ("x",)) for k in range(count)], part=part)
    shards = embedding.count_shards(data, shard_size)
    found = list(embedding.ShardedClips(data, range(shards), shards))
    assert [clip.name for _, clip, _ in found] == [str(k) for k in range(count)]
    sizes = Counter(shard for shard, _, _ in found)
    assert sorted(sizes) == list(range(shards))
    assert shards == 1 or max(sizes.values()) < shard_size + part


def test_shards_without_a_recording_count_as_embedded(whole, tmp_path, monkeypatch):
    """Such as row groups whose rows are all beyond the limit."""
    monkeypatch.setattr(embedding, "count_shards", lambda data, size: 6)
    clips, parts = make_clips(), {0: (0, 3), 1: (3, 6), 3: (6, 9), 4: (9, 11)}
    data = as_data(clips)
    data.shard = lambda index, count: clips[slice(*parts.get(index, (0, 0)))]
    assert embed_here(tmp_path, data)["recordings"] == 9
    found, expected = EmbeddingCache.load(tmp_path), EmbeddingCache.load(whole)
    assert found.fingerprint == expected.fingerprint


def test_the_public_function_takes_paths_or_what_is_loaded(tmp_path):
    for k in range(2):
        sf.write(tmp_path / f"{k}.wav", np.random.default_rng(k).uniform(-0.1, 0.1, 8000), 8000)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n0.wav,Rain\n1.wav,A dog\n")
    clap = same_clap()
    clap.save_pretrained(tmp_path / "clap")
    options = {"batch_size": 2, "device": "cpu"}
    manifest = embed(tmp_path, tmp_path / "named", str(tmp_path / "clap"), limit=1, **options)
    assert (manifest["recordings"], manifest["batch_size"]) == (1, 2)
    data = open_data(tmp_path, limit=1)
    assert embed(data, tmp_path / "loaded", clap, **options) == manifest
    assert contents(tmp_path / "loaded") == contents(tmp_path / "named")
    with pytest.raises(InputError, match="split"):
        embed(data, tmp_path / "other", clap, split="train", device="cpu")
    with pytest.raises(InputError, match="device: quantum cannot be used"):
        embed(tmp_path, tmp_path / "other", clap, device="quantum")
    with pytest.raises(InputError, match="batch_size: is 0"):
        embed(tmp_path, tmp_path / "other", clap, batch_size=0, device="cpu")


def warnings_of(module, action) -> str:
    """What a module's logger warns of meanwhile; that of diffusers hands nothing on."""
    told = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    module.logger.addHandler(handler)
    try:
        action()
    finally:
        module.logger.removeHandler(handler)
    return "\n".join(told)


def test_a_collapsed_text_tower_is_warned_of():
    """As that of laion/larger_clap_music; the embedded CLAP tells its texts apart."""
    collapsed, healthy = same_clap(), ClapEncoder.from_pretrained("tiny")
    torch.nn.init.zeros_(collapsed.model.text_projection.linear2.weight)
    torch.nn.init.ones_(collapsed.model.text_projection.linear2.bias)
    assert text_spread(collapsed) == pytest.approx(1, abs=1e-5)
    told = warnings_of(embedding, lambda: embedding.warn_of_collapse(collapsed))
    assert "hardly differ" in told
    assert "Use another CLAP" in told
    assert warnings_of(embedding, lambda: embedding.warn_of_collapse(healthy)) == ""


def test_a_cache_that_does_not_tell_its_front_end_is_warned_of(tmp_path):
    embed_here(tmp_path / "new")
    new = EmbeddingCache.load(tmp_path / "new").manifest
    old = {key: value for key, value in new.items() if key != "front_end"}
    assert warnings_of(cache_module, lambda: cache_module.check_made_by(new, same_clap(), "cache", "clap")) == ""
    assert "Embed the data again" in warnings_of(
        cache_module, lambda: cache_module.check_made_by(old, same_clap(), "cache", "clap")
    )
    with pytest.raises(DataError, match="Embed the data with clap"):
        cache_module.check_made_by(old, same_clap(seed=1), "cache", "clap")
