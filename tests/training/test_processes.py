"""Two processes, started as a user does, end where one does."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import pytest
import yaml
from accelerate import Accelerator
from accelerate.commands.config import load_config_from_file
from accelerate.utils import DistributedType

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.recipes import launch_file
from diffusion_link_hf.training.train import train
from support.training import bridge_arguments, decoder_arguments, make_base, make_uneven_cache, relative_difference

STAGES = ("bridge", "decoder")


@pytest.fixture
def runs(tmp_path):
    """Recipes by stage, of 200 steps; batches and captions that two processes cannot halve evenly."""
    make_uneven_cache().save(tmp_path / "cache")
    base = make_base(tmp_path / "base")
    bridge = {
        "max_steps": 200,
        "batch_size": 33,
        "loss": {"topology_weight": 20.0},
        "max_grad_norm": 1.0,
        "keep": "best",
    }
    decoder = {"max_steps": 200, "batch_size": 7, "learning_rate": 2e-3, "keep": "best", "validate_every": 20}
    return {
        "bridge": bridge_arguments(tmp_path / "cache", tmp_path / "one" / "bridge", **bridge),
        "decoder": decoder_arguments(tmp_path / "cache", base, tmp_path / "one" / "decoder", **decoder),
    }


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_two_processes_are_one(runs, launch, tmp_path, stage):
    """Topology over the whole batch, the loss per caption token of the whole batch; ``pytest -rP`` prints it."""
    train(runs[stage])
    done = launch("ddp_cpu", runs[stage], f"two/{stage}")
    assert done.returncode == 0, done.stderr[-2000:]
    difference = relative_difference(tmp_path / "one" / stage, tmp_path / "two" / stage)
    print(f"weights of the {stage} differ by {difference:.1e} (relative)")
    assert difference < 1e-5
    one, two = (json.loads((tmp_path / name / stage / "metrics.json").read_text()) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["steps"] == two["steps"]
    assert done.stdout.count('"processes": 2') == 1  # printed once, not once per process


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_micro_batches_change_nothing_but_memory(runs, tmp_path, stage):
    arguments = dataclasses.replace(runs[stage], max_steps=30, warmup_steps=5) if stage == "decoder" else runs[stage]
    train(arguments)
    train(dataclasses.replace(arguments, gradient_accumulation_steps=4, output=str(tmp_path / "many")))
    assert relative_difference(tmp_path / "one" / stage, tmp_path / "many") < 1e-5


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_every_micro_batch_needs_a_row(runs, stage):
    """It is said before anything is read: the folders need not be there."""
    recipe = dataclasses.replace(runs[stage], batch_size=3, gradient_accumulation_steps=5, cache="nowhere")
    with pytest.raises(RecipeError, match="batch_size: is 3 for 5 micro-batches") as caught:
        train(recipe)
    assert "gradient_accumulation_steps=3" in caught.value.remedy


def test_where_the_rows_lie_changes_nothing(runs, tmp_path):
    whole = [train(dataclasses.replace(runs["bridge"], max_steps=5, rows_on=place)) for place in ("device", "host")]
    assert whole[0]["matched_audio"] == whole[1]["matched_audio"]


@pytest.mark.parametrize("name", ["ddp", "ddp_cpu", "fsdp"])
def test_the_launch_files_are_accelerates(name, pytestconfig):
    folder = pytestconfig.rootpath / "hub_configs" / "accelerate"
    config = load_config_from_file(str(folder / f"{name}.yaml"))
    kind = "FSDP" if name == "fsdp" else "MULTI_GPU"
    assert config.num_machines == 1
    assert (config.distributed_type, config.num_processes, config.use_cpu) == (kind, 2, name == "ddp_cpu")


def test_two_machines_are_one(runs, tmp_path, pytestconfig):
    """The launch file of several machines, as its head says, here as two of one process each on one machine's CPU."""
    train(runs["bridge"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(dataclasses.asdict(runs["bridge"]) | {"output": str(tmp_path / "two")}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = launch_file("multi_node").read_text().replace("use_cpu: false", "use_cpu: true")
    (tmp_path / "cpu.yaml").write_text(config)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "cpu.yaml")]
    command += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    command += ["--main_process_port", str(port)]
    machines = [
        subprocess.Popen(
            [*command, "--machine_rank", str(rank), "-m", "diffusion_link_hf", "train", str(recipe)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [machine.communicate(timeout=240) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said[0][1][-2000:]
    assert relative_difference(tmp_path / "one" / "bridge", tmp_path / "two") < 1e-5
    assert json.loads((tmp_path / "two" / "metrics.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("stage", "kind"), [("bridge", DistributedType.FSDP), *((s, DistributedType.DEEPSPEED) for s in STAGES)]
)
def test_launches_that_a_stage_cannot_serve_are_refused(runs, monkeypatch, stage, kind):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    with pytest.raises(RecipeError, match=f"asks for {kind.value}") as caught:
        train(runs[stage])
    assert "ddp.yaml" in caught.value.remedy
