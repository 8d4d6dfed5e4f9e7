"""What of a folder is published, and what is refused."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffusion_link_hf.embeddings.shards import FORMAT
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.hub.card import PipelineCard
from diffusion_link_hf.hub.contents import collect, parameter_count, refuse_local_paths
from diffusion_link_hf.loading import default_pipeline_folder
from support.models import make_pipeline


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A run: the pipeline, what training writes beside it, and what lies about."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "metrics.json").write_text('{"link": 0.9, "clap": {"id": "laion/x"}}')
    (folder / "recipe.yaml").write_text("# torch 2.13\nstage: link\ncache: runs/cache\nlearning_rate: 1.0e-4\n")
    for name in ("checkpoints/step-00000001/state.pt", "logs/events", "notes.md", ".hidden", "clap/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "LICENSE").write_text("Apache")
    return folder


def test_everything_that_loads_and_the_record(folder, whole):
    contents = collect(folder)
    weights = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert set(contents.files) == weights | {"metrics.json", "recipes/link.yaml", "LICENSE"}
    assert all(path.is_file() for path in contents.files.values())
    assert contents.recipes["link"]["learning_rate"] == 1e-4
    assert contents.metrics["link"] == 0.9
    assert contents.components == ["clap", "link", "scheduler", "projector", "decoder"]


def test_what_stays_is_named(folder):
    assert set(collect(folder).left_out) == {"checkpoints/", "logs/", "notes.md", ".hidden", "clap/.DS_Store"}


def test_the_run_says_what_it_was_trained_on(folder, tmp_path, monkeypatch):
    """The bridge's recipe, through the decoder's; and the data set, through either's embedding cache."""
    monkeypatch.chdir(tmp_path)
    (folder / "recipe.yaml").write_text("stage: decoder\nlink: runs/bridge/link\ncache: runs/cache\n")
    bridge = tmp_path / "runs" / "bridge"
    (bridge / "link").mkdir(parents=True)
    (bridge / "recipe.yaml").write_text("stage: bridge\ncache: runs/local\nseed: 3\n")
    for cache, name in (("cache", "me/sounds@0a1b"), ("local", "clips")):
        (tmp_path / "runs" / cache).mkdir()
        (tmp_path / "runs" / cache / "manifest.json").write_text(json.dumps({"format": FORMAT, "data": name}))
    contents = collect(folder)
    assert contents.recipes["bridge"]["seed"] == 3
    assert "recipes/bridge.yaml" in contents.files
    assert contents.datasets == ("me/sounds",)
    (tmp_path / "mine.yaml").write_text("stage: bridge\nseed: 4\n")
    contents = collect(folder, [tmp_path / "mine.yaml"])
    assert contents.recipes["bridge"]["seed"] == 4
    assert PipelineCard.of(contents, "me/model").datasets == ["me/sounds"]
    assert PipelineCard.of(contents, "me/model", datasets=["a/b"]).datasets == ["a/b"]


def test_what_the_training_wrote_down_needs_neither_cache_nor_link(folder, tmp_path):
    """Both may be gone, or on another machine, when the pipeline is published."""
    (folder / "recipe.yaml").write_text("# trained on: me/sounds@0a1b\nstage: decoder\nlink: gone/link\ncache: gone\n")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "bridge.yaml").write_text("# trained on: me/others@2c\nstage: bridge\nseed: 3\n")
    contents = collect(folder)
    assert contents.datasets == ("me/others", "me/sounds")
    assert {name for name in contents.files if name.startswith("recipes/")} == {
        "recipes/bridge.yaml",
        "recipes/decoder.yaml",
    }
    (tmp_path / "mine.yaml").write_text("stage: bridge\nseed: 4\n")
    contents = collect(folder, [tmp_path / "mine.yaml"])
    assert contents.recipes["bridge"]["seed"] == 4
    assert contents.datasets == ("me/sounds",)


def test_recipes_of_other_stages(folder, tmp_path):
    (tmp_path / "decoder.yaml").write_text("stage: decoder\n")
    assert set(collect(folder, [tmp_path / "decoder.yaml"]).recipes) == {"link", "decoder"}
    (tmp_path / "decoder.yaml").write_text("stage: link\n")
    with pytest.raises(InputError, match="a second recipe of the link stage"):
        collect(folder, [tmp_path / "decoder.yaml"])
    for text in ("a: [", "- 1", "a: 1"):
        (tmp_path / "decoder.yaml").write_text(text)
        with pytest.raises(InputError, match=r"decoder\.yaml"):
            collect(folder, [tmp_path / "decoder.yaml"])


