"""Experiments from YAML: what is read, what is refused, that the shipped ones are valid, and their reports."""

import json
from pathlib import Path

import pytest

from diffusion_link_hf.commands import gap
from diffusion_link_hf.errors import InputError, RecipeError
from diffusion_link_hf.experiments import gap as experiment
from diffusion_link_hf.experiments.variants import Variant, read_experiment
from support.bridges import make_bridge
from support.commands import run, write_pairs

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "examples/experiments").glob("*.yaml"))
TWO = """
title: Steps
variants:
  - {name: "five: 5/5", method: diffusion-link, train: {model: {width: 16}}}
  - {name: one, method: diffusion-link, train: {model: {width: 16}}, sample: {num_inference_steps: 1}}
  - {name: wide, method: diffusion-link, train: {model: {width: 32}, steps: 3}}
"""
GRID = "{noise_timestep: [3, 100], num_inference_steps: [1, 5], add_noise: [true, false]}"
EMPTY_GRID = "{noise_timestep: [4], num_inference_steps: [5], add_noise: [true]}"


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


def test_an_experiment_is_read(tmp_path):
    experiment = read_experiment(write(tmp_path, TWO))
    assert experiment.title == "Steps"
    assert experiment.variants[0] == Variant("five: 5/5", "diffusion-link", {"model": {"width": 16}})
    assert experiment.variants[1].sample == {"num_inference_steps": 1}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_experiments_are_valid(path):
    assert len(read_experiment(path).variants) >= 3


def test_there_are_shipped_experiments():
    assert {"topology", "reductions", "scale", "sampling_steps", "sweep", "width"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1", "cannot be read"),
        ("variants: []", "not an experiment"),
        ("title: x\nother: 1", "not an experiment"),
        ("title: x\nvariants: []", "variants"),
        ("title: x\nvariants: [1]", "variant 1"),
        ("title: x\nvariants: [{method: ridge}]", "name"),
        ("title: x\nvariants: [{name: a, method: teleport}]", "teleport"),
        ("title: x\nvariants: [{name: a, method: ridge, train: {seed: 1}}]", "train.seed"),
        ("title: x\nvariants: [{name: a, method: ridge, train: [1]}]", "train"),
        ("title: x\nvariants: [{name: a, method: seed, sample: {eta: 1}}]", "sample.eta"),
        ("title: x\nvariants: [{name: a, method: ridge}, {name: a, method: mlp}]", "name 'a' twice"),
        ("title: x\nvariants: [{name: a, bridge: b, method: mlp}]", "bridge"),
        ("title: x\nvariants: [{name: a, bridge: 1}]", "bridge"),
        (f"title: x\nvariants: [{{name: a, method: seed, sample: {{add_noise: true}}, grid: {GRID}}}]", "both"),
        (f"title: x\nvariants: [{{name: a, method: mlp, grid: {GRID}}}]", r"no timesteps"),
        ("title: x\nvariants: [{name: a, method: seed, grid: {noise_timestep: [1]}}]", "grid.num_inference_steps"),
        (f"title: x\nvariants: [{{name: a, method: seed, grid: {GRID.replace('100', '1001')}}}]", "has 1001"),
        (f"title: x\nvariants: [{{name: a, method: seed, grid: {GRID.replace('3,', '0,')}}}]", "has 0"),
        (f"title: x\nvariants: [{{name: a, method: seed, grid: {EMPTY_GRID}}}]", "more than any"),
        (f"title: x\nvariants: [{{name: a, method: seed, grid: {GRID.replace('true', 'maybe')}}}]", "has 'maybe'"),
    ],
)
def test_what_is_no_experiment_is_refused(text, words, tmp_path):
    with pytest.raises(RecipeError, match=words) as caught:
        read_experiment(write(tmp_path, text))
    assert caught.value.remedy


