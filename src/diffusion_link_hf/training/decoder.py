"""Trains projector and decoder through a frozen link: captions from text embeddings, or from audio."""

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from tqdm import tqdm

from ..bridges.losses import Share
from ..embeddings.cache import EmbeddingCache
from ..errors import DataError, RecipeError
from ..pipelines.audio_caption import AudioCaptionPipeline
from .batches import CaptionBatches
from .caption_model import CaptionModel
from .checkpoints import check_best, identity, save_checkpoint, saved_state
from .dropout import seed_dropout
from .parts import DecoderParts, build_parts
from .preparation import make_accelerator
from .recipe_record import write_recipe
from .recipes import DecoderTrainingArguments
from .schedules import warmup_cosine
from .sharding import check_launch, gather_in_place, keep_in_step, load_optimizer_state, whole
from .trackers import flat_figures, log_captions, start_tracker
from .validation import CaptionValidation, check_validation, embeds_of, trainable_rows

TOKENIZED_AT_ONCE = 1024


def train_decoder(args: DecoderTrainingArguments, progress: bool = True) -> dict[str, float]:
    """Run the decoder stage.

    Writes ``projector/``, ``decoder/``, ``metrics.json`` and ``recipe.yaml`` into the output folder; with ``clap`` in
    the recipe it is a complete pipeline folder. Data order and noise are functions of (seed, step); checkpoints resume
    exactly, and the number of processes changes the result by rounding alone (and by dropout). FSDP spreads the
    weights over them; checkpoints and results are whole, so that a run may go on without it, or with it.

    Everything that could keep the result from being written is checked before the first step.

    Args:
        progress: whether to show a progress bar.

    Returns:
        What metrics.json holds: ``loss`` (per caption token) and ``perplexity`` of the validation captions, ``cider_d``
        where the recipe asks for it, and ``padding_share``, the part of all positions that is padding.

    Raises:
        RecipeError: see `build_parts`, and a checkpoint of another recipe, link, base model or CLAP.
        DataError: a cache that cannot be read, has no audio for the supervised mode, or is of another CLAP; a damaged
            checkpoint.
        ModelFolderError, HubAccessError: a model that cannot be loaded.
        MetricDependencyError: validation by CIDEr-D without Java or pycocoevalcap.
    """
    output = Path(args.output)
    accelerator = make_accelerator(args)
    check_launch(accelerator, args.load_in_4bit)
    cache = EmbeddingCache.load(args.cache)
    train, validation = cache.split(args.validation_fraction, args.seed)
    if not len(trainable_rows(train, args.mode)):
        raise DataError(
            args.cache, "has no audio embeddings to train on", "Use mode: text_only, or a cache with more audio"
        )
    check_validation(validation, args)
    parts = build_parts(args, cache)
    if parts.link is not None:
        parts.link.to(accelerator.device)
    judge = CaptionValidation(validation, args, parts.link, parts.scheduler, accelerator)
    run = DecoderOptimization(train, parts, args, accelerator, judge)
    start_tracker(accelerator, args)
    step = optimize(run, identity(asdict(args), data=cache.fingerprint, **parts.fingerprints), progress)
    run.model.eval()
    figures = judge.measure(run.model)
    written = {
        "steps": step,
        "clap": cache.manifest.get("clap"),
        "processes": accelerator.num_processes,
        "padding_share": round(run.batches.padding_share(run.shares), 4),
        **figures,
    }
    accelerator.log({f"result/{name}": value for name, value in flat_figures(written).items()}, run.step)
    gather_in_place(run.model, keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        _write(args, output, run.model, parts)
        (output / "metrics.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        write_recipe(args, output, data=cache.fingerprint, **parts.fingerprints)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return written


class DecoderOptimization:
    """What a run consists of, and its steps.

    Args:
        train: the training part of the cache.
        parts: see `build_parts`.
        judge: of the validation part.
    """

    def __init__(
        self,
        train: EmbeddingCache,
        parts: DecoderParts,
        args: DecoderTrainingArguments,
        accelerator: Accelerator,
        judge: CaptionValidation,
    ):
        self.train, self.parts, self.args, self.accelerator, self.judge = train, parts, args, accelerator, judge
        self.model = CaptionModel(parts.projector, parts.decoder)
        self.rows = trainable_rows(train, args.mode)
        lengths = token_counts(parts.decoder, [train.captions[i] for i in self.rows.tolist()])
        self.batches = CaptionBatches(lengths, args.seed, args.batch_size, args.bucket_batches)
        self.shares = accelerator.num_processes * args.gradient_accumulation_steps
        if self.batches.batch_size < self.shares:
            raise RecipeError(
                "batch_size",
                f"is {self.batches.batch_size} for {self.shares} micro-batches",
                "Each process and micro-batch needs a caption",
            )
        epoch = self.batches.steps_per_epoch
        self.total = args.max_steps or math.ceil(args.epochs * epoch)
        warmup = args.warmup_steps or (0 if args.max_steps else round(args.warmup_epochs * epoch))
        optimizer = torch.optim.AdamW(
            self.model.trained().values(), lr=args.learning_rate, weight_decay=args.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, warmup, self.total)
        )
        self.wrapped, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        keep_in_step(self.model, "write", parts.decoder.base_model)
        self.best: dict[str, Any] = {}  # of ``keep: best`` and ``patience``: score, step and, to be kept, weights
        self.misses = 0  # validations since
        self.step = 0

    def state(self) -> dict[str, Any]:
        """All that a continuation needs, whole: with FSDP all processes have to ask for it."""
        own = {"model": self.model.trained_state(), "best": self.best, "misses": self.misses}
        own["optimizer"] = whole(self.optimizer.state_dict())
        return own | {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.model.load_trained_state(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step, self.best, self.misses = step, state["best"], state["misses"]

    @property
    def ended(self) -> bool:
        return self.step >= self.total or bool(self.args.patience and self.misses >= self.args.patience)

    def train_step(self) -> torch.Tensor:
        """One step of the optimizer; returns this process's part of the mean loss per caption token, ()."""
        args, accelerator = self.args, self.accelerator
        key = args.seed * 1_000_003 + self.step
        seed_dropout(key, accelerator)
        batch = self.batches.batch(self.step)
        tokens = int(self.batches.lengths[batch].sum())  # of all processes
        rows = self.rows[batch]
        generator = torch.Generator().manual_seed(key) if args.bridge_noise == "fresh" else None
        # The whole batch: noise is drawn for it, and a link costs nothing beside a language model.
        embeds = embeds_of(
            self.train, rows, args.mode, self.parts.link, self.parts.scheduler, accelerator.device, generator
        )
        value = torch.zeros((), device=accelerator.device)
        micros = args.gradient_accumulation_steps
        for micro in range(micros):
            own = Share(accelerator.process_index * micros + micro, self.shares).rows(len(rows))
            ids, mask = self.parts.decoder.tokenize([self.train.captions[i] for i in rows[own].tolist()])
            with accelerator.no_sync(self.wrapped) if micro + 1 < micros else nullcontext():
                loss = self.wrapped(embeds[own], ids, mask) / tokens
                # Data parallelism averages gradients over the processes; the shares' losses are to be added.
                accelerator.backward(loss * accelerator.num_processes)
            value += loss.detach()
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(self.model.trained().values(), args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.step += 1
        return value

    def validate(self) -> dict[str, float]:
        """Figures of the validation part; weights that are the best so far are kept."""
        figures = self.judge.measure(self.model)
        if not figures or not (self.args.keep == "best" or self.args.patience):
            return figures
        score = self.judge.score(figures)
        if score > self.best.get("score", -math.inf):
            weights = self.model.trained_state() if self.args.keep == "best" else None
            self.best, self.misses = {"score": score, "step": self.step, "weights": weights}, 0
        else:
            self.misses += 1
        return figures

    def finish(self) -> int:
        """Gives the model the best weights where they are to be kept; returns the step that its weights are of."""
        if self.args.keep == "last":
            return self.step
        if self.step % self.args.validate_every:
            self.validate()
        check_best(self.best, self.args.validate_metric)
        self.model.load_trained_state(self.best["weights"])
        return self.best["step"]

    def _parts(self) -> dict[str, Any]:
        """What is never sharded."""
        parts = {"schedule": self.schedule}
        return parts | ({"scaler": self.accelerator.scaler} if self.accelerator.scaler is not None else {})


def optimize(run: DecoderOptimization, who: dict[str, Any], progress: bool = True) -> int:
    """Train to the end, from the newest checkpoint if the recipe says so; returns what `finish` does."""
    args, accelerator = run.args, run.accelerator
    checkpoints = Path(args.output) / "checkpoints"
    if saved := saved_state(checkpoints, who, args.resume, accelerator.is_main_process):
        run.restore(*saved)
    shown = progress and accelerator.is_main_process
    bar = tqdm(total=run.total, initial=run.step, desc="decoder", disable=not shown, mininterval=2)
    if args.report_to != "none":
        accelerator.log({"train/padding_share": run.batches.padding_share(run.shares)}, run.step)
    run.model.train()
    while not run.ended:
        value = run.train_step()
        bar.update()
        if run.step % args.log_every == 0:
            loss = accelerator.reduce(value, "sum").item()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            accelerator.log({"train/loss": loss, "train/learning_rate": run.schedule.get_last_lr()[0]}, run.step)
        if run.step % args.validate_every == 0:
            figures = run.validate()
            accelerator.log({f"validation/{name}": figure for name, figure in figures.items()}, run.step)
            if args.report_to != "none":
                log_captions(accelerator, run.judge.samples(run.model), run.step)
        if run.step % args.checkpoint_every == 0 and not run.ended and (run.sharded or accelerator.is_main_process):
            state = run.state()
            if accelerator.is_main_process:
                save_checkpoint(checkpoints, run.step, state, who, args.keep_checkpoints)
    bar.close()
    return run.finish()


def token_counts(decoder, captions: list[str]) -> torch.Tensor:
    """(K,) tokens of each caption as a training target, EOS among them."""
    counts = [
        decoder.tokenize(captions[first : first + TOKENIZED_AT_ONCE])[1].sum(1)
        for first in range(0, len(captions), TOKENIZED_AT_ONCE)
    ]
    return torch.cat(counts)


def _write(args: DecoderTrainingArguments, output: Path, model: CaptionModel, parts: DecoderParts) -> None:
    dtype = getattr(torch, args.weights_dtype)
    if parts.clap is not None:
        pipeline = AudioCaptionPipeline(parts.clap, model.projector, model.decoder, parts.link, parts.scheduler)
        pipeline.save_pretrained(output, dtype=dtype, include_base=args.include_base)
        return
    torch.nn.Module.to(model.projector, dtype).save_pretrained(output / "projector")
    model.decoder.save_pretrained(output / "decoder", include_base=args.include_base, dtype=dtype)
