"""Trains projector and decoder through a frozen bridge: captions from text embeddings, or from audio."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..bridges.losses import Share
from ..embeddings.cache import EmbeddingCache
from ..errors import DataError
from ..files import write_json
from ..loading import read_json
from ..models.generation_options import MAX_NEW_TOKENS
from ..pipelines.audio_caption import AudioCaptionPipeline
from .arguments import DecoderTrainingArguments
from .batches import CaptionBatches
from .caption_model import CaptionModel
from .checkpoints import run_identity
from .optimize import Publish, ShareLoss, TrainingRun, optimize
from .optimizers import make_optimizer, warmup_cosine
from .parts import DecoderParts, build_parts, check_references
from .preparation import make_accelerator, split_data, validation_fingerprint
from .recipes import keep_link_recipe, translate_recipe, write_recipe
from .sharding import check_launch, gather_in_place, prepare_generation
from .trackers import flat_figures, log_captions, start_tracker
from .validation import CaptionValidation, check_validation, embeds_of, trainable_rows

TOKENIZED_AT_ONCE = 1024
BRIDGE_COSINES = ("raw", "centered", "ridge", "matched_audio", "matched_text")


def train_decoder(
    args: DecoderTrainingArguments, progress: bool = True, publish: Publish | None = None
) -> dict[str, float]:
    """Run the decoder stage of a recipe: train projector and decoder through a frozen bridge.

    Writes ``projector/``, ``decoder/``, ``metrics.json`` and ``recipe.yaml`` into the output folder. With ``clap`` in
    the recipe, the folder is a complete pipeline. Data order and noise depend on (seed, step) alone. Checkpoints resume
    exactly, and the number of processes changes the result only by rounding (and by dropout). FSDP spreads the weights
    over the processes. Checkpoints and results are whole, so a run may continue with FSDP or without it.

    Everything that could keep the result from being saved is checked before the first step.

    Args:
        progress: whether to show a progress bar.
        publish: see `optimize`.

    Returns:
        What metrics.json holds: ``loss`` per caption token and ``perplexity`` of the validation captions, ``cider_d``
        where the recipe asks for it, and ``padding_share``, the share of all positions that is padding. ``bridge`` has
        the held-out cosines of the bridge, as its own training wrote them beside it.

    Raises:
        RecipeError: see `build_parts`; also a checkpoint of another recipe, link, base model or CLAP.
        DataError: a cache that cannot be read, has no audio for the supervised mode, or is of another CLAP; a damaged
            checkpoint.
        ModelFolderError, HubAccessError: a model that cannot be loaded.
        InputError: captions that the base model has too few positions for.
        MetricDependencyError: validation by CIDEr-D without Java or pycocoevalcap.
    """
    output = Path(args.output)
    accelerator = make_accelerator(args)
    check_launch(accelerator, args.load_in_4bit)
    check_references(args)
    cache = EmbeddingCache.load(args.cache)
    train, validation = split_data(cache, args)
    if not len(trainable_rows(train, args.mode)):
        raise DataError(
            args.cache, "has no audio embeddings to train on", "Use mode: zeroshot, or a cache with more audio"
        )
    check_validation(validation, args)
    parts = build_parts(args, cache)
    check_positions(parts, cache.captions)
    if parts.link is not None:
        parts.link.to(accelerator.device)
    captions = CaptionValidation(validation, args, parts.link, parts.scheduler, accelerator)
    run = DecoderRun(args, accelerator, train, parts, captions)
    start_tracker(accelerator, args)
    padding_share = run.batches.padding_share(run.micro_batches)
    accelerator.log({"train/padding_share": padding_share}, 0)
    contents = {"data": cache.fingerprint, "validation": validation_fingerprint(args, validation), **parts.fingerprints}
    identity = run_identity(asdict(args), **contents)
    step = optimize(run, identity, progress, translate_recipe, publish)
    run.model.eval()
    figures = captions.measure(run.model)
    metrics = {
        "steps": step,
        "clap": cache.manifest.get("clap"),
        "processes": accelerator.num_processes,
        "padding_share": round(padding_share, 4),
        **figures,
    }
    if args.link and (bridge := _bridge_figures(Path(args.link).parent / "metrics.json")):
        metrics["bridge"] = bridge
    accelerator.log({f"result/{name}": value for name, value in flat_figures(metrics).items()}, run.step)
    gather_in_place(run.model, keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        _write(args, output, run.model, parts)
        write_json(output / "metrics.json", metrics)
        write_recipe(args, output, cache.manifest.get("data"), data=cache.fingerprint, **parts.fingerprints)
        keep_link_recipe(args.link, output)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return metrics


class DecoderRun(TrainingRun):
    """The training of projector and decoder with AdamW.

    Args:
        train: the training part of the cache.
        parts: see `build_parts`.
        captions: figures of the validation part.
    """

    def __init__(
        self,
        args: DecoderTrainingArguments,
        accelerator: Accelerator,
        train: EmbeddingCache,
        parts: DecoderParts,
        captions: CaptionValidation,
    ):
        self.train, self.parts, self.captions = train, parts, captions
        self.score_name = args.validate_metric
        self.rows = trainable_rows(train, args.mode)
        lengths = token_counts(parts.decoder, [train.captions[i] for i in self.rows.tolist()])
        self.batches = CaptionBatches(lengths, args.seed, args.batch_size, args.bucket_batches)
        epoch = self.batches.steps_per_epoch
        total = args.max_steps or math.ceil(args.epochs * epoch)
        warmup = args.warmup_steps or (0 if args.max_steps else round(args.warmup_epochs * epoch))
        model = CaptionModel(parts.projector, parts.decoder)
        rates = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        optimizer = make_optimizer(torch.optim.AdamW, model.trained().values(), **rates)
        super().__init__(
            args,
            accelerator,
            model,
            model,
            optimizer,
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, total)),
            total_steps=total,
            batch_size=self.batches.batch_size,
            patience=args.patience,
        )
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        prepare_generation(model, "write", parts.decoder.base_model)

    def draw_batch(self, key: int) -> ShareLoss:
        batch = self.batches.batch(self.step)
        tokens = int(self.batches.lengths[batch].sum())  # of all processes
        self.counted["tokens"] += tokens
        rows = self.rows[batch]
        generator = torch.Generator().manual_seed(key) if self.args.bridge_noise == "fresh" else None
        # The whole batch: noise is drawn for it, and a bridge costs nothing beside a language model.
        embeds = embeds_of(
            self.train,
            rows,
            self.args.mode,
            self.parts.link,
            self.parts.scheduler,
            self.accelerator.device,
            generator,
        )

        def share_loss(share: Share) -> dict[str, torch.Tensor]:
            own = share.rows(len(rows))
            ids, mask = self.parts.decoder.tokenize([self.train.captions[i] for i in rows[own].tolist()])
            return {"loss": self.module(embeds[own], ids, mask) / tokens}

        return share_loss

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        return self.model.trained().values()

    def measure(self) -> dict[str, float]:
        return self.captions.measure(self.model)

    def score(self, figures: dict[str, float]) -> float:
        return self.captions.score(figures)

    def result_weights(self) -> dict[str, torch.Tensor]:
        return self.model.trained_state()

    def load_result_weights(self, weights: dict[str, torch.Tensor]) -> None:
        self.model.load_trained_state(weights)

    def write_result(self, folder: Path) -> None:
        _write(self.args, folder, self.model, self.parts)
        write_recipe(self.args, folder, self.train.manifest.get("data"), **self.parts.fingerprints)
        keep_link_recipe(self.args.link, folder)
        self.model.train()

    def log_samples(self) -> None:
        log_captions(self.accelerator, self.captions.samples(self.model), self.step)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.trained_state(), **super().state()}

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.model.load_trained_state(state["model"])
        super().restore(step, state)


def check_positions(parts: DecoderParts, captions: list[str]) -> None:
    """Raises InputError if the base model has too few positions for a caption, trained on, validated or written.

    Without it, models with a table of positions end in an error of their own, in the midst of the training.
    """
    longest = int(token_counts(parts.decoder, captions).max())
    for tokens, name in ((longest, "longest caption"), (MAX_NEW_TOKENS, "max_new_tokens")):
        parts.decoder.check_length(parts.projector.config.num_prefix_tokens, tokens, name)


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


def _bridge_figures(path: Path) -> dict[str, float]:
    """The cosines that the training of the bridge measured on its held-out recordings; {} where it wrote none."""
    found = read_json(path) if path.is_file() else {}
    return {name: found[name] for name in BRIDGE_COSINES if isinstance(found.get(name), float)}
