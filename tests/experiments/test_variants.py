"""Experiments from YAML: what is read, what is refused, that the shipped ones are valid, and their reports."""

import json
from pathlib import Path

import pytest

from diffusion_link_hf.commands import gap
from diffusion_link_hf.errors import InputError, RecipeError
from diffusion_link_hf.experiments.variants import Variant, read_experiment
from support.commands import run, write_pairs

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "examples/experiments").glob("*.yaml"))
TWO = """
title: Steps
variants:
  - {name: "five: 5/5", method: diffusion-link, train: {model: {width: 16}}}
  - {name: one, method: diffusion-link, train: {model: {width: 16}}, sample: {num_inference_steps: 1}}
  - {name: wide, method: diffusion-link, train: {model: {width: 32}, steps: 3}}
"""


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
    assert {"topology", "reductions", "scale", "sampling_steps", "width"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1", "cannot be read"),
        ("variants: []", "no experiment"),
        ("title: x\nother: 1", "no experiment"),
        ("title: x\nvariants: []", "variants"),
        ("title: x\nvariants: [1]", "variant 1"),
        ("title: x\nvariants: [{method: ridge}]", "name"),
        ("title: x\nvariants: [{name: a, method: teleport}]", "teleport"),
        ("title: x\nvariants: [{name: a, method: ridge, train: {seed: 1}}]", "train.seed"),
        ("title: x\nvariants: [{name: a, method: ridge, train: [1]}]", "train"),
        ("title: x\nvariants: [{name: a, method: seed, sample: {eta: 1}}]", "sample.eta"),
        ("title: x\nvariants: [{name: a, method: ridge}, {name: a, method: mlp}]", "second 'a'"),
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
    with pytest.raises(InputError, match="second 'ridge'"):
        run(gap, "--embeddings", "x", "--variants", write(tmp_path, text), "--output", tmp_path, "--no-figures")
