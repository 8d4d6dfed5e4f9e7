"""FSDP: the weights of a decoder spread over the processes, and gathered again to be saved."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ..errors import RecipeError

LAUNCH = "accelerate launch --config_file"
REMEDY = "Use the launch file fsdp.yaml or ddp.yaml (diffusion-link train --launch-file prints their paths)"
COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_launch(accelerator: Accelerator, load_in_4bit: bool) -> None:
    """Refuses launches of the decoder stage that it cannot serve, and sets up those with FSDP.

    Gradients are added up over the processes in float32, whatever the layers compute in, and figures stay in float32.

    Raises:
        RecipeError: DeepSpeed, Megatron-LM, the first version of FSDP, its loading on one process alone, or 4-bit
            weights, which cannot be spread.
    """
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise RecipeError(LAUNCH, f"asks for {kind.value}", f"{REMEDY}: FSDP spreads the same tensors")
    if kind != DistributedType.FSDP:
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise RecipeError(LAUNCH, f"asks for version {plugin.fsdp_version} of FSDP", f"{REMEDY}: fsdp_version: 2")
    if plugin.cpu_ram_efficient_loading:
        raise RecipeError(
            LAUNCH,
            "asks for fsdp_cpu_ram_efficient_loading, but each process checks the weights that it loads",
            f"{REMEDY}: fsdp_cpu_ram_efficient_loading: false",
        )
    if load_in_4bit:
        raise RecipeError("load_in_4bit", "is true, but FSDP cannot spread 4-bit weights", "Use ddp.yaml, or false")
    dtype = COMPUTE_DTYPES.get(accelerator.mixed_precision)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)


def prepare_generation(model: nn.Module, method: str, language_model: nn.Module) -> None:
    """Make ``method`` of a prepared model gather its weights as ``forward`` does; without FSDP nothing changes.

    All processes then generate until the last one has finished, which transformers does for models with this mark.
    """
    if isinstance(model, FSDPModule):
        register_fsdp_forward_method(model, method)
        language_model._is_fsdp_managed_module = True


def reshard(model: nn.Module) -> None:
    """Free what forward passes gathered, so that the parameters are those that the optimizer sees."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_tensors(value: Any) -> Any:
    """A tensor, or a tree of mappings and lists of them, with its sharded tensors gathered; all processes take part."""
    if isinstance(value, Mapping):
        return {key: whole_tensors(part) for key, part in value.items()}
    if isinstance(value, list):
        return [whole_tensors(part) for part in value]
    return value.full_tensor() if isinstance(value, DTensor) else value


def shard_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor that each process has, sharded as ``parameter`` is."""
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """``optimizer.load_state_dict`` for a whole state, sharded as the parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        k: {
            name: shard_like(value, parameters[k]) if value.shape == parameters[k].shape else value
            for name, value in entries.items()
        }
        for k, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


@torch.no_grad()
def gather_in_place(model: nn.Module, keep: bool) -> None:
    """Give a sharded model whole parameters on the host, one at a time; it can be saved then, but not be run.

    All processes take part; those without ``keep`` end with parameters on the meta device.
    """
    reshard(model)
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                continue
            if parameter not in made:
                full = parameter.full_tensor()
                made[parameter] = nn.Parameter(full.cpu() if keep else full.to("meta"), parameter.requires_grad)
            setattr(module, name, made[parameter])