def test_a_report_of_variants_trains_each_training_once(tmp_path):
    data, output = write_pairs(tmp_path), tmp_path / "report"
    run(
        gap, "--embeddings", data, "--variants", write(tmp_path, TWO), "--seeds", 0, "--output", output,
        "--no-figures", "--keep-bridges", "--resamples", 20, "--train-steps", 2, "--batch-size", 8, "--held-out", 0.3,
        "--kl-components", 4, "--quiet",
    )  # fmt: skip
    document = json.loads((output / "results.json").read_text())
    assert list(document["methods"]) == ["identity", "centering", "ridge", "five: 5/5", "one", "wide"]
    trained = {path.parent.name for path in (output / "bridges").glob("*/seed0")}
    assert trained == {"identity", "centering", "ridge", "five_5_5", "wide"}
    methods = document["methods"]
    assert methods["one"]["differs_in"] == {"model": {"width": 16}, "num_inference_steps": 1}
    assert methods["one"]["figures"] != methods["five: 5/5"]["figures"]
    assert methods["wide"]["steps"] == 3
    assert "five: 5/5" in methods["wide"]["minus"]
    report = (output / "report.md").read_text()
    assert report.startswith("# Steps\n")
    assert "num_inference_steps 1" in report


def test_a_variant_may_not_take_the_name_of_a_baseline(tmp_path):
    text = "title: x\nvariants: [{name: ridge, method: mlp}]"
    with pytest.raises(InputError, match="name 'ridge' twice"):
        run(gap, "--embeddings", "x", "--variants", write(tmp_path, text), "--output", tmp_path, "--no-figures")


def test_a_grid_holds_every_combination_that_exists(tmp_path):
    text = f"title: x\nvariants: [{{name: link, method: diffusion-link, train: {{steps: 3}}, grid: {GRID}}}]"
    variants = read_experiment(write(tmp_path, text)).variants
    points = {tuple(variant.sample.values()) for variant in variants}
    assert points == {(s, n, noised) for s, n in ((3, 1), (100, 1), (100, 5)) for noised in (True, False)}
    assert len(variants) == len({variant.name for variant in variants}) == len(points)
    assert {(variant.group, variant.method, variant.train["steps"]) for variant in variants} == {
        ("link", "diffusion-link", 3)
    }


def test_a_grid_is_trained_once_and_measured_at_every_point(tmp_path):
    pytest.importorskip("matplotlib")
    text = f"""
title: Grid
variants:
  - {{name: diffusion-link, method: diffusion-link, train: {{model: {{width: 16}}}}, grid: {GRID}}}
  - {{name: deep, method: diffusion-link, train: {{model: {{width: 16}}}}, sample: {{noise_timestep: 100}}}}
"""
    document = experiment.gap(
        write_pairs(tmp_path), tmp_path / "report", variants=write(tmp_path, text), seeds=[0], steps=2, batch_size=8,
        held_out=0.3, names=("audio", "text"), resamples=20, kl_components=4, keep_bridges=True, projection="pca",
    )  # fmt: skip
    trained = {path.parent.name for path in (tmp_path / "report/bridges").glob("*/seed0")}
    assert trained == {"identity", "centering", "ridge", "diffusion-link"}
    assert [point["row"] for point in document["grid"]] == list(document["methods"])[3:9]
    figures = {point["row"]: document["methods"][point["row"]]["figures"] for point in document["grid"]}
    assert len({one["matched_audio"]["value"] for one in figures.values()}) > 3
    # A point is what the same bridge gives with these options.
    assert figures["diffusion-link, s* = 100, 5 steps, noised"] == document["methods"]["deep"]["figures"]
    report = (tmp_path / "report/report.md").read_text()
    assert "(the paper's Table 2)" in report
    assert "| diffusion-link | 100 | 5 | yes |" in report
    table = report.split("Table 2)")[1].split("##")[0]
    assert table.count("| 0.688 |") == 1
    assert "![matched_cosine_by_timestep](matched_cosine_by_timestep.svg)" in report
    assert (tmp_path / "report/recall_by_timestep.svg").is_file()


def test_a_grid_of_a_fitted_bridge(tmp_path, monkeypatch):
    make_bridge("diffusion-link").save_pretrained(tmp_path / "link")
    make_bridge("ridge").save_pretrained(tmp_path / "ridge")
    common = {"seeds": [0], "held_out": 0.3, "resamples": 20, "kl_components": 4, "figures": False}

    def gap(name):
        text = f"title: x\nvariants: [{{name: mine, bridge: '{tmp_path / name}', grid: {GRID}}}]"
        return experiment.gap(write_pairs(tmp_path), tmp_path / "report", variants=write(tmp_path, text), **common)

    document = gap("link")
    assert [point["method"] for point in document["grid"]] == [None] * 6
    assert document["methods"][document["grid"][0]["row"]]["steps"] is None
    monkeypatch.setattr(experiment, "fit_bridges", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(RecipeError, match=r"no timesteps"):
        gap("ridge")
