"""Folders, caches, checkpoints and recipes from before the package was reorganised: they load and behave as they did.

What is in ``FIXTURES`` was written by commit 4db93ea; see README.md and make_fixtures.py there, which takes its
expectations from the ``observe_*`` functions below.
"""

import dataclasses
import importlib.util
import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import diffusion_link_hf
from diffusion_link_hf import (
    AudioCaptionPipeline,
    BridgeModel,
    DiffusionLinkPipeline,
    EmbeddingCache,
    EmbeddingPairs,
    PrefixProjector,
    load_audio,
    split_windows,
)
from diffusion_link_hf.cli import main as command_line

HERE = Path(__file__).resolve().parent
PLACES = (HERE, HERE / "fixtures", HERE / "fixtures" / "before_the_move")
FIXTURES = next((folder for folder in PLACES if (folder / "expected.json").is_file()), HERE)
REPOSITORY = Path(diffusion_link_hf.__file__).resolve().parents[2]

# Fields of recipes that have another name by now: old name → new one, "loss.name" for one in a mapping.
RENAMED = {n: f"loss.{n}" for n in ("topology_weight", "topology_source", "topology_reduction", "text_to_text")}
REWORDED = {("mode", "text_only"): "zeroshot"}

LINKS = (
    "identity",
    "centring",
    "ridge",
    "procrustes",
    "text_subspace",
    "memory",
    "memory_top_k",
    "regression",
    "regression_over_ridge",
    "diffusion_bridge",
    "diffusion_bridge_unet",
    "diffgap",
    "seed",
    "diffusion_link",
)
STAGES = ("link", "bridge", "decoder")
WIDTH = 16  # of the links' embeddings; those of the pipeline and the cache are 32 wide
INSTRUCTION = "describe "
CAPTIONS = ("a dog barks", "rain", "a bell rings twice", "wind and a clock", "two people talk", "an engine")
EMBED = ("embed", "--data", "sounds", "--clap", "adapter_pipeline/clap", "--output", "cache", "--device", "cpu")
EMBED_OPTIONS = ("--shard-size", "3", "--batch-size", "4", "--num-workers", "0", "--quiet")

FRONT_END = {"sampling_rate": 48_000, "n_fft": 1024, "hop_length": 480, "num_mel_bins": 64}
FRONT_END |= {"frequency_min": 50, "frequency_max": 14_000, "mel_scale": "slaney"}

CLOSE = 1e-5  # absolute, of entries of unit rows; another processor rounds differently
# ‖a − b‖ / ‖b‖ of a tensor that was trained some steps further. Other kernels of the same processor make it 3e-7; one
# moment of Adam that is lost or another tensor's, or dropout drawn otherwise, above 2e-3.
TRAINED_CLOSE = 1e-4

cpu_only = pytest.mark.skipif(torch.accelerator.is_available(), reason="expected weights were trained on a CPU")


def rows(count: int, width: int) -> torch.Tensor:
    """(count, width) float32 of various norms, by a formula."""
    i, j = np.arange(1, count + 1)[:, None], np.arange(1, width + 1)[None]
    return torch.from_numpy(i * np.sin(0.7 * i * j + i + 0.01 * j * j)).float()


def sound(k: int, seconds: float, rate: int) -> np.ndarray:
    """(n,) float32: a rising and a steady tone, the latter switched on and off."""
    t = np.arange(int(seconds * rate)) / rate
    rising = np.sin(2 * np.pi * (150 * (k + 1) * t + 400 * (k % 3) * t * t))
    steady = np.sin(2 * np.pi * 2100 / (k + 1) * t) * (np.sin(2 * np.pi * (k + 2) * t) > 0)
    return (0.3 * rising + 0.2 * steady).astype(np.float32)


def sounds() -> list[dict]:
    """Recordings for the pipeline, of three sampling rates; the second one has two windows of ten seconds."""
    sizes = ((1.0, 48_000), (12.0, 48_000), (2.0, 16_000), (3.0, 44_100))
    return [{"array": sound(k, *size), "sampling_rate": size[1]} for k, size in enumerate(sizes)]


