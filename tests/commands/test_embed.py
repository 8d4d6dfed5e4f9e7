"""``diffusion-link embed``: a cache on disk, what was left out on standard error, typed refusals before any work."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch

from diffusion_link_hf import ClapEncoder, EmbeddingCache
from diffusion_link_hf.audio import load_audio, split_windows
from diffusion_link_hf.commands import embed
from diffusion_link_hf.embeddings.cache import clap_fingerprint
from diffusion_link_hf.errors import DataError, DiffusionLinkError, InputError, ModelFolderError
from support.commands import parse, run
from support.models import make_clap


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    make_clap().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Three recordings of 1, 11 and 21 s, one that is gone, one that is no audio."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for k in range(3):
        sf.write(folder / f"{k}.wav", np.random.default_rng(k).uniform(-0.1, 0.1, 8000 * (1 + 10 * k)), 8000)
    (folder / "text.wav").write_text("no audio")
    (folder / "metadata.csv").write_text(
        'file_name,caption\n0.wav,"Rain, falling"\n1.wav,A dog\ngone.wav,A cat\ntext.wav,Words\n0.wav,Drops\n'
        "2.wav,Wind\n"
    )
    return folder


def arguments(folder, clap, output, *more):
    return ["--data", folder, "--clap", clap, "--output", output, "--num-workers", 0, "--device", "cpu", *more]


def test_quiet_leaves_what_was_left_out(folder, clap, tmp_path, capsys):
    assert run(embed, *arguments(folder, clap, tmp_path / "cache", "--quiet")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("diffusion-link: left out") for line in lines)


def test_embedding_a_folder(folder, clap, tmp_path, capsys):
    assert run(embed, *arguments(folder, clap, tmp_path / "cache")) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "cache": str(tmp_path / "cache"),
        "recordings": 3,
        "captions": 4,
        "left_out": 2,
    }
    reported = [line for line in printed.err.splitlines() if line.startswith("diffusion-link: left out")]
    assert [line.split()[3] for line in reported] == ["gone.wav:", "text.wav:"]
    encoder = ClapEncoder.from_pretrained(clap)
    cache = EmbeddingCache.load(tmp_path / "cache", clap_fingerprint(encoder))
    assert cache.audio_names == ["0.wav", "1.wav", "2.wav"]
    assert cache.captions == ["Rain, falling", "Drops", "A dog", "Wind"]
    assert [failure["audio"] for failure in cache.manifest["failures"]] == ["gone.wav", "text.wav"]
    assert str(folder.parent) not in (tmp_path / "cache" / "manifest.json").read_text()
    alone = encoder.encode_audio(torch.from_numpy(split_windows(load_audio(folder / "0.wav"))[0].samples[None]))
    torch.testing.assert_close(cache.audio[:1], alone, atol=1e-5, rtol=0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert run(embed, *arguments(folder, clap, tmp_path / "cache")) == 1
    assert capsys.readouterr().out == printed.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == before


def test_an_empty_caption_is_left_out_and_listed(folder, clap, tmp_path, capsys):
    """Of a recording with another caption, and of one without."""
    with (folder / "metadata.csv").open("a") as file:
        file.write('0.wav,""\nlost.wav,  \n')
    assert run(embed, *arguments(folder, clap, tmp_path / "cache", "--quiet")) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["captions"] == 4
    assert json.loads(printed.out)["left_out"] == 4
    assert "row 7: has an empty caption for 0.wav" in printed.err
    assert "row 8: has an empty caption for lost.wav" in printed.err
    manifest = EmbeddingCache.load(tmp_path / "cache").manifest
    assert [entry["audio"] for entry in manifest["captions_left_out"]] == ["0.wav", "lost.wav"]


def test_options_reach_the_cache(folder, clap, tmp_path, capsys):
    chosen = ["--limit", 2, "--batch-size", 5, "--shard-size", 1, "--dtype", "bfloat16", "--split", "train", "--quiet"]
    assert run(embed, *arguments(folder, clap, tmp_path / "cache", *chosen)) == 0
    assert "left_out" in capsys.readouterr().out
    manifest = EmbeddingCache.load(tmp_path / "cache").manifest
    assert manifest["recordings"] == 2
    found = [manifest[key] for key in ("batch_size", "shard_size", "shard_count", "dtype", "data")]
    assert found == [5, 1, 2, "bfloat16", "clips"]


def test_recordings_may_be_elsewhere(folder, clap, tmp_path):
    (folder / "metadata.csv").rename(tmp_path / "metadata.csv")
    assert run(embed, *arguments(tmp_path / "metadata.csv", clap, tmp_path / "cache", "--audio", folder)) == 1
    assert EmbeddingCache.load(tmp_path / "cache").audio_names == ["0.wav", "1.wav", "2.wav"]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch-size", "0"), ("--shard-size", "-2"), ("--num-workers", "-1"), ("--dtype", "int8"), ("--limit", "x")],
)
def test_wrong_options_are_usage_errors(tmp_path, capsys, option, value):
    with pytest.raises(SystemExit) as caught:
        parse(embed, "--data", "./no", "--output", tmp_path / "out", option, value)
    assert caught.value.code == 2
    assert option in capsys.readouterr().err


def test_what_would_fail_at_the_end_fails_at_once(folder, clap, tmp_path, monkeypatch):
    monkeypatch.setattr(ClapEncoder, "encode_audio", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written"):
        run(embed, *arguments("./no", "./no", tmp_path / "file"))
    with pytest.raises(InputError, match="foo cannot be used"):
        run(embed, *arguments("./no", "./no", tmp_path / "out"), "--device", "foo")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DiffusionLinkError, match="nowhere"):
        run(embed, *arguments("./nowhere", clap, tmp_path / "out"))
    with pytest.raises(ModelFolderError, match="no such folder"):
        run(embed, *arguments(folder, "./no", tmp_path / "out"))
    encoder = make_clap()
    encoder.tokenizer = None
    encoder.save_pretrained(tmp_path / "deaf")
    with pytest.raises(ModelFolderError, match="has no tokenizer"):
        run(embed, *arguments(folder, tmp_path / "deaf", tmp_path / "out"))


def test_another_cache_is_refused_and_kept(folder, clap, tmp_path):
    run(embed, *arguments(folder, clap, tmp_path / "cache"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    for changed in (["--limit", 1], ["--batch-size", 2], ["--shard-size", 2]):
        with pytest.raises(DataError, match="another cache"):
            run(embed, *arguments(folder, clap, tmp_path / "cache", *changed))
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_real_recordings(shared_data, clap, tmp_path):
    """Ogg files of five seconds, found through their index."""
    names = sorted(path.relative_to(shared_data / "esc10").as_posix() for path in shared_data.glob("esc10/dog/*"))[:3]
    names = names or sorted(p.relative_to(shared_data / "esc10").as_posix() for p in shared_data.glob("esc10/*/*"))[:3]
    rows = "".join(f"{name},sound {k}\n" for k, name in enumerate(names))
    (tmp_path / "metadata.csv").write_text("file_name,caption\n" + rows)
    common = ["--audio", shared_data / "esc10", "--quiet"]
    assert run(embed, *arguments(tmp_path / "metadata.csv", clap, tmp_path / "cache"), *common) == 0
    assert EmbeddingCache.load(tmp_path / "cache").audio_names == names
