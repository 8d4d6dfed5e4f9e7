"""A folder of recordings indexed and searched: against brute force, after changes, after kills, damaged files."""

import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from diffusion_link_hf import SoundIndex, SoundSearchPipeline, index_sounds
from diffusion_link_hf.applications import index_writer, sound_index
from diffusion_link_hf.applications.index_files import FORMAT, Manifest, read_entries
from diffusion_link_hf.applications.index_writer import IndexWriter, needs_repacking, read_catalog, repack
from diffusion_link_hf.applications.nearest import Nearest
from diffusion_link_hf.errors import AudioNotFoundError, DataError, InputError
from support.models import make_clap, make_pipeline

RATE = 48_000


@pytest.fixture(scope="module")
def pipe():
    return SoundSearchPipeline.from_pipe(make_pipeline())


def write(path, seed, seconds=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    low, high = sorted(np.random.default_rng(seed).uniform(100, 8000, 2))
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.05, len(t))
    sf.write(path, 0.2 * np.sin(2 * np.pi * (low + (high - low) * t / 20) * t) + noise, RATE)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    for k, (name, seconds) in enumerate((("a.wav", 1), ("b.wav", 21), ("c.flac", 1), ("deep/d.wav", 3))):
        write(folder / name, k, seconds)
    (folder / "bad.wav").write_bytes(b"not audio")
    return folder


def everything(index, pipe, query="a dog barks", **options):
    return index.search(pipe, query, top=100, all_windows=True, **options)


def same(found, expected):
    assert [(m.file, m.start, m.end) for m in found] == [(m.file, m.start, m.end) for m in expected]
    assert [m.score for m in found] == pytest.approx([m.score for m in expected], abs=1e-6)


def test_the_first_search_finds_what_is_there(pipe, sounds):
    seen = []
    index = index_sounds(pipe, sounds, progress=lambda file, error: seen.append((file, error)))
    assert index.files == ["a.wav", "b.wav", "c.flac", "deep/d.wav"]
    assert len(index) == 6
    assert list(index.errors) == [str(sounds / "bad.wav")]
    assert [file for file, _ in seen] == [
        str(p) for p in sorted(p for p in sounds.rglob("*.*") if p.suffix[1:] in ("wav", "flac"))
    ]
    again = []
    assert len(index_sounds(pipe, sounds, progress=lambda file, error: again.append(file))) == 6
    assert again == [str(sounds / "bad.wav")]


@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_search_is_brute_force_in_float64(pipe, sounds, backend, bridge):
    if backend == "faiss":
        pytest.importorskip("faiss")
    index = index_sounds(pipe, sounds)
    rows, owners, times = index.windows()
    rows = pipe.bridge_rows(rows) if bridge else rows
    scores = (rows.double() @ pipe.encode_text(["rain"])[0].double()).tolist()
    expected = sorted(range(len(rows)), key=lambda k: (-scores[k], k))
    found = everything(index, pipe, "rain", backend=backend, bridge=bridge)
    assert [m.score for m in found] == pytest.approx([scores[k] for k in expected])
    assert [(m.file, m.start) for m in found] == [
        (str(sounds / index.files[owners[k]]), times[k, 0].item()) for k in expected
    ]
    best = index.search(pipe, "rain", backend=backend, bridge=bridge)
    assert [m.file for m in best] == list(dict.fromkeys(m.file for m in found))


