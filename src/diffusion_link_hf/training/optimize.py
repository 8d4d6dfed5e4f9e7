"""The training loop of bridges and decoders: optimization steps, validation, checkpoints, any number of processes."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from ..bridges.losses import Share
from ..errors import RecipeError
from .arguments import TrainingArguments
from .checkpoints import check_best, save_checkpoint, saved_state
from .preparation import check_rows
from .sharding import load_optimizer_state, whole_tensors

# A share of a batch → the share's part of the batch's loss, under "loss", and of its terms; all ().
ShareLoss = Callable[[Share], dict[str, torch.Tensor]]
# What is done with the result as it would be at a checkpoint; it is given a function that writes it into a folder.
Publish = Callable[[Callable[[Path], None], int], None]


class TrainingRun:
    """What `optimize` trains: a model with its optimizer and schedule, and how far they have come.

    Subclasses say what a batch is, how the model is measured, and which weights count. Rows, timesteps and noise of a
    step are a function of (seed, step) alone, for the batch of all processes; each process works on its share. So a run
    that was killed and started again ends with the same bits as one that was not. One on several processes has the
    curve of one on a single process, to rounding. (Dropout differs with the number of processes.)

    Args:
        model: what is trained.
        module: what Accelerate wraps: the model, or a module around it whose forward is the loss.
        optimizer, schedule: of the model's parameters.
        total_steps: of the whole training.
        batch_size: rows of a batch.
        patience: validations in a row without a better score before training ends; 0 never ends it.

    Attributes:
        counted: how much was trained on since the last entry in the log, such as "rows", over all processes.
        gradient_norm: of the last step before an entry in the log, before clipping; None without a tracker.

    Raises:
        RecipeError: a batch has fewer rows than there are micro-batches.
    """

    sharded = False  # whether the weights are spread over the processes
    score_name = ""  # of the figure that `score` looks at

    def __init__(
        self,
        args: TrainingArguments,
        accelerator: Accelerator,
        model: nn.Module,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        total_steps: int,
        batch_size: int,
        patience: int = 0,
    ):
        self.args, self.accelerator, self.model, self.schedule = args, accelerator, model, schedule
        self.total_steps, self.patience = total_steps, patience
        self.micro_batches = accelerator.num_processes * args.gradient_accumulation_steps
        check_rows(batch_size, accelerator.num_processes, args.gradient_accumulation_steps)
        self.batch_size = batch_size
        if args.torch_compile:
            model.compile()  # in place: names of weights stay as they are
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.best: dict[str, Any] = {}  # score, step and, with ``keep: best``, weights
        self.misses = 0  # validations since the best one
        self.step = 0
        self.counted: Counter[str] = Counter()
        self.gradient_norm: torch.Tensor | None = None

    def draw_batch(self, key: int) -> ShareLoss:
        """The batch of this step, as a function that computes the loss of a share of it.

        Args:
            key: seeds whatever is drawn.
        """
        raise NotImplementedError

    def measure(self) -> dict[str, float]:
        """Validation figures of the weights that would be the result; {} where nothing is held out."""
        raise NotImplementedError

    def score(self, figures: Mapping[str, float]) -> float:
        """The figure that says which weights are best; higher is better."""
        raise NotImplementedError

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        raise NotImplementedError

    def result_weights(self) -> Any:
        """A copy on the CPU of the weights that would be the result now."""
        raise NotImplementedError

    def load_result_weights(self, weights: Any) -> None:
        """Give the model what `result_weights` returned."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Called after each optimization step."""

    def log_samples(self) -> None:
        """Called after each validation if there is a tracker."""

    def write_result(self, folder: Path) -> None:
        """Write what the weights of now make, as the training does in the end; the training can go on after it."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """All that a continuation needs, whole. Where the weights are spread, all processes have to ask for it."""
        return {
            "optimizer": whole_tensors(self.optimizer.state_dict()),
            "best": self.best,
            "misses": self.misses,
            **{name: part.state_dict() for name, part in self._replicated().items()},
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        """Continue from what `state` returned after ``step`` steps."""
        load_optimizer_state(self.optimizer, state["optimizer"])
        for name, part in self._replicated().items():
            part.load_state_dict(state[name])
        if isinstance(self.schedule, torch.optim.lr_scheduler.LambdaLR):
            # The next step's rate is that of a schedule to this recipe's end, which may be a later one than before.
            factors = [factor(self.schedule.last_epoch) for factor in self.schedule.lr_lambdas]
            rates = [base * factor for base, factor in zip(self.schedule.base_lrs, factors, strict=True)]
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.step, self.best, self.misses = step, state["best"], state["misses"]
        if step > self.total_steps:
            raise RecipeError(
                "max_steps",
                f"means {self.total_steps} steps, but a checkpoint in {self.args.output} has {step}",
                "Use more of them, another output, or resume=false",
            )

    @property
    def ended(self) -> bool:
        return self.step >= self.total_steps or bool(self.patience and self.misses >= self.patience)

    @property
    def logs(self) -> bool:
        """Whether the step that comes is one after which there is an entry in the log."""
        return (self.step + 1) % self.args.log_every == 0

    @property
    def validates(self) -> bool:
        """Whether anybody looks at the figures of a validation."""
        return self.args.report_to != "none" or self.args.keep == "best" or self.patience > 0

    def train_step(self) -> dict[str, torch.Tensor]:
        """One optimization step; returns this process's part of the batch's loss and its terms, () each."""
        args, accelerator = self.args, self.accelerator
        key = args.seed * 1_000_003 + self.step
        seed_dropout(key, accelerator)
        share_loss = self.draw_batch(key)
        figures: dict[str, torch.Tensor] = {}
        micros = args.gradient_accumulation_steps
        for micro in range(micros):
            share = Share(accelerator.process_index * micros + micro, self.micro_batches)
            waits = micro + 1 < micros
            with accelerator.no_sync(self.module) if waits else nullcontext():
                parts = share_loss(share)
                # Data parallelism averages gradients over the processes; the shares' losses are to be added.
                accelerator.backward(parts["loss"] * accelerator.num_processes)
            for name, part in parts.items():
                figures[name] = figures[name] + part.detach() if name in figures else part.detach()
        looked_at = self.logs and args.report_to != "none"
        if args.max_grad_norm:
            norm = accelerator.clip_grad_norm_(self.trained_parameters(), args.max_grad_norm)
        elif looked_at:
            accelerator.unscale_gradients()
            grads = [each.grad for each in self.trained_parameters() if each.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
        if looked_at:
            self.gradient_norm = whole_tensors(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.after_step()
        self.step += 1
        self.counted["rows"] += self.batch_size
        return figures

    def log_training(self, parts: Mapping[str, torch.Tensor], seconds: float) -> dict[str, float]:
        """Log a step's loss with its terms, the learning rate, gradient norm and throughput; returns the entry.

        Args:
            parts: of `train_step`.
            seconds: that were trained since the entry before.
        """
        entry = {f"train/{name}": self.accelerator.reduce(part, "sum").item() for name, part in parts.items()}
        entry["train/learning_rate"] = self.schedule.get_last_lr()[0]
        if self.gradient_norm is not None:
            entry["train/gradient_norm"] = self.gradient_norm.item()
        entry |= {f"train/{unit}_per_second": count / seconds for unit, count in self.counted.items()}
        self.counted.clear()
        self.accelerator.log(entry, self.step)
        return entry

    def validate(self) -> dict[str, float]:
        """`measure`, and keep the weights if they are the best so far."""
        figures = self.measure()
        if not figures or not (self.args.keep == "best" or self.patience):
            return figures
        score = self.score(figures)
        if score > self.best.get("score", -math.inf):
            weights = self.result_weights() if self.args.keep == "best" else None
            self.best, self.misses = {"score": score, "step": self.step, "weights": weights}, 0
        else:
            self.misses += 1
        return figures

    def finish(self) -> int:
        """Give the model the weights that are to be kept; returns the step that they are of.

        Raises:
            DataError: the best weights are to be kept, and no validation ever had a figure.
        """
        if self.args.keep == "last":
            return self.step
        if self.step % self.args.validate_every:
            self.validate()
        check_best(self.best, self.score_name)
        self.load_result_weights(self.best["weights"])
        return self.best["step"]

    def _replicated(self) -> dict[str, Any]:
        """What every process has whole."""
        scaler = self.accelerator.scaler
        return {"schedule": self.schedule} | ({"scaler": scaler} if scaler is not None else {})


def optimize(
    run: TrainingRun,
    identity: dict[str, Any],
    progress: bool = True,
    translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    publish: Publish | None = None,
) -> int:
    """Train to the end, from the newest checkpoint if the recipe says so.

    The last step has a checkpoint, too. A finished run whose recipe is given more steps goes on from there.

    Args:
        identity: what checkpoints belong to; see `run_identity`.
        progress: whether to show a progress bar.
        translate: turns the recipe in a checkpoint's identity into today's fields.
        publish: is called after each checkpoint but the last one.

    Returns:
        The step whose weights the model has in the end.

    Raises:
        RecipeError: a checkpoint of another recipe, other data or other models, or of more steps than the recipe has;
            ``torch_compile`` where it cannot be used.
        DataError: only damaged checkpoints, or one that cannot be written.
    """
    args, accelerator = run.args, run.accelerator
    checkpoints = Path(args.output) / "checkpoints"
    if saved := saved_state(checkpoints, identity, args.resume, accelerator.is_main_process, translate):
        run.restore(*saved)
    run.model.train()
    shown = progress and accelerator.is_main_process
    bar = tqdm(total=run.total_steps, initial=run.step, desc=args.stage, disable=not shown, mininterval=2)
    seconds = 0.0  # of training since the last entry in the log; those of validations and checkpoints do not count
    while not run.ended:
        started = time.perf_counter()
        logs, parts = run.logs, compiled_step(run)
        bar.update()
        if logs:
            parts["loss"].item()  # waits for the device, so that all steps are over
        seconds += time.perf_counter() - started
        if logs:
            entry = run.log_training(parts, seconds)
            bar.set_postfix(loss=f"{entry['train/loss']:.3f}", refresh=False)
            seconds = 0.0
        if run.step % args.validate_every == 0 and run.validates:
            figures = run.validate()
            accelerator.log({f"validation/{name}": figure for name, figure in figures.items()}, run.step)
            if args.report_to != "none":
                run.log_samples()
        if run.step % args.checkpoint_every == 0 or run.ended:
            if run.sharded or accelerator.is_main_process:
                state = run.state()
                if accelerator.is_main_process:
                    save_checkpoint(checkpoints, run.step, state, identity, args.keep_checkpoints)
            if publish is not None and not run.ended and accelerator.is_main_process:
                publish(run.write_result, run.step)
    bar.close()
    return run.finish()


def compiled_step(run: TrainingRun) -> dict[str, torch.Tensor]:
    """`TrainingRun.train_step`; RecipeError where the model cannot be compiled."""
    if not run.args.torch_compile:
        return run.train_step()
    from torch._dynamo.exc import TorchDynamoException

    try:
        return run.train_step()
    except TorchDynamoException as error:
        reason = str(error).strip().split("\n")[0]
        raise RecipeError(
            "torch_compile", f"is true, but the model cannot be compiled here ({reason})", "Use false"
        ) from error


def seed_dropout(key: int, accelerator: Accelerator) -> None:
    """Seed what draws dropout with ``key``, of the step, and the number of the process.

    On a CPU not by `torch.manual_seed`: without accelerator it formats the call stack each time, for an error message.
    """
    seed = key + (accelerator.process_index << 40)
    if accelerator.device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
