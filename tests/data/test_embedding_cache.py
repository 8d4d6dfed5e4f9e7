"""The embedding cache, the audio folder, and embedding one into the other."""

import importlib.util
import json

import numpy as np
import pytest
import soundfile as sf
import torch

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.data.audio_folder import read_audio_folder
from diffusion_link_hf.data.embedding_cache import clap_fingerprint, embed_captions
from diffusion_link_hf.errors import DataError
from factories import EMBEDDING_DIM, make_clap


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
    path = tmp_path / "embeddings.safetensors"
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
    with pytest.raises(DataError, match="no embedding cache"):
        EmbeddingCache.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("manifest.json", b"[]"),
        ("manifest.json", b"null"),
        ("manifest.json", b"\xff\xfe"),
        ("manifest.json", {"audio_names": None}),
        ("manifest.json", {"audio_names": [1] * 10}),
        ("captions.jsonl", b'{"caption": "caf\xe9"}\n' * 20),
        ("captions.jsonl", b'{"caption": 3}\n' * 20),
        ("captions.jsonl", b'["caption"]\n' * 20),
        ("captions.jsonl", b"3\n" * 20),
        ("captions.jsonl", b'{"caption": ' * 20),
        ("captions.jsonl", b"{}\n" * 20),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, file, content):
    make().save(tmp_path)
    if isinstance(content, dict):
        content = json.dumps({**json.loads((tmp_path / file).read_text()), **content}).encode()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match="damaged") as caught:
        EmbeddingCache.load(tmp_path)
    assert caught.value.remedy


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


@pytest.fixture
def folder(tmp_path):
    for k in range(3):
        sf.write(tmp_path / f"{k}.wav", np.random.default_rng(k).uniform(-0.1, 0.1, 48_000 * (1 + 10 * k)), 48_000)
    (tmp_path / "metadata.csv").write_text(
        'file_name,caption\n0.wav,"Rain, falling"\n1.wav,A dog\ngone.wav,A cat\n0.wav,Drops\n2.wav,Wind\n'
    )
    return tmp_path


def test_audio_folder_gathers_captions(folder):
    rows = read_audio_folder(folder)
    assert [(row.name, row.captions) for row in rows][:2] == [
        ("0.wav", ("Rain, falling", "Drops")),
        ("1.wav", ("A dog",)),
    ]
    (folder / "metadata.csv").unlink()
    (folder / "metadata.jsonl").write_text('{"file_name": "0.wav", "captions": ["a", "b"]}\n')
    assert read_audio_folder(folder)[0].captions == ("a", "b")


@pytest.mark.parametrize(
    "text",
    ["file_name,caption\n", "name,caption\na.wav,b\n", "file_name,caption\na.wav,\n", "file_name,title\na.wav,b\n"],
)
def test_wrong_metadata_is_refused(tmp_path, text):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError):
        read_audio_folder(tmp_path)
    with pytest.raises(DataError, match="no metadata"):
        read_audio_folder(tmp_path / "nowhere")


@pytest.fixture
def embed(pytestconfig):
    spec = importlib.util.spec_from_file_location("embed", pytestconfig.rootpath / "examples" / "embed.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("option", "value"), [("--batch-size", "0"), ("--batch-size", "-2"), ("--batch-size", "x"), ("--device", "foo")]
)
def test_wrong_options_are_usage_errors(embed, tmp_path, capsys, option, value):
    """There is no data and no CLAP here: nothing may have been looked at."""
    with pytest.raises(SystemExit) as caught:
        embed.main(["--data", "./no", "--clap", "./no", "--output", str(tmp_path / "out"), option, value])
    assert caught.value.code == 2
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_would_fail_at_the_end_fails_at_once(embed, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert embed.main(["--data", "./no", "--clap", "./no", "--output", str(tmp_path / "file")]) == 2
    assert "file cannot be written" in capsys.readouterr().err
    clap = make_clap()
    clap.tokenizer = None
    clap.save_pretrained(tmp_path / "clap")
    monkeypatch.setattr(embed.ClapEncoder, "encode_audio", None)
    arguments = ["--data", str(folder), "--clap", str(tmp_path / "clap"), "--output", str(tmp_path / "cache")]
    assert embed.main(arguments) == 2
    assert "has no tokenizer" in capsys.readouterr().err


def test_embedding_a_folder(embed, folder, tmp_path, capsys):
    clap = make_clap()
    clap.save_pretrained(tmp_path / "clap")
    assert (
        embed.main(["--data", str(folder), "--clap", str(tmp_path / "clap"), "--output", str(tmp_path / "cache")]) == 1
    )
    assert "gone.wav: does not exist" in capsys.readouterr().err
    cache = EmbeddingCache.load(tmp_path / "cache", clap_fingerprint(clap))
    assert cache.audio_names == ["0.wav", "1.wav", "2.wav"]
    assert list(cache.manifest["failures"]) == ["gone.wav"]
    assert cache.captions == ["Rain, falling", "Drops", "A dog", "Wind"]
    torch.testing.assert_close(cache.audio.norm(dim=1), torch.ones(3))
    from diffusion_link_hf.audio import load_audio, split_windows

    alone = clap.encode_audio(torch.from_numpy(split_windows(load_audio(folder / "0.wav"))[0].samples[None]))
    torch.testing.assert_close(cache.audio[:1], alone, atol=1e-5, rtol=0)
