"""The command line under FSDP on CPUs: Accelerate shards on accelerators only, PyTorch does on any device."""

import os
import runpy
import signal
import sys

from accelerate import accelerator, state
from accelerate.utils import DistributedType

from diffusion_link_hf.training import optimize


class ShardingState(state.AcceleratorState):
    """Says FSDP where Accelerate would say so on GPUs."""

    def __init__(self, *args, fsdp_plugin=None, **kwargs):
        super().__init__(*args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def killed_after(step: int) -> None:
    """All processes end as by kill -9 once the first of them has written the checkpoint of ``step``."""
    save = optimize.save_checkpoint

    def save_and_die(root, at, *rest):
        save(root, at, *rest)
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    optimize.save_checkpoint = save_and_die


if __name__ == "__main__":
    accelerator.AcceleratorState = ShardingState
    script, *arguments = sys.argv[1:]
    if "KILL_AFTER" in os.environ:
        killed_after(int(os.environ["KILL_AFTER"]))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