@pytest.mark.parametrize("count", [1, 7, 40, 3000])
def test_both_backends_find_the_same_rows(count, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("diffusion_link_hf.applications.nearest.BLOCK_ROWS", 700)
    rows = torch.nn.functional.normalize(torch.randn(3000, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    for query in rows[:5]:
        truth = rows.double() @ query.double()
        for backend in ("exact", "faiss"):
            scores, numbers = Nearest(rows, backend).search(query, count)
            assert torch.equal(numbers, truth.argsort(descending=True, stable=True)[:count])
            assert torch.allclose(scores, truth[numbers])


def test_a_long_recording_does_not_hide_the_others(pipe, tmp_path):
    write(tmp_path / "long.wav", 0, 60)
    write(tmp_path / "short.wav", 1)
    index = index_sounds(pipe, tmp_path, hop_seconds=1.0)
    for query in (tmp_path / "long.wav", tmp_path / "short.wav"):
        assert sorted(m.file for m in index.search(pipe, query, top=2)) == [
            str(tmp_path / "long.wav"),
            str(tmp_path / "short.wav"),
        ]


def test_a_sound_finds_itself(pipe, sounds):
    best = index_sounds(pipe, sounds).search(pipe, sounds / "deep" / "d.wav")[0]
    assert best.file == str(sounds / "deep" / "d.wav")
    assert best.score == pytest.approx(1, abs=1e-5)


def test_changes_are_followed(pipe, sounds, tmp_path):
    index_sounds(pipe, sounds)
    write(sounds / "a.wav", 50, 2)
    (sounds / "b.wav").unlink()
    write(sounds / "e.wav", 60)
    (sounds / "c.flac").write_bytes(b"broken now")
    embedded = []
    updated = index_sounds(pipe, sounds, progress=lambda file, error: embedded.append(file))
    assert embedded == [str(sounds / name) for name in ("a.wav", "bad.wav", "c.flac", "e.wav")]
    assert updated.files == ["a.wav", "deep/d.wav", "e.wav"]
    fresh = index_sounds(pipe, sounds, tmp_path / "elsewhere")
    same(everything(updated, pipe), everything(fresh, pipe))
    write(sounds / "b.wav", 1, 21)  # back again
    assert "b.wav" in index_sounds(pipe, sounds).files


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 50}])
def test_neither_batches_nor_parts_matter(pipe, sounds, tmp_path, options, monkeypatch):
    expected = everything(index_sounds(pipe, sounds), pipe)
    monkeypatch.setattr(sound_index, "PART_ROWS", 2)
    same(everything(index_sounds(pipe, sounds, tmp_path / "i", **options), pipe), expected)


def test_the_order_of_arrival_does_not_matter(pipe, sounds, tmp_path):
    expected = everything(index_sounds(pipe, sounds), pipe)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("a.wav", "c.flac"):
        shutil.move(sounds / name, hidden / name)
    index_sounds(pipe, sounds, tmp_path / "i")
    for name in ("c.flac", "a.wav"):
        shutil.move(hidden / name, sounds / name)
        last = index_sounds(pipe, sounds, tmp_path / "i")
    same(everything(last, pipe), expected)


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_a_killed_build_goes_on_where_it_stopped(pipe, sounds, monkeypatch, after):
    monkeypatch.setattr(sound_index, "PART_SECONDS", 0.0)  # a part for each recording
    expected = everything(index_sounds(pipe, sounds), pipe)
    shutil.rmtree(sounds / ".sound-index")
    seen = []

    def kill(file, error):
        seen.append(file)
        if len(seen) == after:
            raise Killed

    with pytest.raises(Killed):
        index_sounds(pipe, sounds, progress=kill, batch_size=1)
    whole = [file for file in seen if not file.endswith("bad.wav")]
    if whole:
        with pytest.raises(DataError, match="not finished"):
            SoundIndex(sounds / ".sound-index", sounds)
    (sounds / ".sound-index" / ".part-00009.safetensors.1.tmp").write_bytes(b"half")
    again = []
    index = index_sounds(pipe, sounds, progress=lambda file, error: again.append(file))
    assert not set(again) & set(whole)
    same(everything(index, pipe), expected)
    assert not list((sounds / ".sound-index").glob(".*.tmp"))


def test_many_dead_rows_are_written_anew(pipe, sounds, tmp_path):
    index_sounds(pipe, sounds, tmp_path / "i")
    (sounds / "b.wav").unlink()
    index = index_sounds(pipe, sounds, tmp_path / "i")
    manifest = json.loads((tmp_path / "i" / "manifest.json").read_text())
    assert manifest["parts"] == ["part-00001.safetensors"]
    assert manifest["removed"] == []
    assert sum(len(load_file(path)["embeds"]) for path in (tmp_path / "i").glob("part-*")) == len(index) == 3


