"""The whole pipeline: inputs, invariances, saving and loading, and what broken folders get."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkModel, PrefixProjector
from diffusion_link_hf.errors import (
    AudioContentError,
    AudioNotFoundError,
    HubAccessError,
    InputError,
    ModelFolderError,
)
from support.models import EMBEDDING_DIM, make_clap, make_decoder, make_link, make_pipeline

RATE = 48_000


def recordings(n=5, seconds=1.0) -> list[np.ndarray]:
    """A tone in noise each; pitch and loudness differ, so that their captions do."""
    time = np.arange(round(RATE * seconds)) / RATE
    return [
        (
            0.3 * np.sin(2 * np.pi * 110 * 1.16**k * time)
            + np.random.default_rng(k).normal(0, 0.01 * (k % 5), len(time))
        ).astype(np.float32)
        for k in range(n)
    ]


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def test_the_steps_in_a_row_are_the_call(pipe):
    from diffusion_link_hf.audio import split_windows

    audio = recordings(3)
    embeds = pipe.encode_audio([split_windows(a)[0] for a in audio])
    assert embeds.shape == (3, EMBEDDING_DIM)
    captions = pipe.decode(pipe.bridge(embeds, "audio"))
    assert [row[0] for row in captions] == pipe(audio, RATE).captions


def test_inputs_of_every_kind(pipe, tmp_path):
    samples = recordings(1)[0]
    path = tmp_path / "a.wav"
    sf.write(path, samples, RATE, subtype="FLOAT")
    expected = pipe(samples, RATE).captions
    for way in (
        str(path),
        path,
        path.read_bytes(),
        {"array": samples, "sampling_rate": RATE},
        torch.from_numpy(samples),
    ):
        assert pipe(way, RATE if isinstance(way, torch.Tensor) else None).captions == expected
    assert pipe([str(path), {"array": samples, "sampling_rate": RATE}, samples], RATE).captions == expected * 3
    assert pipe([]).captions == []


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
def test_captions_do_not_depend_on_batch_or_order(pipe, options):
    audio = recordings(32, seconds=0.3)
    together = pipe(audio, RATE, **options).captions
    assert len(set(together)) > 8  # were they all the same, nothing below would show anything
    assert pipe(audio[5], RATE, **options).captions == together[5:6]
    for size in (7,) if options else (1, 2, 7):
        assert pipe(audio, RATE, batch_size=size, **options).captions == together
    order = np.random.default_rng(0).permutation(32)
    assert pipe([audio[i] for i in order], RATE, **options).captions == [together[i] for i in order]
    generator = torch.Generator().manual_seed(3)
    with_noise = pipe(audio, RATE, generator=generator, **options).captions
    assert pipe(audio, RATE, batch_size=7, generator=generator.manual_seed(3), **options).captions == with_noise


def test_any_iterable_is_a_batch(pipe, tmp_path):
    from datasets import Dataset

    audio = recordings(2, seconds=0.1)
    expected = pipe(audio, RATE).captions
    column = Dataset.from_list([{"audio": {"array": a.tolist(), "sampling_rate": RATE}} for a in audio])["audio"]
    assert pipe(column).captions == pipe(iter(audio), RATE).captions == pipe(tuple(audio), RATE).captions == expected
    sf.write(tmp_path / "a.wav", audio[0], RATE, subtype="FLOAT")
    with open(tmp_path / "a.wav", "rb") as file:  # iterable, and yet one recording
        assert pipe(file).captions == expected[:1]
    with pytest.raises(InputError, match="array"):
        pipe(audio[0].tolist(), RATE)


def test_long_recordings(pipe):
    audio = np.concatenate(recordings(25))
    result = pipe(audio, RATE)
    assert [(s.start, s.end) for s in result.segments[0]] == [(0, 10), (10, 20), (20, 25)]
    assert result.captions == [". ".join(s.text for s in result.segments[0])]
    average = pipe([audio, audio[: 5 * RATE]], RATE, long_audio="average")
    assert [(s.start, s.end) for s in average.segments[0]] == [(0, 25)]
    assert average.captions[1] == pipe(audio[: 5 * RATE], RATE).captions[0]


def test_several_captions_per_recording(pipe):
    result = pipe(recordings(2), RATE, num_return_sequences=3, num_beams=3)
    assert len(result.captions) == 6
    for k in range(2):
        segment = result.segments[k][0]
        assert result.captions[3 * k : 3 * k + 3] == [segment.text, *segment.alternatives]


def test_sampling_repeats_with_its_generator(pipe):
    def sample(seed):
        return pipe(recordings(3), RATE, do_sample=True, generator=torch.Generator().manual_seed(seed)).captions

    assert sample(1) == sample(1) != sample(2)


def test_tuple_output(pipe):
    captions, segments, errors = pipe(recordings(1)[0], RATE, return_dict=False)
    assert captions == pipe(recordings(1)[0], RATE).captions
    assert len(segments) == 1
    assert errors == [None]


def test_without_a_link(pipe):
    baseline = AudioCaptionPipeline(clap=pipe.clap, projector=pipe.projector, decoder=pipe.decoder)
    baseline.set_progress_bar_config(disable=True)
    embeds = pipe.encode_audio(np.stack([np.resize(a, 480_000) for a in recordings(2)]))
    assert torch.equal(baseline.bridge(embeds), embeds)
    assert baseline(recordings(2), RATE).errors == [None, None]


def test_a_bad_item_is_reported_and_the_rest_captioned(pipe):
    audio = recordings(3)
    bad = [audio[0], "nowhere.wav", audio[1], np.full(RATE, np.nan, np.float32), b"junk", audio[2]]
    result = pipe(bad, RATE)
    good = [0, 2, 5]
    assert [result.captions[i] for i in good] == pipe(audio, RATE).captions
    assert [i for i, error in enumerate(result.errors) if error is None] == good
    assert isinstance(result.errors[1], AudioNotFoundError)
    assert isinstance(result.errors[3], AudioContentError)
    assert "audio[3]" in str(result.errors[3])
    assert result.captions[1] is None
    assert result.segments[1] == []
    assert pipe(["nowhere.wav"]).captions == [None]


def test_one_bad_recording_raises(pipe):
    with pytest.raises(AudioNotFoundError, match="nowhere"):
        pipe("nowhere.wav")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    pipe = make_pipeline().to(dtype)
    assert pipe(recordings(2), RATE).errors == [None, None]


@pytest.mark.parametrize("lora", [True, False])
def test_round_trip(tmp_path, lora):
    pipe, audio = make_pipeline(lora=lora), recordings(4)
    pipe.save_pretrained(tmp_path / "a")
    again = AudioCaptionPipeline.from_pretrained(tmp_path / "a")
    assert again(audio, RATE).captions == pipe(audio, RATE).captions
    again.save_pretrained(tmp_path / "b")
    for file in (tmp_path / "a").rglob("*"):
        # transformers adds the dtype of loaded weights to clap/config.json
        if (file.is_file() and file.parent.name != "clap") or file.suffix == ".safetensors":
            assert (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes(), file
            assert str(tmp_path).encode() not in file.read_bytes()
    index = json.loads((tmp_path / "a" / "model_index.json").read_text())
    assert index["link"] == ["diffusion_link_hf", "DiffusionLinkModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_a_fresh_process_gives_the_same_captions(tmp_path):
    pipe, audio = make_pipeline(), recordings(2)
    pipe.save_pretrained(tmp_path)
    np.save(tmp_path / "audio.npy", np.stack(audio))
    program = (
        "import sys, json, numpy as np; from diffusion_link_hf import AudioCaptionPipeline;"
        "pipe = AudioCaptionPipeline.from_pretrained(sys.argv[1]);"
        "print(json.dumps(pipe(list(np.load(sys.argv[1] + '/audio.npy')), 48000).captions))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == pipe(audio, RATE).captions


def test_a_missing_link_stays_missing(tmp_path):
    pipe = make_pipeline()
    AudioCaptionPipeline(clap=pipe.clap, projector=pipe.projector, decoder=pipe.decoder).save_pretrained(tmp_path)
    assert AudioCaptionPipeline.from_pretrained(tmp_path).link is None


def test_components_may_be_replaced(tmp_path):
    make_pipeline().save_pretrained(tmp_path)
    link = make_link()
    assert AudioCaptionPipeline.from_pretrained(tmp_path, link=link).link is link
    assert AudioCaptionPipeline.from_pretrained(tmp_path, link=None).link is None
    with pytest.raises(InputError, match="lnk"):
        AudioCaptionPipeline.from_pretrained(tmp_path, lnk=None)


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("projector", None, "Pass a PrefixProjector"),
        ("link", "DiffusionLinkModel", "Pass a BridgeModel or NoneType"),
        ("dtype", "half", "torch.dtype"),
        ("variant", "fp16", "has no such files"),
        ("device_map", {"decoder": "cpu"}, "Name a device or one of auto"),
        ("use_safetensors", False, "Only safetensors are read"),
        ("trust_remote_code", True, "trust_remote_code"),
    ],
)
def test_wrong_keywords_are_refused(tmp_path, keyword, value, words):
    make_pipeline().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        AudioCaptionPipeline.from_pretrained(tmp_path, **{keyword: value})


class NestedBridge(DiffusionLinkModel):
    """A user's own bridge."""


