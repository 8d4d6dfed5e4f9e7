"""Validation of the decoder while it trains: loss per caption token, CIDEr-D of generated captions, samples to read."""

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from diffusers import DDIMScheduler

from ..bridges.base import BridgeModel
from ..bridges.centering import MeanCentering
from ..embeddings.cache import EmbeddingCache
from ..errors import RecipeError
from ..metrics.registry import METRICS, ScoreOptions, score
from .arguments import DecoderTrainingArguments
from .caption_model import CaptionModel

ROWS_AT_ONCE = 64
SAMPLES = 4


def trainable_rows(cache: EmbeddingCache, mode: str) -> torch.Tensor:
    """(K,) indices of the captions that a mode can learn from."""
    rows = torch.arange(len(cache.text))
    return rows if mode == "zeroshot" else rows[cache.caption_audio >= 0]


@torch.no_grad()
def embeds_of(
    cache: EmbeddingCache,
    rows: torch.Tensor,
    mode: str,
    link: BridgeModel | None,
    scheduler: DDIMScheduler | None,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """What the projector reads for captions ``rows`` (K,): (K, D) text-like embeddings, or raw ones without a link.

    ``generator`` is given while training with fresh noise. A `MeanCentering` link then corrupts text as C3 does, each
    row by its own draw, and at no other time: the embeddings that it is validated on stay clean.
    """
    embeds = cache.text[rows] if mode == "zeroshot" else cache.audio[cache.caption_audio[rows]]
    embeds = embeds.to(device)
    if link is None:
        return embeds
    if isinstance(link, MeanCentering) and mode == "zeroshot":
        centered = link.bridge(embeds, "text", add_noise=False)
        return link.corrupt(centered, generator) if link.config.add_noise and generator is not None else centered
    return link.bridge(embeds, "text" if mode == "zeroshot" else "audio", scheduler=scheduler, generator=generator)


def check_validation(cache: EmbeddingCache | None, args: DecoderTrainingArguments) -> None:
    """Refuses a recipe whose choices need a figure that cannot be computed, before a large model is loaded.

    Args:
        cache: the validation part, or None where nothing is held out.

    Raises:
        RecipeError: the recipe's metric needs more recordings than are held out.
        MetricDependencyError: CIDEr-D is asked for, and Java or pycocoevalcap is missing.
    """
    held_out = 0 if cache is None else len(cache.caption_audio[trainable_rows(cache, args.mode)].unique())
    needed = 2 if args.validate_metric == "cider_d" else int(args.keep == "best" or args.patience > 0)
    if held_out < needed:
        raise RecipeError(
            "validation_fraction",
            f"is {args.validation_fraction}, which holds out {held_out} usable recordings; {needed} are needed",
            "Use a larger one, or validate_metric: loss, keep: last and patience: 0",
        )
    if args.validate_metric == "cider_d":
        METRICS["cider_d"].check(ScoreOptions())


class CaptionValidation:
    """Figures of a model on the held-out recordings; the processes share the rows.

    Args:
        cache: the validation part, or None where nothing is held out.
    """

    def __init__(
        self,
        cache: EmbeddingCache | None,
        args: DecoderTrainingArguments,
        link: BridgeModel | None,
        scheduler: DDIMScheduler | None,
        accelerator: Accelerator,
    ):
        self.cache, self.args, self.accelerator = cache, args, accelerator
        self.link, self.scheduler = link, scheduler
        self.rows = torch.empty(0, dtype=torch.long) if cache is None else trainable_rows(cache, args.mode)
        # One row per recording, with all captions of it for references.
        self.references: dict[int, list[str]] = {}
        self.first: dict[int, int] = {}
        for row in self.rows.tolist():
            recording = int(cache.caption_audio[row])
            self.first.setdefault(recording, row)
            self.references.setdefault(recording, []).append(cache.captions[row])

    def measure(self, model: CaptionModel) -> dict[str, float]:
        """``loss`` per caption token, ``perplexity`` and, if the recipe asks for it, ``cider_d``; {} without rows."""
        if not len(self.rows):
            return {}
        was_training = model.training
        model.eval()
        figures = self._loss(model)
        if self.args.validate_metric == "cider_d":
            figures["cider_d"] = self._cider_d(model)
        model.train(was_training)
        return figures

    def score(self, figures: dict[str, float]) -> float:
        """The recipe's metric as a number that is better when higher."""
        value = figures[self.args.validate_metric]
        return -value if self.args.validate_metric == "loss" else value

    def samples(self, model: CaptionModel) -> list[tuple[str, str]]:
        """(first reference, written caption) of a few recordings; all processes write them, as FSDP needs."""
        was_training = model.training
        model.eval()
        recordings = list(self.first)[:SAMPLES]
        written = self._write(model, torch.tensor([self.first[recording] for recording in recordings]))
        model.train(was_training)
        return [(self.references[recording][0], text) for recording, text in zip(recordings, written, strict=True)]

    @torch.no_grad()
    def _loss(self, model: CaptionModel) -> dict[str, float]:
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # loss and tokens, both summed
        for part, counts in self._own_batches(self.rows):
            ids, mask = model.decoder.tokenize([self.cache.captions[i] for i in part.tolist()])
            loss = model(self._embeds(part), ids, mask)
            if counts:
                total[0] += loss
                total[1] += mask.sum()
        loss, tokens = self.accelerator.reduce(total, "sum").tolist()
        return {"loss": loss / tokens, "perplexity": math.exp(min(loss / tokens, 50))}

    def _cider_d(self, model: CaptionModel) -> float:
        recordings = list(self.first)[: self.args.validation_captions]
        own: list[tuple[int, str]] = []  # place among the recordings, caption
        for places, counts in self._own_batches(torch.arange(len(recordings))):
            written = self._write(model, torch.tensor([self.first[recordings[k]] for k in places.tolist()]))
            own += zip(places.tolist(), written, strict=True) if counts else []
        captions = dict(gather_object(own) if self.accelerator.num_processes > 1 else own)
        value = [0.0]
        if self.accelerator.is_main_process:
            candidates = [captions[k] for k in range(len(recordings))]
            references = [self.references[recording] for recording in recordings]
            value = [score(candidates, references, ["cider_d"]).corpus["cider_d"]]
        return broadcast_object_list(value)[0]

    @torch.no_grad()
    def _write(self, model: CaptionModel, rows: torch.Tensor) -> list[str]:
        with self.accelerator.autocast():
            return model.write(self._embeds(rows))

    def _embeds(self, rows: torch.Tensor) -> torch.Tensor:
        device = self.accelerator.device
        return embeds_of(self.cache, rows, self.args.mode, self.link, self.scheduler, device)

    def _own_batches(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, bool]]:
        """This process's part of ``rows`` (K,), batch by batch, and whether the batch counts.

        Every process has as many batches, because with FSDP they gather weights in step: one that has no row left
        works on another's, in vain.
        """
        for batch in rows.split(ROWS_AT_ONCE * self.accelerator.num_processes):
            own = batch[self.accelerator.process_index :: self.accelerator.num_processes]
            yield (own, True) if len(own) else (batch[:1], False)
