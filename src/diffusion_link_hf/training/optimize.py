"""The loop that all trained bridges share: Adam, averaged weights, trackers, any number of processes, exact resume."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from tqdm import tqdm

from ..bridges.base import BridgeModel
from ..bridges.losses import DiffusionLinkLoss, Share
from ..errors import RecipeError
from .averaging import AveragedWeights, averaged
from .checkpoints import check_best, save_checkpoint, saved_state
from .dropout import seed_dropout
from .recipes import TrainedBridgeArguments
from .schedules import warmup_cosine

# (source (P, D), target (B, D), generator, share) → (), or the parts of it: the share's part of the batch's loss; the
# first P targets belong to the sources.
BatchLoss = Callable[[torch.Tensor, torch.Tensor, torch.Generator, Share], torch.Tensor | DiffusionLinkLoss]
BEST_BY = "matched_audio"


class LossModule(nn.Module):
    """The bridge's loss as a module: what Accelerate wraps, so that gradients are averaged over processes."""

    def __init__(self, bridge: BridgeModel, loss: BatchLoss):
        super().__init__()
        self.bridge, self.loss = bridge, loss

    def forward(self, *batch) -> dict[str, torch.Tensor]:
        value = self.loss(*batch)
        if isinstance(value, DiffusionLinkLoss):
            return {"loss": value.total, "diffusion": value.diffusion, "topology": value.topology}
        return {"loss": value}


