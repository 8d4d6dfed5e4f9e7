"""``diffusion-link gap`` from a file to a report: contents, repetition, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch

from diffusion_link_hf.bridges.linear import LinearBridge
from diffusion_link_hf.commands import gap
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, DiffusionLinkError, InputError, ModelFolderError, RecipeError
from diffusion_link_hf.experiments import gap as experiment
from diffusion_link_hf.experiments.choices import ALWAYS_FITTED, SLOW, DataChoice
from diffusion_link_hf.experiments.data import check_same_space, split_pairs
from diffusion_link_hf.experiments.methods import chosen_methods
from support.commands import parse, run, write_pairs
from support.models import EMBEDDING_DIM

QUICK = ["--resamples", 20, "--train-steps", 2, "--batch-size", 8, "--held-out", 0.3, "--kl-components", 4, "--quiet"]


def test_a_report_of_methods_and_fitted_bridges(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data = write_pairs(tmp_path)
    pairs = EmbeddingPairs.load(data)
    bridge = LinearBridge(EMBEDDING_DIM, "procrustes").fit(pairs.source, pairs.target)
    bridge.save_pretrained(tmp_path / "pipeline" / "link")
    bridge.save_pretrained(tmp_path / "alone")
    output = tmp_path / "report"
    arguments = ["--embeddings", data, "--methods", "mlp", "--seeds", 0, 1, "--projection", "pca", "--output", output]
    given = ["--model", tmp_path / "pipeline", "--bridge", f"mine={tmp_path / 'alone'}", "--picture", "mine", "ridge"]
    assert run(gap, *arguments, *given, *QUICK) == 0
    assert capsys.readouterr().out.strip() == str(output / "report.md")
    document = json.loads((output / "results.json").read_text())
    assert list(document["methods"]) == ["identity", "centering", "ridge", "mlp", "mine", "model"]
    assert document["methods"]["mlp"]["seeds"] == [0, 1]
    assert document["methods"]["mlp"]["steps"] == 2
    assert document["methods"]["mine"]["steps"] is None
    assert document["methods"]["mine"]["figures"] == document["methods"]["model"]["figures"]
    assert document["data"]["held_out_recordings"] == 36
    assert document["data"]["train_recordings"] == 84
    assert document["data"]["name"] == "pairs.safetensors"
    report = (output / "report.md").read_text()
    for picture in ("map_mine.svg", "heat_map_mine.svg", "map_ridge.svg", "heat_map_ridge.svg"):
        assert f"({picture})" in report
        assert (output / picture).stat().st_size > 1000
    assert str(tmp_path) not in report + json.dumps(document)
    assert not (output / "bridges").exists()


def test_the_same_arguments_give_the_same_files_but_for_times(tmp_path):
    data = write_pairs(tmp_path)
    documents = []
    for name in "ab":
        arguments = [
            "--embeddings",
            data,
            "--methods",
            "diffusion-link",
            "--seeds",
            3,
            "--no-figures",
            "--keep-bridges",
        ]
        run(gap, *arguments, "--output", tmp_path / name, *QUICK)
        documents.append(json.loads((tmp_path / name / "results.json").read_text()) | {"times": None})
    assert documents[0] == documents[1]
    reports = [(tmp_path / name / "report.md").read_text().split("## Times")[0] for name in "ab"]
    assert reports[0] == reports[1]
    weights = [
        tmp_path / name / "bridges/diffusion-link/seed3/link/diffusion_pytorch_model.safetensors" for name in "ab"
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_no_recording_is_on_both_sides(tmp_path):
    choice = DataChoice(write_pairs(tmp_path), held_out=0.2, limit=50)
    train, held_out, data = split_pairs(choice, tmp_path)
    assert len(train.group.unique()) == data["train_recordings"] == 40
    assert len(held_out.group.unique()) == 10
    assert not torch.isin(train.group, held_out.group).any()
    assert len(train.group) + len(held_out.group) == 100
    back = split_pairs(replace(choice, reverse=True), tmp_path)[0]
    assert torch.equal(back.source, train.target)


def test_test_data_of_their_own_are_measured_and_not_trained_on(tmp_path):
    pairs = EmbeddingPairs.load(write_pairs(tmp_path))
    train, test = pairs.split(0.3, 5)
    train.save(tmp_path / "train.safetensors")
    test.save(tmp_path / "test.safetensors")
    choice = DataChoice(tmp_path / "train.safetensors", test=tmp_path / "test.safetensors")
    fitted, measured, data = split_pairs(choice, tmp_path)
    assert torch.equal(fitted.source, train.source)
    assert torch.equal(measured.target, test.target)
    assert data["test"] == "test.safetensors"
    assert data["test_fingerprint"] == test.fingerprint
    assert data["held_out_rows"] == len(test.target)


@pytest.mark.parametrize("other", [{"width": 8}, {"clap": "another"}])
def test_test_data_of_another_encoder_are_refused(other, tmp_path):
    rows = torch.nn.functional.normalize(torch.randn(8, other.get("width", 16)), dim=-1)
    train = EmbeddingPairs(torch.randn(8, 16), torch.randn(8, 16), clap="one")
    with pytest.raises(DataError, match="encoder"):
        check_same_space(train, EmbeddingPairs(rows, rows, clap=other.get("clap")), "test")


def test_methods_always_have_the_baselines():
    assert chosen_methods(["none"]) == list(ALWAYS_FITTED) == ["identity", "centering", "ridge"]
    assert chosen_methods(["mlp", "ridge"]) == ["identity", "centering", "ridge", "mlp"]
    everything = chosen_methods(["all"])
    assert {"diffusion-bridge", "diffgap", "seed", "memory", "diffusion-link"} < set(everything)
    assert SLOW not in everything
    assert SLOW in chosen_methods(["all", SLOW])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--methods", "teleport"], RecipeError, "teleport"),
        (["--held-out", 1.0], InputError, "held_out"),
        (["--held-out", 0.001], DataError, "held out"),
        (["--picture", "teleport"], InputError, "teleport"),
        (["--bridge", "ridge=somewhere"], InputError, "name 'ridge' twice"),
        (["--bridge", "mine=./nowhere"], ModelFolderError, "nowhere"),
        (["--embeddings", "./nowhere"], DataError, "nowhere: no such file or folder"),
        (["--names", "image", "image"], InputError, "source and target"),
        (["--bridge", "a=x", "--bridge", "a=y"], InputError, "second 'a'"),
        (["--kl-components", 60, "--limit", 100], DataError, "KL"),
    ],
)
def test_what_cannot_work_is_refused_before_training(arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "fit_bridges", lambda *_, **__: pytest.fail("training began"))
    common = ["--embeddings", write_pairs(tmp_path), "--output", tmp_path / "r", "--no-figures", "--methods", "mlp"]
    with pytest.raises(error, match=words) as caught:
        run(gap, *common, "--held-out", 0.3, *arguments)
    assert isinstance(caught.value, DiffusionLinkError)
    assert caught.value.remedy


@pytest.mark.parametrize("arguments", [["--bridge", "nameless"], ["--train-steps", "0"], ["--limit", "-1"]])
def test_malformed_arguments_are_a_usage_error(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(gap, "--embeddings", "x", "--output", tmp_path, *arguments)
    assert "usage" in capsys.readouterr().err
