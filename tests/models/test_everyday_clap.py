"""The CLAP of everyday sounds: a `ClapEncoder` to whoever uses it, tags over time, batches, precision, folders."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion_link_hf import ClapEncoder, EverydayClapEncoder, InputError, ModelFolderError, embed
from diffusion_link_hf.embeddings.cache import clap_fingerprint
from diffusion_link_hf.models.everyday_clap import EverydayClapConfig, EverydayClapModel
from diffusion_link_hf.models.levels import loudest_dbfs
from support.captions import write_sound
from support.models import make_clap, make_everyday_clap

SAMPLES = 480_000


@pytest.fixture(scope="module")
def clap() -> EverydayClapEncoder:
    return make_everyday_clap()


@pytest.fixture(scope="module")
def waves() -> torch.Tensor:
    """A tone, noise after silence, and silence."""
    rng = torch.Generator().manual_seed(0)
    waves = 0.1 * torch.randn(3, SAMPLES, generator=rng)
    waves[0] = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(SAMPLES) / 48_000)
    waves[1, : SAMPLES // 2] = 0
    waves[2] = 0
    return waves


@pytest.fixture(scope="module")
def heard(clap, waves):
    return clap.hear(waves)


def test_what_is_heard(clap, heard):
    assert heard.embeds.shape == (3, clap.embedding_dim) == (3, 512)
    torch.testing.assert_close(heard.embeds.norm(dim=1), torch.ones(3))
    assert heard.scores.shape == (3, len(clap.tags))
    assert heard.window_scores.shape == (3, 12, len(clap.tags))
    assert ((heard.scores >= 0) & (heard.scores <= 1)).all()
    assert heard.silent.tolist() == [False, False, True]


def test_silence_is_silence_whatever_the_weights(clap, heard, waves):
    index = clap.tags.index("silence")
    assert heard.scores[2, index] == 1
    assert (heard.window_scores[2, :, index] == 1).all()
    faint = 1e-4 * waves[:1]
    assert loudest_dbfs(faint, 48_000) < clap.config.silence_dbfs
    assert clap.hear(faint + 0.25).silent.tolist() == [True], "a constant offset is no sound"


def test_certainty_is_that_of_the_events(clap, heard):
    certainty = clap.log_certainty(heard.embeds)
    assert certainty.shape == (3,)
    assert (certainty <= 0).all()
    assert certainty[2] == 0, "silence is certain"
    assert make_clap().log_certainty(torch.ones(2, 32)).tolist() == [0, 0]


def test_rows_do_not_depend_on_their_batch(clap, heard, waves):
    for order in ([2, 0, 1], [1], [0, 0]):
        again = clap.hear(waves[order])
        for found, expected in zip(again, heard, strict=True):
            assert torch.equal(found, expected[order])


def test_tags_over_time(clap, waves):
    scores, centers = clap.tags_over_time(waves[:1])
    assert scores.shape[:2] == (1, len(centers))
    assert 0 < centers[0] < centers[-1] < 10
    assert torch.equal(clap.tag_scores(waves[:1]), clap.hear(waves[:1]).scores)


def test_it_is_used_as_any_clap(clap, waves, tmp_path):
    assert isinstance(clap, ClapEncoder)
    assert torch.equal(clap.encode_audio(waves.numpy()), clap.encode_audio(waves))
    text = clap.encode_text(["a dog", "rain is falling on a roof"])
    torch.testing.assert_close(text[:1], clap.encode_text(["a dog"]), atol=1e-6, rtol=0)
    assert clap.encode_audio(torch.empty(0, SAMPLES)).shape == (0, 512)
    assert not clap.train().model.training
    folder = tmp_path / "clips"
    folder.mkdir()
    write_sound(folder / "a.wav")
    (folder / "metadata.csv").write_text("file_name,caption\na.wav,a dog\n")
    manifest = embed(folder, tmp_path / "cache", clap, device="cpu", progress=False)
    assert manifest["clap"] == clap_fingerprint(clap)


@pytest.mark.parametrize(("dtype", "cosine"), [(torch.float16, 0.99), (torch.bfloat16, 0.9)])
def test_lower_precision_is_close(waves, heard, dtype, cosine):
    half = make_everyday_clap().to(dtype).encode_audio(waves)
    assert half.dtype == torch.float32
    assert ((half * heard.embeds).sum(1) > cosine).all()


@pytest.mark.parametrize(
    "waves",
    [
        torch.zeros(1, 100),
        torch.zeros(SAMPLES),
        torch.zeros(1, SAMPLES, dtype=torch.int16),
        torch.full((1, SAMPLES), torch.nan),
    ],
)
def test_what_is_no_window_is_refused(clap, waves):
    with pytest.raises(InputError, match="waveforms"):
        clap.encode_audio(waves)


def test_one_kind_of_input(clap, waves):
    with pytest.raises(InputError, match="none or both"):
        clap()
    with pytest.raises(InputError, match="none or both"):
        clap(waveforms=waves, input_ids=torch.zeros(1, 2, dtype=torch.long))


def test_a_folder_keeps_everything(clap, waves, heard, tmp_path):
    clap.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    assert "_name_or_path" not in (tmp_path / "config.json").read_text()
    for cls in (ClapEncoder, EverydayClapEncoder):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is EverydayClapEncoder
        assert loaded.tags == clap.tags
        assert torch.equal(loaded.encode_audio(waves), heard.embeds)
        assert torch.equal(loaded.encode_text(["a dog"]), clap.encode_text(["a dog"]))
        assert clap_fingerprint(loaded) == clap_fingerprint(clap)
    clap.save_pretrained(tmp_path, dtype=torch.float16)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.float16, torch.int64}
    stored = ClapEncoder.from_pretrained(tmp_path)
    assert stored.dtype == torch.float32
    assert (stored.encode_audio(waves) * heard.embeds).sum(1).min() > 0.999
    random = ClapEncoder.from_config(tmp_path, hidden_size=16)
    assert isinstance(random, EverydayClapEncoder)
    assert random.config.hidden_size == 16


def test_the_fingerprint_knows_the_settings(clap):
    other = make_everyday_clap()
    assert clap_fingerprint(other) == clap_fingerprint(clap)
    other.config.tag_temperature = 2.0
    assert clap_fingerprint(other) != clap_fingerprint(clap)


@pytest.mark.parametrize(
    "damage", ["missing", "unexpected", "shape", "nan", "pickle", "torn", "no config", "vocabulary"]
)
def test_a_damaged_folder_is_refused(clap, tmp_path, damage):
    clap.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = "tagger.tags.0.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "unexpected":
        weights["stranger"] = torch.zeros(1)
    elif damage == "shape":
        weights[name] = weights[name][:, :-1].contiguous()
    elif damage == "nan":
        weights[name][0, 0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    if damage == "pickle":
        (tmp_path / "model.bin").write_bytes(b"")
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "no config":
        (tmp_path / "config.json").unlink()
    elif damage == "vocabulary":
        config = json.loads((tmp_path / "config.json").read_text())
        config["text_config"]["vocab_size"] = 20
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError):
        ClapEncoder.from_pretrained(tmp_path)


def test_another_clap_is_none_of_these(tmp_path):
    make_clap().save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="'clap'"):
        EverydayClapEncoder.from_pretrained(tmp_path)
    assert type(ClapEncoder.from_pretrained(tmp_path)) is ClapEncoder


@pytest.mark.parametrize("tags", [["silence", *"abcd"], [*"abcdef"], ["silence", *"aabcd"]])
def test_tags_are_at_least_six_and_one_is_silence(tags):
    with pytest.raises(InputError, match="tags"):
        EverydayClapConfig(tags=tags)


def test_a_folder_may_reference_its_repository(clap, tmp_path, monkeypatch):
    from diffusion_link_hf import BaseReference, loading

    clap.save_pretrained(tmp_path / "whole")
    named = EverydayClapEncoder(clap.model, clap.tokenizer, BaseReference("someone/clap", "abc"))
    named.save_pretrained(tmp_path / "named")
    assert not (tmp_path / "named" / "model.safetensors").exists()
    monkeypatch.setattr(loading, "download_snapshot", lambda *_, **__: tmp_path / "whole")
    loaded = ClapEncoder.from_pretrained(tmp_path / "named")
    assert loaded.source == BaseReference("someone/clap", "abc")
    assert clap_fingerprint(loaded) == clap_fingerprint(clap)


def test_the_model_needs_no_tokenizer(clap, waves, tmp_path):
    silent = EverydayClapEncoder(EverydayClapModel(clap.config))
    assert np.isfinite(silent.encode_audio(waves[:1]).numpy()).all()
    with pytest.raises(InputError, match="tokenizer"):
        silent.encode_text(["a"])
    silent.save_pretrained(tmp_path)
    assert ClapEncoder.from_pretrained(tmp_path).tokenizer is None
    shutil.rmtree(tmp_path)