def test_a_users_bridge_round_trips(tmp_path, monkeypatch):
    pipe = make_pipeline()
    pipe.register_modules(link=NestedBridge(EMBEDDING_DIM))
    pipe.save_pretrained(tmp_path)
    assert type(AudioCaptionPipeline.from_pretrained(tmp_path).link) is NestedBridge
    monkeypatch.setattr(NestedBridge, "__module__", "collections.abc")  # a package whose top level does not export it
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["link"] == ["collections.abc", "NestedBridge"]


def test_what_saving_cannot_do_is_refused(tmp_path):
    pipe = make_pipeline()
    (tmp_path / "file").write_text("")
    for folder, options in (
        ("a", {"push_to_hub": True}),
        ("a", {"variant": "fp16"}),
        ("a", {"dtype": "half"}),
        ("file", {}),
    ):
        with pytest.raises(InputError):
            pipe.save_pretrained(tmp_path / folder, **options)
    pipe.save_pretrained(tmp_path / "a", variant=None, push_to_hub=False)  # as PushToHubMixin calls it


def test_saving_over_another_pipeline_leaves_nothing_of_it(tmp_path):
    audio, plain = recordings(2), make_pipeline(seed=1, lora=False)
    make_pipeline(lora=True).save_pretrained(tmp_path)
    plain.save_pretrained(tmp_path)
    again = AudioCaptionPipeline.from_pretrained(tmp_path)
    assert again(audio, RATE).captions == plain(audio, RATE).captions
    again.save_pretrained(tmp_path)  # onto the files that its own weights came from
    assert AudioCaptionPipeline.from_pretrained(tmp_path)(audio, RATE).captions == plain(audio, RATE).captions


