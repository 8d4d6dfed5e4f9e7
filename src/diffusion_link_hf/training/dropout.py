"""Seeds what draws the dropout of a step: a function of the recipe's seed, the step and the process."""

import torch
from accelerate import Accelerator


def seed_dropout(key: int, accelerator: Accelerator) -> None:
    """Seed with ``key``, of the step, and the number of the process.

    On a CPU not by `torch.manual_seed`: without accelerator it formats the call stack each time, for an error message.
    """
    seed = key + (accelerator.process_index << 40)
    if accelerator.device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