def test_the_embedded_pipeline_can_be_published():
    contents = collect(default_pipeline_folder())
    assert {"ATTRIBUTION.txt", "recipes/bridge.yaml", "recipes/decoder.yaml"} <= set(contents.files)
    assert contents.left_out == ()


@pytest.mark.parametrize("name", ["weights.bin", "clap/a.pt", "decoder/base/b.PKL", "old/c.ckpt"])
def test_pickles_are_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    with pytest.raises(ModelFolderError, match="is a pickle"):
        collect(folder)


@pytest.mark.parametrize("name", ["decoder/checkpoints", "link/step-00000100", "projector/checkpoint-5"])
def test_checkpoints_inside_a_component_are_refused(folder, name):
    (folder / name).mkdir()
    with pytest.raises(ModelFolderError, match="checkpoints"):
        collect(folder)


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step-00000001"])
def test_a_checkpoint_is_no_pipeline(folder, name):
    with pytest.raises(ModelFolderError, match="holds training checkpoints"):
        collect(folder / name)


def test_what_is_no_pipeline_folder(folder, tmp_path):
    with pytest.raises(ModelFolderError, match="no such folder"):
        collect(tmp_path / "nowhere")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ModelFolderError, match="StableDiffusionPipeline"):
        collect(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelFolderError, match="is missing"):
        collect(folder)


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("text", ['{"link": %s}', '{"a": [1, {"b": %s}]}'])
def test_figures_that_are_not_finite_are_refused(folder, figure, text):
    (folder / "metrics.json").write_text(text % figure)
    with pytest.raises(ModelFolderError, match=r"metrics\.json: has (link|a\[1\]\.b) = -?(nan|inf)"):
        collect(folder)


def test_a_recipe_that_is_not_finite_is_refused(folder):
    (folder / "recipe.yaml").write_text("stage: link\nmodel: {scale: .nan}\n")
    with pytest.raises(ModelFolderError, match=r"model\.scale = nan"):
        collect(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.json", json.dumps({"clap": {"id": "/home/me/clap"}})),
        ("decoder/decoder_config.json", json.dumps({"base": {"path": "base"}, "note": r"C:\models\llama"})),
        ("link/config.json", json.dumps({"_name_or_path": "~/runs/link"})),
        ("recipe.yaml", "stage: link\ncache: /data/cache\n"),
        ("recipe.yaml", "# trained in /home/me/runs\nstage: link\n"),
        ("LICENSE", "see file:///usr/share/LICENSE"),
    ],
)
def test_local_paths_are_refused(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(ModelFolderError, match=rf"{name.split('/')[-1]}: names a path of this machine"):
        collect(folder)


@pytest.mark.parametrize(
    "text",
    [
        "see https://huggingface.co/laion/larger_clap_general and http://a.b/c/d",
        "Trained on laion/larger_clap_general, and/or runs/tiny/cache; 80.0 / 34.7 / 71.0 %",
        "48 kHz/16 bit; d/dx; (1/2/3); :/ ; a:b; AudioCaps/Clotho",
        "<s> </s> [link](recipes/link.yaml) `examples/tiny/build.py`",
    ],
)
def test_what_only_looks_like_a_path_passes(text):
    refuse_local_paths("text", text)


_PART = st.text("abcXYZ019_.-", min_size=1, max_size=8)


@given(st.lists(_PART, min_size=2, max_size=4), st.sampled_from(["", "in ", '"', "cache: ", "(", "`"]))
def test_every_absolute_path_is_found(parts, before):
    with pytest.raises(ModelFolderError, match="names a path"):
        refuse_local_paths("text", f"{before}/{'/'.join(parts)}")


def test_torn_weights_are_not_counted(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert parameter_count(tmp_path / "w.safetensors") == 14
    whole = (tmp_path / "w.safetensors").read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        (tmp_path / "w.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelFolderError, match=r"w\.safetensors: cannot be read"):
            parameter_count(tmp_path / "w.safetensors")