def test_parts_are_merged_when_there_are_many(tmp_path):
    manifest = Manifest("x", 8, 10.0)
    writer = IndexWriter(tmp_path, manifest, part_rows=5)
    rows = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    times = torch.arange(60, dtype=torch.float64)
    for k in range(20):
        writer.begin(f"{k}.wav", "s")
        writer.add(rows[3 * k : 3 * k + 3], times[:3], times[1:4])
        if k == 7:
            writer.drop()
        else:
            writer.end()
            writer.flush()
    parts = [read_entries(tmp_path, name) for name in manifest.parts]
    catalog = read_catalog(parts, ["3.wav"])
    assert len(catalog) == 18
    assert needs_repacking(parts, catalog)
    new = repack(tmp_path, manifest, catalog, part_rows=5)
    again = read_catalog([read_entries(tmp_path, name) for name in new.parts], [])
    assert again.keys() == catalog.keys()
    assert len(new.parts) == 11
    assert not needs_repacking([read_entries(tmp_path, name) for name in new.parts], again, part_rows=5)
    found = sound_index._read_windows(tmp_path, new, again, sorted(again))[0]
    kept = [3 * int(name.split(".")[0]) + i for name in sorted(again) for i in range(3)]
    assert torch.equal(found, rows[kept])


def test_a_writer_holds_no_more_than_a_part(tmp_path):
    manifest = Manifest("x", 8, 10.0)
    writer = IndexWriter(tmp_path, manifest, part_rows=16)
    writer.begin("long.wav", "s")
    row = torch.nn.functional.normalize(torch.ones(1, 8), dim=1)
    for k in range(100):
        writer.add(row, torch.tensor([float(k)]), torch.tensor([k + 1.0]))
        assert writer._used <= 16
    writer.end()
    writer.flush()
    assert len(manifest.parts) == 7
    assert index_writer.read_catalog([read_entries(tmp_path, name) for name in manifest.parts], []).keys() == {
        "long.wav"
    }


def test_another_clap_is_refused(pipe, sounds):
    index = index_sounds(pipe, sounds)
    torch.manual_seed(7)
    other = SoundSearchPipeline(make_clap())
    for work in (lambda: index_sounds(other, sounds), lambda: index.search(other, "rain")):
        with pytest.raises(DataError, match="was made by CLAP"):
            work()
    assert len(index_sounds(other, sounds, rebuild=True)) == len(index)


