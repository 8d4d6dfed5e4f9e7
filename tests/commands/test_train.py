"""``diffusion-link train``: a recipe by name or by file, from a folder without a checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion_link_hf import train as train_from_python
from diffusion_link_hf.bridges.base import BridgeModel
from diffusion_link_hf.cli import main
from diffusion_link_hf.commands import train
from diffusion_link_hf.errors import RecipeError
from support.commands import parse, run, write_pairs

SMALL = ["max_steps=2", "batch_size=8", "model={width: 16, time_embed_dim: 8}"]


def test_a_recipe_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(train, "tiny-bridge", f"cache={write_pairs(tmp_path)}", "output=out", *SMALL) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (printed["method"], printed["steps"]) == ("diffusion-link", 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"link", "scheduler", "model_index.json"}
    assert BridgeModel.from_pretrained(tmp_path / "out" / "link").config.width == 16
    assert run(train, "out/recipe.yaml", "output=again") == 0  # the record of a training is a recipe
    assert json.loads(capsys.readouterr().out)["matched_audio"] == printed["matched_audio"]


def test_from_python(tmp_path):
    changes = {"max_steps": 2, "batch_size": 8, "model": {"width": 16, "time_embed_dim": 8}}
    recipe = {"cache": str(write_pairs(tmp_path)), "output": str(tmp_path / "out")}
    metrics = train_from_python("tiny-bridge", progress=False, **recipe, **changes)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_the_module_without_a_checkout(tmp_path):
    """In another folder, with no path to the repository but the installed package."""
    command = [sys.executable, "-m", "diffusion_link_hf", "train", "tiny-bridge", "output=out", "method=ridge"]
    command += [f"cache={write_pairs(tmp_path)}", "model={}", "loss={}", "max_train_timestep=null"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["matched_audio"] > 0
    assert (tmp_path / "out" / "link" / "config.json").is_file()


def test_recipes_are_listed(capsys):
    assert run(train, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:2] == ["audiocaps-bridge", "audiocaps-bridge-shallow"]
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_launch_files_are_found(capsys):
    assert run(train, "--launch-file", "fsdp") == 0
    assert "fsdp_version: 2" in Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    with pytest.raises(RecipeError, match="launch file"):
        run(train, "--launch-file", "tpu")


def test_wrong_recipes_are_refused(tmp_path, capsys):
    assert main(["train", str(tmp_path / "no.yaml")]) == 2
    assert "neither a file nor the name of a recipe" in capsys.readouterr().err
    assert main(["train", "tiny-bridge", "lerning_rate=1"]) == 2
    assert "lerning_rate: is no field of the bridge stage" in capsys.readouterr().err
    for arguments in ([], ["tiny-bridge", "--list"]):
        with pytest.raises(SystemExit):
            parse(train, *arguments)