class BridgeOptimization:
    """What a run consists of, and its steps.

    Rows, timesteps and noise of a step are a function of (seed, step) alone, for the batch of all processes; each works
    on its share. So a run that was killed and started again ends with the same bits as one that was not, and one on
    several processes has the curve of one on a single process, to rounding. (Dropout differs with the number of
    processes.)

    Args:
        bridge: on the device; it has the averaged weights in the end.
        loss: of a share of a batch.
        source, target: (P, D), (N, D) normalized rows, on the device or on the host; the first P targets belong to the
            sources.
        validate: figures of the bridge as it is, `BEST_BY` among them; None where nothing is held out.
    """

    def __init__(
        self,
        bridge: BridgeModel,
        loss: BatchLoss,
        source: torch.Tensor,
        target: torch.Tensor,
        args: TrainedBridgeArguments,
        accelerator: Accelerator,
        validate: Callable[[], dict[str, float]] | None = None,
    ):
        _check_processes(args, accelerator)
        self.bridge, self.source, self.target = bridge, source, target
        self.args, self.accelerator, self.validate = args, accelerator, validate
        self.parameters = list(bridge.parameters())
        optimizer = torch.optim.Adam(self.parameters, lr=args.learning_rate, fused=True)
        self.schedule = _schedule(optimizer, args)
        self.module, self.optimizer = accelerator.prepare(LossModule(bridge, loss), optimizer)
        self.average = AveragedWeights(self.parameters, args.ema_decay)
        self.best: dict[str, Any] = {}  # of ``keep: best``: value, step and weights
        self.step = 0

    def state(self) -> dict[str, Any]:
        """All that a continuation needs."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {"best": self.best}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.average.to(self.bridge.device)
        self.step, self.best = step, state["best"]

    def train_step(self) -> dict[str, torch.Tensor]:
        """One step of the optimizer; returns this process's part of the loss and its terms, () each."""
        args, accelerator = self.args, self.accelerator
        key = args.seed * 1_000_003 + self.step
        seed_dropout(key, accelerator)
        figures: dict[str, torch.Tensor] = {}
        micros = args.gradient_accumulation_steps
        for micro in range(micros):
            share = Share(accelerator.process_index * micros + micro, accelerator.num_processes * micros)
            generator = torch.Generator().manual_seed(key)
            rows = torch.randint(len(self.target), (args.batch_size,), generator=generator)
            source, target = self._batch(rows.sort().values)
            waits = micro + 1 < micros
            with accelerator.no_sync(self.module) if waits else nullcontext():
                parts = self.module(source, target, generator, share)
                # Data parallelism averages gradients over the processes; the shares' losses are to be added.
                accelerator.backward(parts["loss"] * accelerator.num_processes)
            for name, part in parts.items():
                figures[name] = figures[name] + part.detach() if name in figures else part.detach()
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(self.parameters, args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.average.step(self.parameters)
        self.step += 1
        return figures

    def measure(self) -> dict[str, float]:
        """Figures of the averaged weights on the validation part, which are kept if they are the best so far."""
        if self.validate is None:
            return {}
        with averaged(self.bridge, self.average):
            figures = self.validate()
        if self.args.keep == "best" and figures[BEST_BY] > self.best.get("value", -2.0):
            weights = [weight.detach().to("cpu", copy=True) for weight in self.average.shadow_params]
            self.best = {"value": figures[BEST_BY], "step": self.step, "weights": weights}
        return figures

    def finish(self) -> int:
        """Gives the bridge the averaged weights, or the best ones, and returns the step that they are of."""
        self.average.copy_to(self.bridge.parameters())
        if self.args.keep == "last":
            return self.step
        if self.step % self.args.validate_every:
            self.measure()
        check_best(self.best, BEST_BY)
        with torch.no_grad():
            for parameter, weight in zip(self.bridge.parameters(), self.best["weights"], strict=True):
                parameter.copy_(weight)
        return self.best["step"]

    def _parts(self) -> dict[str, Any]:
        parts = {"bridge": self.bridge, "optimizer": self.optimizer, "decay": self.schedule, "average": self.average}
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def _batch(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Source (P, D) and target (B, D) of ascending ``rows``, on the bridge's device."""
        paired = rows[: int((rows < len(self.source)).sum())]
        chosen = ((self.source, paired), (self.target, rows))
        parts = (side.index_select(0, index.to(side.device)) for side, index in chosen)
        return tuple(part.to(self.accelerator.device, non_blocking=True) for part in parts)


def optimize(run: BridgeOptimization, who: dict[str, Any], progress: bool = True) -> int:
    """Train to the end, from the newest checkpoint if the recipe says so.

    Args:
        who: identity of the checkpoints, from `checkpoints.identity`.
        progress: whether to show a progress bar.

    Returns:
        The step whose averaged weights the bridge has in the end.

    Raises:
        RecipeError: a checkpoint of another recipe or other data.
        DataError: a damaged checkpoint, or one that cannot be written.
    """
    args, accelerator = run.args, run.accelerator
    checkpoints = Path(args.output) / "checkpoints"
    if saved := saved_state(checkpoints, who, args.resume, accelerator.is_main_process):
        run.restore(*saved)
    run.bridge.train()
    shown = progress and accelerator.is_main_process
    bar = tqdm(total=args.max_steps, initial=run.step, desc=args.stage, disable=not shown, mininterval=2)
    while run.step < args.max_steps:
        figures = run.train_step()
        bar.update()
        if run.step % args.log_every == 0:
            values = {f"train/{name}": accelerator.reduce(part, "sum").item() for name, part in figures.items()}
            bar.set_postfix(loss=f"{values['train/loss']:.3f}", refresh=False)
            accelerator.log({**values, "train/learning_rate": run.schedule.get_last_lr()[0]}, run.step)
        if run.step % args.validate_every == 0 and (args.report_to != "none" or args.keep == "best"):
            accelerator.log({f"validation/{name}": value for name, value in run.measure().items()}, run.step)
        if run.step % args.checkpoint_every == 0 and run.step < args.max_steps and accelerator.is_main_process:
            save_checkpoint(checkpoints, run.step, run.state(), who, args.keep_checkpoints)
    bar.close()
    return run.finish()


def _schedule(optimizer: torch.optim.Optimizer, args: TrainedBridgeArguments):
    if args.lr_schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, args.lr_decay_every, args.lr_decay)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, 0, args.max_steps))


def _check_processes(args: TrainedBridgeArguments, accelerator: Accelerator) -> None:
    """Raises RecipeError for a launch that this loop cannot serve."""
    kind = accelerator.distributed_type
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise RecipeError(
            "accelerate launch --config_file",
            f"asks for {kind.value} in the {args.stage} stage",
            "Use hub_configs/accelerate/ddp.yaml: a bridge has a few million weights, there is nothing to shard",
        )
    shares = accelerator.num_processes * args.gradient_accumulation_steps
    if args.batch_size < shares:
        raise RecipeError(
            "batch_size", f"is {args.batch_size} for {shares} micro-batches", "Each process and micro-batch needs a row"
        )
