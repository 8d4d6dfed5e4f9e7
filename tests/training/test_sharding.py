"""A decoder spread over two processes by FSDP ends where one process does, and goes on where it was killed."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.sharding import check_launch, load_optimizer_state, shard_like, whole_tensors
from diffusion_link_hf.training.validation import ROWS_AT_ONCE, CaptionValidation
from support.training import decoder_arguments, make_base, make_uneven_cache, relative_difference

RECIPES = {
    "lora": {"max_steps": 200, "learning_rate": 2e-3, "keep": "best", "validate_every": 50, "report_to": "tensorboard"},
    "full": {"lora": None, "gradient_accumulation_steps": 2, "learning_rate": 2e-3},
    "lora, base in bfloat16": {
        "base_dtype": "bfloat16",
        "weights_dtype": "bfloat16",
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
    },
}


pytestmark = pytest.mark.usefixtures("fresh_accelerator")


@pytest.fixture
def recipe(tmp_path):
    make_uneven_cache().save(tmp_path / "cache")
    return decoder_arguments(
        tmp_path / "cache", make_base(tmp_path / "base"), tmp_path / "one", max_steps=24, batch_size=7
    )


@pytest.fixture
def launch_sharded(launch, pytestconfig):
    """(recipe, output, environment) → the finished processes of a run on two CPUs, which Accelerate would not shard."""
    script = str(pytestconfig.rootpath / "tests" / "support" / "fsdp_on_cpu.py")
    return lambda recipe, output, **environment: launch("fsdp", recipe, output, script, **environment)


@pytest.mark.parametrize("kind", RECIPES)
def test_two_shards_are_one_model(recipe, launch_sharded, tmp_path, kind):
    recipe = dataclasses.replace(recipe, **RECIPES[kind])
    one = train_decoder(recipe)
    done = launch_sharded(recipe, "two")
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert (two["processes"], two["steps"]) == (2, one["steps"])
    exact = recipe.mixed_precision == "no"
    difference = relative_difference(tmp_path / "one", tmp_path / "two")
    print(f"{kind}: weights differ by {difference:.1e} (relative)")
    assert difference < (1e-5 if exact else 2e-2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5 if exact else 1e-2)
    names = [{path: set(load_file(path)) for path in (tmp_path / run).rglob("*.safetensors")} for run in ("one", "two")]
    assert {str(p.relative_to(tmp_path / "one")): v for p, v in names[0].items()} == {
        str(p.relative_to(tmp_path / "two")): v for p, v in names[1].items()
    }


def test_a_killed_run_goes_on_sharded_or_not(recipe, launch_sharded, tmp_path):
    recipe = dataclasses.replace(recipe, checkpoint_every=8)
    whole_run = launch_sharded(recipe, "two")
    assert whole_run.returncode == 0, whole_run.stderr[-3000:]
    killed = launch_sharded(recipe, "killed", KILL_AFTER="16")
    assert killed.returncode != 0
    assert (tmp_path / "killed" / "checkpoints" / "step-00000016").is_dir()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    done = launch_sharded(recipe, "killed")
    assert done.returncode == 0, done.stderr[-3000:]
    assert relative_difference(tmp_path / "two", tmp_path / "killed") == 0
    train_decoder(dataclasses.replace(recipe, output=str(tmp_path / "alone")))
    assert 0 < relative_difference(tmp_path / "two", tmp_path / "alone") < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs can")
def test_cpus_do_not_train_unsharded_in_silence(recipe, launch, tmp_path):
    done = launch("fsdp", recipe, "out")
    assert done.returncode != 0
    assert "asks for FSDP, which Accelerate offers on GPUs only. Use the launch file ddp_cpu.yaml" in done.stderr
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fsdp_version": 1}, "asks for version 1 of FSDP"),
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading"),
        ({"load_in_4bit": True}, "load_in_4bit: is true"),
        ({"kind": DistributedType.DEEPSPEED}, "asks for DEEPSPEED"),
        ({"kind": DistributedType.MEGATRON_LM}, "asks for MEGATRON_LM"),
    ],
)
def test_launches_that_cannot_be_served_are_refused(changes, problem):
    values = {"fsdp_version": 2, "cpu_ram_efficient_loading": False, "load_in_4bit": False, **changes}
    plugin = SimpleNamespace(
        fsdp_version=values["fsdp_version"], cpu_ram_efficient_loading=values["cpu_ram_efficient_loading"]
    )
    accelerator = SimpleNamespace(
        distributed_type=values.get("kind", DistributedType.FSDP),
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="bf16",
    )
    with pytest.raises(RecipeError, match=problem):
        check_launch(accelerator, values["load_in_4bit"])


@given(rows=st.integers(1, 700), processes=st.integers(1, 9))
def test_processes_validate_in_step(rows, processes):
    """Each row once, and as many batches everywhere."""
    shares = []
    for index in range(processes):
        captions = CaptionValidation.__new__(CaptionValidation)
        captions.accelerator = SimpleNamespace(num_processes=processes, process_index=index)
        shares.append(list(captions._own_batches(torch.arange(rows))))
    assert len({len(share) for share in shares}) == 1
    counted = [row for share in shares for part, counts in share if counts for row in part.tolist()]
    assert sorted(counted) == list(range(rows))
    assert all(1 <= len(part) <= ROWS_AT_ONCE for share in shares for part, _ in share)


def test_without_shards_nothing_changes():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    other = torch.optim.AdamW(layer.parameters())
    load_optimizer_state(other, whole_tensors(state))
    torch.testing.assert_close(other.state_dict(), state, rtol=0, atol=0)
    assert shard_like(layer.weight, layer.weight) is layer.weight
