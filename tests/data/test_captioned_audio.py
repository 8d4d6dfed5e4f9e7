"""Captioned recordings: what one holds, and how a data set of them is opened, iterated over and divided."""

import io
import pickle
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diffusion_link_hf.audio import load_audio
from diffusion_link_hf.data.captioned_audio import CaptionedAudio, open_data
from diffusion_link_hf.errors import AudioContentError, AudioNotFoundError, DataError, InputError
from support.captions import make_audiocaps_repository, sound, write_sound


def write_folder(folder: Path, count: int) -> Path:
    folder.mkdir(exist_ok=True)
    rows = "".join(f"{k}.wav,Caption {k}\n" for k in range(count))
    (folder / "metadata.csv").write_text(f"file_name,caption\n{rows}")
    return folder


@pytest.mark.parametrize("form", ["path", "audio"])
def test_load(tmp_path, form):
    path = write_sound(tmp_path / "a.flac")
    clip = CaptionedAudio("a", ("Rain",), **{form: path if form == "path" else path.read_bytes()})
    samples = clip.load()
    assert samples.dtype == np.float32
    assert np.array_equal(samples, load_audio(path))


def test_errors_name_the_recording(tmp_path):
    for clip in (CaptionedAudio("the one", ("Rain",)), CaptionedAudio("the one", ("Rain",), path=tmp_path / "gone")):
        with pytest.raises(AudioNotFoundError, match=r"^the one: "):
            clip.load()
    file = io.BytesIO()
    soundfile.write(file, np.full(1600, 0.5), 16_000, format="WAV")
    with pytest.raises(AudioContentError, match=r"^the one: "):
        CaptionedAudio("the one", ("Rain",), audio=file.getvalue()).load()


@pytest.mark.parametrize("captions", [(), ("",), ("Rain", " "), ("Rain ",)])
def test_captions_are_there_and_stripped(captions):
    with pytest.raises(InputError, match=r"^a: has the captions"):
        CaptionedAudio("a", captions)


def test_a_path_or_audio():
    with pytest.raises(InputError, match="both a path and audio"):
        CaptionedAudio("a", ("Rain",), Path("a"), sound(0))


def test_again_and_again_the_same(tmp_path):
    data = open_data(write_folder(tmp_path, 5))
    once = list(data)
    assert [clip.captions for clip in once] == [(f"Caption {k}",) for k in range(5)]
    iterator = iter(data)
    next(iterator)
    assert list(data) == once
    assert next(iterator) == once[1]


@given(count=st.integers(1, 400), parts=st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_parts(tmp_path_factory, count, parts):
    """Every recording is in one part, each part in the order of the whole, and parts are about equal."""
    data = open_data(write_folder(tmp_path_factory.mktemp("folder"), count))
    numbers = [[int(clip.name[:-4]) for clip in data.shard(k, parts)] for k in range(parts)]
    assert sorted(chain.from_iterable(numbers)) == list(range(count))
    assert all(own == sorted(own) for own in numbers)
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 2 * max(1, count // 64)


def test_parts_belong_to_the_whole(tmp_path):
    data = open_data(write_folder(tmp_path, 5))
    part = data.shard(1, 2)
    assert (part.name, part.split, part.fingerprint) == (data.name, data.split, data.fingerprint)
    for index, count in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="shard: is"):
            data.shard(index, count)
    with pytest.raises(InputError, match="a shard itself"):
        part.shard(0, 2)


def test_parallel_loading(tmp_path):
    """What gives the shards to the workers is `datasets`."""
    data = open_data(write_folder(tmp_path, 10))
    names = [row["name"] for row in DataLoader(data.dataset, batch_size=None, num_workers=2)]
    assert sorted(names) == sorted(f"{k}.wav" for k in range(10))


def test_what_a_spawned_worker_gets_is_small(tmp_path):
    """Arrow pickles a slice with the whole table behind it, and there are 200 of them."""
    data = open_data(write_folder(tmp_path, 2000))
    pickled = pickle.dumps(data)
    assert len(pickled) < 5 * (tmp_path / "metadata.csv").stat().st_size + 50_000
    assert list(pickle.loads(pickled)) == list(data)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_going_on_by_the_state_of_datasets(tmp_path, stop):
    make_audiocaps_repository(tmp_path)
    whole = list(open_data(tmp_path, split="train").dataset)
    dataset = open_data(tmp_path, split="train").dataset
    iterator = iter(dataset)
    for _ in range(stop):
        next(iterator)
    state = dataset.state_dict()
    again = open_data(tmp_path, split="train").dataset
    again.load_state_dict(state)
    assert list(again) == whole[stop:]


def test_the_fingerprint_follows_the_rows(tmp_path):
    folder = write_folder(tmp_path / "a", 5)
    data = open_data(folder)
    assert open_data(folder).fingerprint == data.fingerprint
    assert open_data(folder / "metadata.csv").fingerprint == data.fingerprint
    (folder / "metadata.csv").write_bytes((folder / "metadata.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert open_data(folder).fingerprint == data.fingerprint
    others = [open_data(folder, limit=4), open_data(write_folder(tmp_path / "b", 6))]
    (folder / "metadata.csv").write_text((folder / "metadata.csv").read_text().replace("Caption 3", "Caption 4"))
    others.append(open_data(folder))
    write_sound(folder / "0.wav")  # came later
    others.append(open_data(folder))
    (folder / "0.wav").write_bytes((folder / "0.wav").read_bytes() + b"more")
    others.append(open_data(folder))
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_names(tmp_path, monkeypatch):
    data = open_data(write_folder(tmp_path / "mine", 1))
    assert (data.name, data.split) == ("mine", "train")
    monkeypatch.chdir(tmp_path / "mine")
    assert open_data(".").name == "mine"
    data = open_data(Path("metadata.csv"))
    assert data.name == "metadata.csv"
    monkeypatch.chdir(tmp_path)
    assert next(iter(data)).path == tmp_path / "mine" / "0.wav"


@pytest.mark.parametrize("limit", [1, 3, 9])
def test_limit(tmp_path, limit):
    data = open_data(write_folder(tmp_path, 5), limit=limit)
    assert [clip.name for clip in data] == [f"{k}.wav" for k in range(min(limit, 5))]
    assert sum(len(list(data.shard(k, 2))) for k in range(2)) == min(limit, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit: is 0"),
        ({"limit": -1}, "limit: is -1"),
        ({"revision": "v1"}, "revision: is 'v1'"),
        ({"config": "big"}, "config: is 'big'"),
    ],
)
def test_arguments_that_do_not_apply(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        open_data(write_folder(tmp_path, 1), **options)


@pytest.mark.parametrize("files", [[], ["a.wav", "b.wav"], ["notes.csv"]])
def test_an_unknown_kind_of_folder(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=f"holds no captions .*{files[0] if files else 'empty'}") as caught:
        open_data(tmp_path)
    assert "metadata.csv" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.txt", "is not a csv"), ("a.csv", "no file_name"), ("a.parquet", "is not a whole Parquet file")],
)
def test_an_unknown_kind_of_file(tmp_path, name, words):
    (tmp_path / name).write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=words):
        open_data(tmp_path / name)


def test_what_is_neither_here_nor_on_the_hub(tmp_path):
    with pytest.raises(DataError, match="does not exist, and is no Hub id"):
        open_data(tmp_path / "nowhere")


def test_the_module_is_light():
    """`datasets` and pyarrow are imported when data are opened."""
    program = "import sys, diffusion_link_hf.data.captioned_audio; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"datasets", "pyarrow", "torch"} & set(modules)
