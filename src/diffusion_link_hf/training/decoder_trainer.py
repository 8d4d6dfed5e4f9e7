"""Trains projector and decoder through a frozen link: captions from text embeddings, or from audio."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..data.embedding_cache import EmbeddingCache
from ..decoder import CaptionDecoder
from ..errors import DataError, RecipeError
from ..models.centring import MeanCentring
from ..models.prefix_projector import PrefixProjector
from ..pipelines.audio_caption import AudioCaptionPipeline
from .arguments import DecoderTrainingArguments
from .checkpoints import identity, load_checkpoint, save_checkpoint
from .decoder_parts import DecoderParts, build_parts
from .loop import start_tracker
from .preparation import make_accelerator


class CaptionModel(nn.Module):
    """Projector and decoder as one module: what Accelerate wraps."""

    def __init__(self, projector: PrefixProjector, decoder: CaptionDecoder):
        super().__init__()
        self.projector, self.decoder = projector, decoder

    def forward(self, embeds, input_ids, attention_mask):
        return self.decoder(self.projector(embeds), input_ids, attention_mask).loss


def train_decoder(args: DecoderTrainingArguments) -> dict[str, float]:
    """Run the decoder stage.

    Writes ``output/projector``, ``output/decoder`` and ``output/metrics.json``; with ``clap`` in the recipe, ``output``
    is a complete pipeline folder. Data order and noise are functions of (seed, step); checkpoints resume exactly.

    Everything that could keep the result from being written is checked before the first step.

    Returns:
        ``loss`` and ``perplexity`` of the validation captions, also in metrics.json.

    Raises:
        RecipeError: see `build_parts`, and a checkpoint of another recipe, link, base model or CLAP.
        DataError: a cache that cannot be read, has no audio for the supervised mode, or is of another CLAP; a damaged
            checkpoint.
        ModelFolderError, HubAccessError: a model that cannot be loaded.
    """
    output = Path(args.output)
    accelerator = make_accelerator(args)
    cache = EmbeddingCache.load(args.cache)
    train, validation = cache.split(args.validation_fraction, args.seed)
    rows = trainable_rows(train, args.mode)
    if not len(rows):
        raise DataError(
            args.cache, "has no audio embeddings to train on", "Use mode: text_only, or a cache with more audio"
        )
    parts = build_parts(args, cache)
    link, scheduler = parts.link, parts.scheduler
    if link is not None:
        link.to(accelerator.device)
    model = CaptionModel(parts.projector, parts.decoder)
    steps_per_epoch = max(
        1, len(rows) // (args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps)
    )
    total = args.max_steps or math.ceil(args.epochs * steps_per_epoch)
    warmup = args.warmup_steps or (0 if args.max_steps else round(args.warmup_epochs * steps_per_epoch))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmup_cosine(step, warmup, total))
    model, optimiser = accelerator.prepare(model, optimiser)

    who = identity(asdict(args), data=cache.fingerprint, **parts.fingerprints)
    step = 0
    saved = load_checkpoint(output / "checkpoints", who) if args.resume else None
    if saved:
        step, state = saved
        _load_trainable(accelerator.unwrap_model(model), state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    start_tracker(accelerator, args)

    bar = tqdm(total=total, initial=step, desc="decoder", disable=not accelerator.is_main_process, mininterval=2)
    order = BatchOrder(len(rows), args, accelerator.num_processes, accelerator.process_index)
    model.train()
    while step < total:
        key = args.seed * 1_000_003 + step * accelerator.num_processes + accelerator.process_index
        torch.manual_seed(key)  # dropout
        generator = torch.Generator().manual_seed(key) if args.bridge_noise == "fresh" else None
        value = 0.0
        for micro in range(args.gradient_accumulation_steps):
            part = rows[order.batch(step, micro)]
            embeds = embeds_of(train, part, args.mode, link, scheduler, accelerator.device, generator)
            ids, mask = accelerator.unwrap_model(model).decoder.tokenize([train.captions[i] for i in part.tolist()])
            with accelerator.autocast():
                loss = model(embeds, ids, mask) / args.gradient_accumulation_steps
            accelerator.backward(loss)
            value += loss.item()
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(trained, args.max_grad_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        if step % args.log_every == 0:
            bar.set_postfix(loss=f"{value:.3f}", refresh=False)
            accelerator.log({"train/loss": value, "train/learning_rate": schedule.get_last_lr()[0]}, step)
        if step % args.validate_every == 0 and validation is not None:
            result = validate(accelerator.unwrap_model(model), validation, args, link, scheduler)
            accelerator.log({f"validation/{k}": v for k, v in result.items()}, step)
            _log_samples(accelerator, accelerator.unwrap_model(model), validation, args, link, scheduler, step)
        if step % args.checkpoint_every == 0 and step < total and accelerator.is_main_process:
            state = {
                "model": _trainable_state(accelerator.unwrap_model(model)),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
            }
            save_checkpoint(output / "checkpoints", step, state, who, args.keep_checkpoints)
    bar.close()
    model = accelerator.unwrap_model(model).eval()
    metrics = validate(model, validation, args, link, scheduler) if validation is not None else {}
    if accelerator.is_main_process:
        _write(args, output, model, parts)
        written = {"steps": step, "clap": cache.manifest.get("clap"), **metrics}
        (output / "metrics.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()
    return metrics


def trainable_rows(train: EmbeddingCache, mode: str) -> torch.Tensor:
    """(K,) indices of the captions that a mode can learn from."""
    rows = torch.arange(len(train.text))
    return rows if mode == "text_only" else rows[train.caption_audio >= 0]


@torch.no_grad()
def embeds_of(cache: EmbeddingCache, rows, mode: str, link, scheduler, device, generator=None) -> torch.Tensor:
    """What the projector reads for captions ``rows`` (K,): (K, D) text-like embeddings, or raw ones without a link.

    ``generator`` is given while training with fresh noise. A `MeanCentring` link then corrupts text as C3 does, each
    row by its own draw, and at no other time: what the decoder is judged on stays clean.
    """
    embeds = cache.text[rows] if mode == "text_only" else cache.audio[cache.caption_audio[rows]]
    embeds = embeds.to(device)
    if link is None:
        return embeds
    if isinstance(link, MeanCentring) and mode == "text_only":
        centred = link.bridge(embeds, "text", add_noise=False)
        return link.corrupt(centred, generator) if link.config.add_noise and generator is not None else centred
    return link.bridge(embeds, "text" if mode == "text_only" else "audio", scheduler=scheduler, generator=generator)


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate: linear to 1 over ``warmup`` steps, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup)))


class BatchOrder:
    """Which rows a step reads: a fresh permutation each epoch, a function of (seed, step, process) alone."""

    def __init__(self, rows: int, args: DecoderTrainingArguments, processes: int, process: int):
        self.rows, self.seed, self.process = rows, args.seed, process
        self.per_process, self.micros = args.batch_size, args.gradient_accumulation_steps
        self.per_step = args.batch_size * processes * self.micros
        self.steps_per_epoch = max(1, rows // self.per_step)
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def batch(self, step: int, micro: int) -> torch.Tensor:
        """(batch_size,) row numbers; fewer only where the whole data set is smaller than a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 7_919 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.rows, generator=generator)
        first = position * self.per_step + (self.process * self.micros + micro) * self.per_process
        part = self._permutation[first : first + self.per_process]
        return part if len(part) else self._permutation[: self.per_process]