def write_sounds(folder: Path) -> None:
    """The data set that the cache was made of: six recordings with two captions each."""
    folder.mkdir()
    lines = ["file_name,caption"]
    for k, caption in enumerate(CAPTIONS):
        with wave.open(str(folder / f"{k}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((32_000 * sound(k, 0.25, 16_000)).astype("<i2").tobytes())
        lines += [f"{k}.wav,{caption}", f"{k}.wav,once more {caption}"]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def observe_bridging(pipe: AudioCaptionPipeline) -> dict[str, torch.Tensor]:
    """Fixed embeddings through a pipeline's link."""
    fixed = rows(4, pipe.clap.embedding_dim)
    return {f"bridged_{modality}": pipe.bridge(fixed, modality) for modality in ("audio", "text")}


def observe_pipeline(pipe: AudioCaptionPipeline) -> tuple[dict[str, torch.Tensor], dict[str, list]]:
    """Embeddings, and texts, that a small pipeline makes of fixed inputs."""
    windows = [w for item in sounds() for w in split_windows(load_audio(item["array"], item["sampling_rate"]))]
    embeds = pipe.encode_audio(windows)
    tensors = {
        "clap_audio": embeds,
        "clap_text": pipe.clap.encode_text(list(CAPTIONS)),
        "bridged_windows": pipe.bridge(embeds),
        **observe_bridging(pipe),
    }
    said = quiet(pipe)(sounds(), max_new_tokens=12)
    return tensors, {"captions": said.captions, "windows": [[s.text for s in own] for own in said.segments]}


def observe_link(link: BridgeModel) -> dict[str, torch.Tensor]:
    """Fixed embeddings through a link, as configured and with options."""
    fixed = rows(4, link.config.embedding_dim)
    found = {modality: link.bridge(fixed, modality) for modality in ("audio", "text")}
    options = {"num_inference_steps": 3, "noise_timestep": 200, "add_noise": True}
    for modality in ("audio", "text"):
        generator = torch.Generator().manual_seed(5)
        found[f"{modality}_noised"] = link.bridge(fixed, modality, generator=generator, **options)
    found["target"] = link.target(fixed)
    if hasattr(link, "bridge_to_audio"):
        found["to_audio"] = link.bridge_to_audio(fixed)
    return found


def observe_decoder(folder: Path) -> dict[str, torch.Tensor]:
    """What a trained projector makes of fixed embeddings, and the adapter beside it."""
    projector = PrefixProjector.from_pretrained(folder / "projector").eval()
    with torch.no_grad():
        prefix = projector(rows(4, projector.config.embedding_dim))
    return {"prefix": prefix, **load_file(folder / "decoder" / "adapter_model.safetensors")}


def observe_cache(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """A cache's contents."""
    cache = EmbeddingCache.load(folder)
    tensors = {name: getattr(cache, name) for name in ("audio", "text", "caption_audio")}
    return tensors, {
        "captions": cache.captions,
        "audio_names": cache.audio_names,
        "fingerprint": cache.fingerprint,
        "pairs_fingerprint": EmbeddingPairs.load(folder).fingerprint,
        "manifest": {key: value for key, value in cache.manifest.items() if key != "shards"},
        "shards": [shard["recordings"] for shard in cache.manifest["shards"]],
    }


def observe_recipe(path: Path) -> dict:
    """All fields of a recipe, defaults among them."""
    return dataclasses.asdict(load_recipe(path))


def load_recipe(path: Path):
    """Of the package; until that exports it, by way of the script that trains from recipes."""
    return (diffusion_link_hf if "load_recipe" in diffusion_link_hf.__all__ else training_script()).load_recipe(path)


def train(recipe: str) -> int:
    """As ``python examples/train.py recipe``, in this process; returns the exit status."""
    return training_script().main([recipe])


def training_script():
    """``examples/train.py`` as a module."""
    spec = importlib.util.spec_from_file_location("train", REPOSITORY / "examples" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected_tensors(name: str, file: str = "expected.safetensors") -> dict[str, torch.Tensor]:
    prefix = f"{name}/"
    found = load_file(FIXTURES / file)
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}


def expected_texts(name: str, file: str = "expected.json"):
    return json.loads((FIXTURES / file).read_text(encoding="utf-8"))[name]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=CLOSE, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def difference(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest ‖a − b‖ / ‖b‖ of the tensors of one name, as training leaves them."""
    assert set(found) == set(expected)
    apart = [((found[name] - value).double().norm() / value.double().norm()).item() for name, value in expected.items()]
    return max(apart)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A working folder with a copy of the fixtures' pipeline and cache, which recipes name by relative paths."""
    for name in ("adapter_pipeline", "cache"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_saved_pipeline_captions_as_before(tmp_path):
    """LoRA decoder with its base in the folder, float16 files; and once more after it was saved anew."""
    pipe = AudioCaptionPipeline.from_pretrained(FIXTURES / "adapter_pipeline")
    assert pipe.decoder.has_adapter
    assert pipe.decoder.instruction == INSTRUCTION
    pipe.save_pretrained(tmp_path)
    for each in (pipe, AudioCaptionPipeline.from_pretrained(tmp_path)):
        tensors, texts = observe_pipeline(each)
        assert_close(tensors, expected_tensors("adapter_pipeline"))
        assert texts == expected_texts("adapter_pipeline")


def test_the_index_of_a_pipeline_names_the_old_class(tmp_path):
    """A link of mean-centring, whose class is spelled otherwise by now, through model_index.json."""
    pipe = DiffusionLinkPipeline.from_pretrained(FIXTURES / "centring_pipeline")
    pipe.save_pretrained(tmp_path)
    for each in (pipe, DiffusionLinkPipeline.from_pretrained(tmp_path)):
        found = {modality: each(rows(4, WIDTH), modality).embeds for modality in ("audio", "text")}
        expected = expected_tensors("links/centring")
        assert_close(found, {modality: expected[modality] for modality in found})


def test_all_saved_links_are_tested():
    assert sorted(path.name for path in (FIXTURES / "links").iterdir()) == sorted(LINKS)


@pytest.mark.parametrize("name", LINKS)
def test_a_saved_link_bridges_as_before(name, tmp_path):
    link = BridgeModel.from_pretrained(FIXTURES / "links" / name)
    assert_close(observe_link(link), expected_tensors(f"links/{name}"))
    link.save_pretrained(tmp_path)
    assert_close(observe_link(BridgeModel.from_pretrained(tmp_path)), expected_tensors(f"links/{name}"))


def test_a_cache_holds_what_it_held():
    tensors, texts = observe_cache(FIXTURES / "cache")
    expected = expected_tensors("cache")
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    assert texts == expected_texts("cache")


@pytest.mark.parametrize("finished", [True, False])
def test_embedding_goes_on_in_a_cache(room, finished, capsys):
    """The same command again: a whole cache stays as it is, in one that lacks a shard the others do."""
    write_sounds(room / "sounds")
    if not finished:
        for path in ((room / "cache").glob("shard-00001.*"), [room / "cache" / "manifest.json"]):
            for file in path:
                file.unlink()
    kept = {path: path.read_bytes() for path in (room / "cache").iterdir()}
    assert command_line([*EMBED, *EMBED_OPTIONS]) == 0, capsys.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept
    tensors, texts = observe_cache(room / "cache")
    assert_close(tensors, expected_tensors("cache"))
    added = {key: texts["manifest"].pop(key, None) for key in ("front_end", "captions_left_out")}
    assert finished or added == {"front_end": FRONT_END, "captions_left_out": []}  # manifests tell that by now
    expected = expected_texts("cache")
    hashes = set() if finished else {"fingerprint", "pairs_fingerprint"}  # a last bit may differ elsewhere
    assert {k: v for k, v in texts.items() if k not in hashes} == {k: v for k, v in expected.items() if k not in hashes}


@cpu_only
@pytest.mark.parametrize("begun", [True, False], ids=["resumed", "anew"])
@pytest.mark.parametrize("stage", STAGES)
def test_training_ends_as_before(room, stage, begun):
    """From the checkpoint of a run that was killed, by its recipe; and from the first step, by the recorded one."""
    fixture = FIXTURES / f"{stage}_checkpoint"
    shutil.copy(fixture / ("recipe.yaml" if begun else "final/recipe.yaml"), room / "recipe.yaml")
    if begun:
        shutil.copytree(fixture / "output", room / "output")
        (checkpoint,) = (room / "output" / "checkpoints").iterdir()
        assert 0 < json.loads((checkpoint / "identity.json").read_text())["step"] < expected_texts(f"{stage}_steps")
    assert train("recipe.yaml") == 0
    assert json.loads((room / "output" / "metrics.json").read_text())["steps"] == expected_texts(f"{stage}_steps")
    if stage == "decoder":
        assert isinstance(quiet(AudioCaptionPipeline.from_pretrained("output"))(sounds()[0]).captions[0], str)
        found, final = (observe_decoder(folder) for folder in (room / "output", fixture / "final"))
        assert_close(final, expected_tensors("decoder_checkpoint"))
        assert difference(found, final) < TRAINED_CLOSE
    else:
        link, final = (BridgeModel.from_pretrained(folder / "link") for folder in (room / "output", fixture / "final"))
        assert_close(observe_link(final), expected_tensors(f"{stage}_checkpoint"))
        assert difference(observe_link(link), observe_link(final)) < TRAINED_CLOSE
        assert difference(link.state_dict(), final.state_dict()) < TRAINED_CLOSE


def test_a_checkpoint_of_another_recipe_is_refused_still(room, capsys):
    """So that what resumes above does so because it belongs to the recipe, not because nothing is compared."""
    shutil.copytree(FIXTURES / "link_checkpoint" / "output", room / "output")
    recipe = yaml.safe_load((FIXTURES / "link_checkpoint" / "recipe.yaml").read_text())
    (room / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"learning_rate": 0.25}))
    assert train("recipe.yaml") != 0
    assert "learning_rate" in capsys.readouterr().err


def recipe_files() -> list[str]:
    return sorted(str(path.relative_to(FIXTURES)) for path in FIXTURES.rglob("*.yaml"))


@pytest.mark.parametrize("name", recipe_files())
def test_a_recipe_says_what_it_said(name):
    """Every field but the stage, whose name may change; what it trains is tested above."""
    args = load_recipe(FIXTURES / name)
    for field, value in expected_texts("recipes")[name].items():
        if field == "stage":
            continue
        found = args
        for part in RENAMED.get(field, field).split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        assert found == (REWORDED.get((field, value), value) if isinstance(value, str) else value), field
