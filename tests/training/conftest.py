"""What tests of training share: a process whose precision is free, and runs that Accelerate launches."""

import dataclasses
import os
import subprocess
import sys

import pytest
import yaml
from accelerate.state import AcceleratorState


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps the precision of a process's first run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def launch(tmp_path, pytestconfig):
    """(name of a launch file, recipe, output, script that runs train.py, environment) → the finished processes."""
    root = pytestconfig.rootpath

    def run(config, recipe, output, *before, **environment):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(dataclasses.asdict(recipe) | {"output": str(tmp_path / output)}))
        command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
        command += ["--config_file", str(root / "hub_configs" / "accelerate" / f"{config}.yaml")]
        script = [*before, str(root / "examples" / "train.py")] if before else ["-m", "diffusion_link_hf", "train"]
        command += [*script, str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)

    return run
