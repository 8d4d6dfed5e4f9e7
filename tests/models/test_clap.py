"""The frozen CLAP against `ClapModel` itself, and its strict loading."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapFeatureExtractor

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.embeddings.cache import clap_fingerprint
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.loading import default_pipeline_folder
from support.laion import make_laion_folder
from support.models import EMBEDDING_DIM, make_clap, make_clap_model, make_tokenizer

CAPTIONS = ["A dog barks", "Rain falls, then thunder rolls in the distance", "é 雨"]


def windows(n=3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).uniform(-0.3, 0.3, (n, 480_000)).astype(np.float32))


@pytest.mark.parametrize("fused", [False, True])
def test_audio_equals_the_model_on_extractor_features(fused):
    model = make_clap_model(fused)
    extractor = ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc", frequency_min=50)
    audio = windows()
    features = extractor(list(audio.numpy()), sampling_rate=48_000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = model.get_audio_features(
            features.float(), is_longer=torch.zeros(3, 1, dtype=torch.bool)
        ).pooler_output
    ours = ClapEncoder(model, make_tokenizer()).encode_audio(audio)
    assert ours.shape == (3, EMBEDDING_DIM)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(3))


def test_text_equals_the_model_and_ignores_its_batch():
    clap = make_clap()
    together = clap.encode_text(CAPTIONS)
    for caption, row in zip(CAPTIONS, together, strict=True):
        tokens = clap.tokenizer(caption, return_tensors="pt")
        with torch.no_grad():
            alone = clap.model.get_text_features(
                **{k: tokens[k] for k in ("input_ids", "attention_mask")}
            ).pooler_output
        torch.testing.assert_close(row[None], torch.nn.functional.normalize(alone, dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(clap.encode_text(CAPTIONS, batch_size=1), together, atol=1e-6, rtol=0)
    assert clap.encode_text([]).shape == (0, EMBEDDING_DIM)


@pytest.mark.parametrize("fused", [False, True])
def test_audio_ignores_its_batch_and_repeats(fused):
    clap, audio = make_clap(fused), windows()
    together = clap.encode_audio(audio)
    assert torch.equal(clap.encode_audio(audio), together)
    for k in range(3):
        torch.testing.assert_close(clap.encode_audio(audio[k : k + 1]), together[k : k + 1], atol=1e-6, rtol=0)


def test_it_stays_frozen_and_in_eval_mode():
    clap = torch.nn.Sequential(make_clap()).train()[0]
    assert not clap.training
    assert not clap.model.training
    assert not any(p.requires_grad for p in clap.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_round_trip(tmp_path, fused):
    clap, audio = make_clap(fused), windows(2)
    clap.save_pretrained(tmp_path)
    again = ClapEncoder.from_pretrained(tmp_path)
    assert again.front_end.mel_scale == ("htk" if fused else "slaney")
    assert torch.equal(again.encode_audio(audio), clap.encode_audio(audio))
    assert torch.equal(again.encode_text(CAPTIONS), clap.encode_text(CAPTIONS))
    assert "_name_or_path" not in json.loads((tmp_path / "config.json").read_text())


def test_stored_in_half_loaded_in_full(tmp_path):
    clap = make_clap()
    clap.save_pretrained(tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    again = ClapEncoder.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again.encode_audio(windows(1)), clap.encode_audio(windows(1)), atol=5e-3, rtol=0)


def test_from_config_needs_no_weights(tmp_path):
    make_clap().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert ClapEncoder.from_config(tmp_path).encode_audio(windows(1)).shape == (1, EMBEDDING_DIM)


def damage(folder, how):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "audio_projection.linear1.weight"
    if how == "missing key":
        del weights[name]
    elif how == "extra key":
        weights["surplus.weight"] = torch.zeros(3)
    elif how == "wrong shape":
        weights[name] = torch.zeros(3, 3)
    elif how == "nan":
        weights[name][0, 0] = float("nan")
    elif how == "pickle":
        torch.save({}, folder / "weights.pt")
    elif how == "pickle below":
        (folder / "more").mkdir()
        torch.save({}, folder / "more" / "pytorch_model.bin")
    elif how == "no weights":
        path.unlink()
        return
    elif how == "large tokenizer":
        tokenizer = make_tokenizer()
        tokenizer.add_tokens(["<one more>"])
        tokenizer.save_pretrained(folder)
    elif how.startswith("front end "):
        config = json.loads((folder / "preprocessor_config.json").read_text()) | json.loads(how[10:])
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
    elif how.startswith("reference "):
        (folder / "reference.json").write_text(how[10:])
    save_file(weights, path, metadata={"format": "pt"})
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-500])
    elif how == "bad json":
        (folder / "config.json").write_text("{")
    elif how == "no config":
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "how",
    [
        "missing key",
        "extra key",
        "wrong shape",
        "nan",
        "pickle",
        "pickle below",
        "no weights",
        "torn",
        "bad json",
        "no config",
        "large tokenizer",
        'front end {"sampling_rate": 44100}',
        'front end {"sampling_rate": "48000"}',
        'front end {"sampling_rate": null}',
        'front end {"hop_length": "480"}',
        'front end {"fft_window_size": 0}',
        'front end {"frequency_max": "high"}',
        'front end {"truncation": 5}',
        'front end {"truncation": "fusion"}',
        'front end {"padding": "pad"}',
        'front end {"padding": "repeat"}',
        'front end {"padding_value": 0.5}',
        'front end {"max_length_s": 7}',
        'front end {"top_db": 80}',
        'front end {"feature_size": 32}',
        'front end {"hop_length": 240}',
        'front end {"frequency_min": 15000}',
        'reference {"revision": "main"}',
        'reference {"id": 5}',
        'reference {"id": "a/b", "revision": 5}',
    ],
)
def test_damaged_folders_are_refused(tmp_path, how):
    make_clap().save_pretrained(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(ModelFolderError) as caught:
        ClapEncoder.from_pretrained(tmp_path)
    assert caught.value.remedy
    if how.startswith("reference "):
        with pytest.raises(ModelFolderError, match="repository"):
            ClapEncoder.from_config(tmp_path)


def front_end_of(folder, **changes):
    """The front end of a CLAP whose preprocessor_config.json says something else."""
    if not (folder / "config.json").is_file():
        make_clap().save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return ClapEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"fft_window_size": 512}, "n_fft"),
        ({"hop_length": 600}, "hop_length"),
        ({"frequency_min": 0}, "frequency_min"),
        ({"frequency_max": 8000}, "frequency_max"),
    ],
)
def test_settings_of_the_front_end_are_followed_and_fingerprinted(tmp_path, said, name):
    usual = clap_fingerprint(front_end_of(tmp_path))
    changed = front_end_of(tmp_path, **said)
    assert getattr(changed.front_end, name) == next(iter(said.values()))
    assert clap_fingerprint(changed) != usual
    changed.save_pretrained(tmp_path / "again")
    assert clap_fingerprint(ClapEncoder.from_pretrained(tmp_path / "again")) == clap_fingerprint(changed)


def test_a_processor_describes_the_front_end_as_well(tmp_path):
    """As `ClapProcessor.save_pretrained` writes it; where both files are there it comes first, as in transformers."""
    make_clap().save_pretrained(tmp_path)
    said = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"frequency_max": 9000}
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": said}))
    loaded = ClapEncoder.from_pretrained(tmp_path)
    assert loaded.front_end.frequency_max == 9000
    (tmp_path / "preprocessor_config.json").unlink()
    assert ClapEncoder.from_pretrained(tmp_path).front_end.frequency_max == 9000
    make_clap().save_pretrained(tmp_path)
    assert ClapEncoder.from_pretrained(tmp_path).front_end.frequency_max == 14_000


def test_a_folder_without_a_front_end_says_what_to_save(tmp_path):
    """As `ClapModel.save_pretrained` writes it."""
    make_clap_model().save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="Save the model's processor"):
        ClapEncoder.from_pretrained(tmp_path)


def test_a_folder_with_both_formats_loads_its_safetensors(tmp_path):
    folder = make_laion_folder(tmp_path / "clap", safetensors=True)
    both = ClapEncoder.from_pretrained(folder, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    (folder / "pytorch_model.bin").unlink()
    alone = ClapEncoder.from_pretrained(folder)
    assert torch.equal(both.encode_audio(windows(1)), alone.encode_audio(windows(1)))


def test_a_fused_clap_of_pickled_weights(tmp_path):
    folder = make_laion_folder(tmp_path / "clap", fused=True)
    clap = ClapEncoder.from_pretrained(folder, cache_dir=tmp_path / "cache")
    assert clap.fused
    assert clap.front_end.mel_scale == "htk"
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in clap.model.state_dict().items())


def test_files_of_older_transformers_lack_some_buffers(tmp_path):
    """They follow from the configuration."""
    make_clap().save_pretrained(tmp_path)
    expected = ClapEncoder.from_pretrained(tmp_path).model.state_dict()
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.endswith(("_ids", "_index", "_tracked"))}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = ClapEncoder.from_pretrained(tmp_path).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_usual_arguments(tmp_path):
    make_clap().save_pretrained(tmp_path)
    assert ClapEncoder.from_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16
    assert ClapEncoder.from_pretrained(tmp_path, device_map="cpu", use_safetensors=True).device.type == "cpu"
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    ClapEncoder.from_pretrained(tmp_path, variant="fp16", low_cpu_mem_usage=True)
    for options in ({"quantization_config": object()}, {"trust_remote_code": True}, {"use_safetensors": False}):
        with pytest.raises(InputError, match=next(iter(options))):
            ClapEncoder.from_pretrained(tmp_path, variant="fp16", **options)


def test_a_folder_has_no_revision(tmp_path):
    make_clap().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="revision"):
        ClapEncoder.from_pretrained(tmp_path, revision="main")


@pytest.mark.parametrize(
    ("waveforms", "words"),
    [
        (torch.zeros(2, 480_001), "shape"),
        (torch.zeros(2, 48_000), "shape"),
        (torch.zeros(480_000), "shape"),
        (torch.zeros(1, 480_000, dtype=torch.int16), "int16"),
        (np.zeros((1, 480_000), np.int16), "int16"),
        (torch.zeros(1, 480_000).to_sparse(), "sparse"),
        (torch.zeros(1, 480_000, device="meta"), "meta"),
        (windows(2) * torch.tensor([[1.0], [float("nan")]]), "row 1"),
        (windows(2) / torch.tensor([[0.0], [1.0]]), "row 0"),
        ([[0.0] * 480_000], "list"),
        (None, "NoneType"),
    ],
)
def test_wrong_waveforms_are_refused(waveforms, words):
    with pytest.raises(InputError, match=words):
        make_clap().encode_audio(waveforms)


def test_no_window_has_no_embedding_and_arrays_are_taken():
    clap, audio = make_clap(), windows(2)
    assert clap.encode_audio(torch.empty(0, 480_000)).shape == (0, EMBEDDING_DIM)
    for array in (audio.numpy(), audio.numpy().astype(">f4"), audio.numpy()[::-1][::-1]):
        assert torch.equal(clap.encode_audio(array), clap.encode_audio(audio))


def test_inputs_are_checked():
    clap = make_clap()
    with pytest.raises(InputError, match="strings"):
        clap.encode_text("a bare string")
    with pytest.raises(InputError, match=r"none or several"):
        clap()
    with pytest.raises(InputError, match="tokenizer"):
        ClapEncoder(make_clap_model()).encode_text(["a"])
    with pytest.raises(InputError, match="include_base"):
        clap.save_pretrained("unused", include_base=False)


def test_of_a_pipeline_it_is_the_one_inside():
    named = ClapEncoder.from_pretrained("tiny")
    inside = ClapEncoder.from_pretrained(default_pipeline_folder() / "clap")
    assert clap_fingerprint(named) == clap_fingerprint(inside)
    assert clap_fingerprint(ClapEncoder.from_pretrained(default_pipeline_folder())) == clap_fingerprint(inside)