def edit_index(folder, **entries):
    index = json.loads((folder / "model_index.json").read_text())
    index = {k: v for k, v in {**index, **entries}.items() if v != "gone"}
    (folder / "model_index.json").write_text(json.dumps(index))


def damage(folder, how):
    import shutil

    if how.startswith("no "):
        shutil.rmtree(folder / how[3:])
    elif how == "index gone":
        (folder / "model_index.json").unlink()
    elif how == "index torn":
        (folder / "model_index.json").write_text('{"clap": [')
    elif how == "entry gone":
        edit_index(folder, decoder="gone")
    elif how == "required null":
        edit_index(folder, projector=[None, None])
    elif how == "other pipeline":
        edit_index(folder, _class_name="StableDiffusionPipeline")
    elif how == "other library":
        edit_index(folder, link=["evil_library", "Link"])
    elif how == "unknown class":
        edit_index(folder, link=["diffusion_link_hf", "Teleporter"])
    elif how == "model of another kind":
        edit_index(folder, link=["diffusers", "UNet2DModel"])
    elif how == "clap of another kind":
        edit_index(folder, clap=["transformers", "ClapModel"])
    elif how == "other scheduler":
        edit_index(folder, scheduler=["diffusers", "DDPMScheduler"])
    elif how == "clipping scheduler":
        config = folder / "scheduler" / "scheduler_config.json"
        config.write_text(config.read_text().replace('"clip_sample": false', '"clip_sample": true'))
    elif how == "instruction a number":
        (folder / "decoder" / "decoder_config.json").write_text('{"instruction": 5, "base": {"path": "base"}}')
    elif how == "torn weights":
        path = folder / "clap" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "empty weights":
        (folder / "link" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    elif how == "entry malformed":
        edit_index(folder, link="DiffusionLinkModel")
    elif how == "link width":
        make_link(EMBEDDING_DIM * 2).save_pretrained(folder / "link")
    elif how == "clap width":
        make_clap(embedding_dim=EMBEDDING_DIM * 2).save_pretrained(folder / "clap")
    elif how == "projector width":
        PrefixProjector(EMBEDDING_DIM, 99).save_pretrained(folder / "projector")
    elif how == "pickle":
        torch.save({}, folder / "projector" / "diffusion_pytorch_model.bin")
    else:
        path = folder / "projector" / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        name = sorted(weights)[0]
        if how == "missing weight":
            del weights[name]
        elif how == "extra weight":
            weights["surplus"] = torch.zeros(1)
        elif how == "nan weight":
            weights[name].view(-1)[0] = float("nan")
        save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "how",
    [
        "no clap",
        "no link",
        "no scheduler",
        "no projector",
        "no decoder",
        "index gone",
        "index torn",
        "entry gone",
        "required null",
        "other pipeline",
        "other library",
        "unknown class",
        "entry malformed",
        "link width",
        "clap width",
        "projector width",
        "pickle",
        "missing weight",
        "extra weight",
        "nan weight",
        "model of another kind",
        "clap of another kind",
        "other scheduler",
        "clipping scheduler",
        "instruction a number",
        "torn weights",
        "empty weights",
    ],
)
def test_damaged_folders_are_refused(tmp_path, how):
    make_pipeline().save_pretrained(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(ModelFolderError) as caught:
        AudioCaptionPipeline.from_pretrained(tmp_path)
    assert caught.value.remedy
    assert str(tmp_path) in str(caught.value)


def test_no_such_folder_or_repository(monkeypatch):
    with pytest.raises(ModelFolderError, match="no such folder"):
        AudioCaptionPipeline.from_pretrained("./nowhere")
    with pytest.raises(HubAccessError, match="not in the local cache"):
        AudioCaptionPipeline.from_pretrained("nobody/nothing", local_files_only=True)
    with pytest.raises(HubAccessError, match="neither a folder nor a Hub id"):
        AudioCaptionPipeline.from_pretrained("bad name!", local_files_only=True)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    pipe = make_pipeline()
    pipe.projector.layers[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelFolderError, match="NaN"):
        pipe.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="safetensors"):
        make_pipeline().save_pretrained(tmp_path, safe_serialization=False)