@torch.no_grad()
def validate(model: CaptionModel, validation: EmbeddingCache, args, link, scheduler) -> dict[str, float]:
    """Mean loss per validation caption, without dropout or fresh noise."""
    rows = trainable_rows(validation, args.mode)
    if not len(rows):
        return {}
    was_training = model.training
    model.eval()
    loss = 0.0
    for part in rows.split(64):
        embeds = embeds_of(validation, part, args.mode, link, scheduler, model.decoder.device)
        ids, mask = model.decoder.tokenize([validation.captions[i] for i in part.tolist()])
        loss += model(embeds, ids, mask).item() * len(part)
    model.train(was_training)
    loss /= len(rows)
    return {"loss": loss, "perplexity": math.exp(min(loss, 50))}


@torch.no_grad()
def _log_samples(
    accelerator, model: CaptionModel, validation, args, link, scheduler, step: int, count: int = 4
) -> None:
    rows = trainable_rows(validation, args.mode)[:count]
    if not len(rows) or args.report_to != "tensorboard":
        return
    model.eval()
    embeds = embeds_of(validation, rows, args.mode, link, scheduler, model.decoder.device)
    written = model.decoder.generate(model.projector(embeds))
    model.train()
    lines = [f"{validation.captions[i]} → {texts[0]}" for i, texts in zip(rows.tolist(), written, strict=True)]
    writer = accelerator.get_tracker("tensorboard").writer if accelerator.is_main_process else None
    if writer:
        writer.add_text("captions", "  \n".join(lines), step)


def _trainable_state(model: CaptionModel) -> dict[str, torch.Tensor]:
    """The weights that training changes; a frozen 7B base is not written again and again."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _load_trainable(model: CaptionModel, state: dict[str, torch.Tensor]) -> None:
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(own) != set(state):
        raise RecipeError(
            "checkpoint", "trains other weights than this recipe", "Use another output, or remove its checkpoints"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])


def _write(args: DecoderTrainingArguments, output: Path, model: CaptionModel, parts: DecoderParts) -> None:
    dtype = getattr(torch, args.weights_dtype)
    if parts.clap is not None:
        pipeline = AudioCaptionPipeline(parts.clap, model.projector, model.decoder, parts.link, parts.scheduler)
        pipeline.save_pretrained(output, dtype=dtype, include_base=args.include_base)
        return
    torch.nn.Module.to(model.projector, dtype).save_pretrained(output / "projector")
    model.decoder.save_pretrained(output / "decoder", include_base=args.include_base, dtype=dtype)