def test_what_does_not_fit_is_refused(pipe, sounds, tmp_path):
    index = index_sounds(pipe, sounds, hop_seconds=5.0)
    assert index_sounds(pipe, sounds).hop_seconds == 5.0
    with pytest.raises(DataError, match="windows every 5 s, not every 2 s"):
        index_sounds(pipe, sounds, hop_seconds=2.0)
    with pytest.raises(AudioNotFoundError, match="is no folder"):
        index_sounds(pipe, sounds / "a.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioNotFoundError, match="holds no audio file"):
        index_sounds(pipe, tmp_path / "empty")
    write(tmp_path / "others" / "x.wav", 9)
    with pytest.raises(DataError, match="none of which is in"):
        index_sounds(pipe, tmp_path / "others", sounds / ".sound-index")
    with pytest.raises(DataError, match="holds no sound index"):
        SoundIndex(tmp_path / "empty")
    for options, words in (({"top": 0}, "top"), ({"backend": "x"}, "backend")):
        with pytest.raises(InputError, match=words):
            index.search(pipe, "rain", **options)
    with pytest.raises(InputError, match="is empty"):
        index.search(pipe, " ")
    with pytest.raises(InputError, match="no link"):
        index.search(SoundSearchPipeline(pipe.clap), "rain", bridge=True)
    with pytest.raises(AudioNotFoundError):
        index.search(pipe, tmp_path / "nowhere.wav")


def change_part(folder, tensors=None, entries=None, form=FORMAT):
    path = folder / "part-00000.safetensors"
    old = load_file(path)
    listed = [vars(entry) for entry in read_entries(folder, path.name)]
    listed = entries(listed) if entries else listed
    save_file((tensors or (lambda t: t))(old), path, {"format": form, "entries": json.dumps(listed)})


def named(name):
    return lambda entries: [{**entries[0], "name": name}, *entries[1:]]


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": lambda t: {**t, "embeds": t["embeds"][:, :5].contiguous()}},
        {"tensors": lambda t: {**t, "embeds": t["embeds"][:-1]}},
        {"tensors": lambda t: {**t, "embeds": t["embeds"] * float("nan")}},
        {"tensors": lambda t: {**t, "embeds": t["embeds"] * 0}},
        {"tensors": lambda t: {**t, "embeds": t["embeds"].double()}},
        {"tensors": lambda t: {**t, "embeds": t["embeds"].flatten()}},
        {"tensors": lambda t: {**t, "start": t["start"][:-1]}},
        {"tensors": lambda t: {**t, "end": t["end"] * float("inf")}},
        {"tensors": lambda t: {**t, "more": t["end"] * 1}},
        {"tensors": lambda t: {"start": t["start"]}},
        {"entries": named("../../etc/passwd")},
        {"entries": named("/etc/passwd")},
        {"entries": named("a\0.wav")},
        {"entries": named(5)},
        {"entries": lambda entries: [{**entries[0], "rows": -1}, *entries[1:]]},
        {"entries": lambda entries: [{**entries[0], "rows": 10**9}, *entries[1:]]},
        {"entries": lambda entries: [{"rows": 1}]},
        {"entries": lambda entries: 5},
        {"form": "another"},
    ],
)
def test_hostile_parts_are_typed_errors(pipe, sounds, change):
    index_sounds(pipe, sounds)
    change_part(sounds / ".sound-index", **change)
    with pytest.raises(DataError, match="is no part of a sound index"):
        index_sounds(pipe, sounds).search(pipe, "rain")
    assert len(index_sounds(pipe, sounds, rebuild=True)) == 6


@pytest.mark.parametrize(
    "change",
    [
        {"parts": ["../part-00000.safetensors"]},
        {"parts": ["/etc/passwd"]},
        {"parts": ["part-00000.safetensors"] * 2},
        {"parts": 5},
        {"parts": [5]},
        {"removed": [5]},
        {"hop_seconds": float("nan")},
        {"embedding_dim": -1},
        {"embedding_dim": "x"},
        {"clap": None},
        {"unfinished": 3},
        {"more": 3},
        {"format": "another"},
    ],
)
def test_hostile_manifests_are_typed_errors(pipe, sounds, change):
    index_sounds(pipe, sounds)
    path = sounds / ".sound-index" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match="is no manifest of a sound index"):
        index_sounds(pipe, sounds)
    for content in ("[" * 100_000, "[]", "null", "{", ""):
        path.write_text(content)
        with pytest.raises(DataError, match="is no manifest of a sound index"):
            SoundIndex(sounds / ".sound-index")


def test_a_missing_part_is_named(pipe, sounds):
    index_sounds(pipe, sounds)
    (sounds / ".sound-index" / "part-00000.safetensors").unlink()
    with pytest.raises(DataError, match=r"part-00000\.safetensors"):
        index_sounds(pipe, sounds)


def test_two_writers_do_not_meet(pipe, sounds):
    from huggingface_hub.utils import WeakFileLock

    folder = sounds / ".sound-index"
    folder.mkdir()
    with WeakFileLock(folder / ".lock"), pytest.raises(DataError, match="written by another process"):
        index_sounds(pipe, sounds)
    index_sounds(pipe, sounds)
    with WeakFileLock(folder / ".lock"):  # nothing to write, nothing to wait for
        assert len(index_sounds(pipe, sounds)) == 6