def test_from_config_builds_random_weights(tmp_path):
    make_pipeline(instruction="Say: ").save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    pipe = AudioCaptionPipeline.from_config(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.decoder.instruction == "Say: "
    assert pipe(recordings(1)[0], RATE).errors == [None]
    assert AudioCaptionPipeline.from_config(tmp_path, decoder={"hidden_size": 32}).projector.config.hidden_size == 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda(dtype):
    pipe = make_pipeline().to("cuda", dtype)
    assert pipe(recordings(3), RATE).errors == [None] * 3
    offloaded = make_pipeline()
    offloaded.enable_model_cpu_offload()
    assert offloaded(recordings(3), RATE).errors == [None] * 3


def test_offloading_hooks_fire_for_every_component(pipe, monkeypatch):
    """Accelerate's hooks move a component in before it is used; `bridge` and `generate` are not `forward`."""

    class Hook:
        def __init__(self):
            self.calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    hooks = {name: Hook() for name in ("link", "decoder")}
    for name, hook in hooks.items():
        monkeypatch.setattr(getattr(pipe, name), "_hf_hook", hook, raising=False)
    pipe(recordings(1)[0], RATE)
    assert all(hook.calls for hook in hooks.values())


def test_adapter_survives_the_pipeline(tmp_path):
    """diffusers itself loses a PEFT model without a word."""
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path)
    adapter = load_file(tmp_path / "decoder" / "adapter_model.safetensors")
    assert len(adapter) == 8
    assert any(tensor.abs().max() > 0.1 for name, tensor in adapter.items() if "lora_B" in name)
    assert make_decoder().has_adapter
