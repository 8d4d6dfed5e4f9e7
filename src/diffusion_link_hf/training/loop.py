"""The loop that all trained bridges share: Adam, step decay, averaged weights, trackers and exact resume."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from ..models.bridge import BridgeModel
from ..objectives import DiffusionLinkLoss
from .arguments import TrainedBridgeArguments
from .checkpoints import load_checkpoint, save_checkpoint

# (source (P, D), target (B, D), generator) → (), or the parts of it; the first P targets belong to the sources.
BatchLoss = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor | DiffusionLinkLoss]


def optimise(
    bridge: BridgeModel,
    loss: BatchLoss,
    source: torch.Tensor,
    target: torch.Tensor,
    args: TrainedBridgeArguments,
    who: dict[str, Any],
    accelerator: Accelerator,
    validate: Callable[[], dict[str, float]] | None = None,
    progress: bool = True,
) -> None:
    """Train ``bridge``, which has the averaged weights in the end.

    Rows, timesteps and noise of a step are a function of (seed, step) alone, so a run that was killed and started again
    ends with the same bits as one that was not.

    Args:
        loss: of a batch.
        source, target: (P, D), (N, D) normalised rows; the first P targets belong to the sources.
        args: seed, batch size, schedule, intervals and tracker.
        who: identity of the checkpoints, from `checkpoints.identity`.
        validate: figures of the bridge as it is, for the tracker; None where nothing is held out.
        progress: whether to show a progress bar.

    Raises:
        RecipeError: a checkpoint of another recipe or other data.
        DataError: a damaged checkpoint, or one that cannot be written.
    """
    checkpoints = Path(args.output) / "checkpoints"
    optimiser = torch.optim.Adam(bridge.parameters(), lr=args.learning_rate)
    decay = torch.optim.lr_scheduler.StepLR(optimiser, args.lr_decay_every, args.lr_decay)
    # The parameters stay this module's own: one process, so preparing the optimiser alone is enough.
    optimiser = accelerator.prepare(optimiser)
    average = EMAModel(bridge.parameters(), decay=args.ema_decay, min_decay=0.0, use_ema_warmup=False)
    parts = {"bridge": bridge, "optimiser": optimiser, "decay": decay, "average": average}
    step = 0
    if args.resume and (saved := load_checkpoint(checkpoints, who)):
        step, state = saved
        for name, part in parts.items():
            part.load_state_dict(state[name])
    average.to(bridge.device)
    start_tracker(accelerator, args)
    bridge.train()
    bar = tqdm(total=args.max_steps, initial=step, desc=args.stage, disable=not progress, mininterval=2)
    while step < args.max_steps:
        key = args.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(key)
        torch.manual_seed(key)  # dropout
        rows = torch.randint(len(target), (args.batch_size,), generator=generator).sort().values.to(target.device)
        with accelerator.autocast():
            value = loss(source[rows[rows < len(source)]], target[rows], generator)
        figures = {"loss": value}
        if isinstance(value, DiffusionLinkLoss):
            figures = {"loss": value.total, "diffusion": value.diffusion, "topology": value.topology}
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(figures["loss"])
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(bridge.parameters(), args.max_grad_norm)
        optimiser.step()
        decay.step()
        average.step(bridge.parameters())
        step += 1
        bar.update()
        if step % args.log_every == 0:
            values = {f"train/{name}": figure.item() for name, figure in figures.items()}
            bar.set_postfix(loss=f"{values['train/loss']:.3f}", refresh=False)
            accelerator.log({**values, "train/learning_rate": decay.get_last_lr()[0]}, step)
        if validate and args.report_to != "none" and step % args.validate_every == 0:
            with averaged(bridge, average):
                accelerator.log({f"validation/{name}": figure for name, figure in validate().items()}, step)
        if step % args.checkpoint_every == 0 and step < args.max_steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(checkpoints, step, state, who, args.keep_checkpoints)
    bar.close()
    average.copy_to(bridge.parameters())
    accelerator.end_training()


def start_tracker(accelerator: Accelerator, args) -> None:
    """Opens the recipe's tracker with the recipe's plain fields as its hyper-parameters."""
    if args.report_to != "none":
        plain = {name: value for name, value in asdict(args).items() if isinstance(value, (int, float, str, bool))}
        accelerator.init_trackers(args.stage, plain)


@contextmanager
def averaged(bridge: BridgeModel, average: EMAModel) -> Iterator[None]:
    """Within it the bridge has the averaged weights and is in evaluation mode."""
    bridge.eval()
    average.store(bridge.parameters())
    average.copy_to(bridge.parameters())
    yield
    average.restore(bridge.parameters())
    bridge.train()
