"""``diffusion-link train-bridge``: a link on disk, metrics on standard output, typed refusals."""

import json

import pytest
import torch

from diffusion_link_hf.bridges.base import BridgeModel
from diffusion_link_hf.bridges.linear import LinearBridge
from diffusion_link_hf.commands import train_bridge
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, RecipeError
from support.bridges import make_rows
from support.commands import parse, run, write_pairs
from support.models import EMBEDDING_DIM


def test_a_closed_form(tmp_path, capsys):
    data = write_pairs(tmp_path)
    arguments = ["--method", "ridge", "--embeddings", data, "--validation-fraction", 0]
    assert run(train_bridge, *arguments, "--output", tmp_path / "there") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "there" / "metrics.json").read_text())
    assert printed["steps"] == 0
    pairs, rows = EmbeddingPairs.load(data), make_rows(3)
    expected = LinearBridge(EMBEDDING_DIM).fit(pairs.source, pairs.target, pairs.group)
    found = BridgeModel.from_pretrained(tmp_path / "there" / "link")
    torch.testing.assert_close(found.bridge(rows), expected.bridge(rows), atol=1e-5, rtol=0)
    assert run(train_bridge, *arguments, "--output", tmp_path / "back", "--reverse") == 0
    back = BridgeModel.from_pretrained(tmp_path / "back" / "link")
    torch.testing.assert_close(back.text_mean, found.audio_mean)


def test_options_reach_training(tmp_path, capsys):
    arguments = ["--method", "diffusion-link", "--embeddings", write_pairs(tmp_path), "--output", tmp_path / "d"]
    budget = ["--train-steps", 3, "--batch-size", 8, "--learning-rate", 1e-3, "--seed", 5, "--max-train-timestep", 200]
    options = ["--model", "width=24", "num_blocks=1", "--loss", "topology_weight=0.5", "--quiet"]
    assert run(train_bridge, *arguments, *budget, *options) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert (metrics["steps"], metrics["seed"], metrics["method"]) == (3, 5, "diffusion-link")
    assert metrics.keys() >= {"matched_audio", "matched_text"}
    link = BridgeModel.from_pretrained(tmp_path / "d" / "link")
    assert (link.config.width, link.config.num_blocks) == (24, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--method", "teleport"], RecipeError, "diffusion-link"),
        (["--model", "width"], RecipeError, "width"),
        (["--model", "width=[1"], RecipeError, "width"),
        (["--model", "depth=3"], RecipeError, "depth"),
        (["--embeddings", "./nowhere"], DataError, "nowhere"),
    ],
)
def test_wrong_input_is_refused(arguments, error, words, tmp_path):
    common = ["--method", "ridge", "--embeddings", write_pairs(tmp_path), "--output", tmp_path / "d"]
    with pytest.raises(error, match=words) as caught:
        run(train_bridge, *common, *arguments)
    assert caught.value.remedy
    assert not (tmp_path / "d" / "link").exists()


def test_what_is_needed_is_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        parse(train_bridge, "--method", "ridge")
    assert "--embeddings" in capsys.readouterr().err
