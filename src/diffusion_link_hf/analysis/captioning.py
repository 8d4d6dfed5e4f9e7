"""Captions of held-out recordings: written from embeddings, scored against references, with resampled intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch.nn import functional as F

from ..bridges.base import BridgeModel
from ..embeddings.cache import EmbeddingCache
from ..errors import DataError
from ..metrics import METRICS, CaptionScores, MetricDependencyError, score
from ..metrics.registry import ScoreOptions
from ..models.decoder import CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from .bootstrap import Estimate, GroupBootstrap, average
from .event_words import KINDS, EventWords, kind

METRICS_ALWAYS = ("meteor", "cider_d", "bleu_4", "rouge_l")
METRICS_IF_INSTALLED = ("spice", "spider", "fense")
# Their corpus scores take the counts of all captions together and are no means over captions.
AGGREGATED = frozenset({"meteor", "bleu_1", "bleu_2", "bleu_3", "bleu_4"})
PER_CAPTION = "_per_caption"  # what the mean over captions of such a score is called


@dataclass(frozen=True)
class HeldOut:
    """Recordings to be captioned.

    Attributes:
        names: N strings.
        audio: (N, D) float32, their embeddings.
        references: N lists of one or more captions.
    """

    names: list[str]
    audio: torch.Tensor
    references: list[list[str]]

    @classmethod
    def from_cache(cls, cache: EmbeddingCache) -> "HeldOut":
        """The recordings of a cache that have captions.

        Raises:
            DataError: there are fewer than two, of which no document frequency and no interval could be had.
        """
        references: list[list[str]] = [[] for _ in cache.audio]
        for caption, owner in zip(cache.captions, cache.caption_audio.tolist(), strict=True):
            if owner >= 0:
                references[owner].append(caption)
        rows = [row for row, own in enumerate(references) if own]
        if len(rows) < 2:
            having = "only 1 has captions" if rows else "none has captions"
            raise DataError(
                "held-out recordings", f"{having}, at least 2 are needed", "Hold out more, or use a cache with audio"
            )
        return cls([cache.audio_names[row] for row in rows], cache.audio[rows], [references[row] for row in rows])

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Run:
    """One decoder to be trained and to caption the held-out recordings.

    Attributes:
        mode: "zeroshot" or "supervised".
        method: of the bridge, or "none".
        seed: of bridge and decoder.
    """

    mode: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.method}, seed {self.seed}"

    def inside(self, folder: Path) -> Path:
        """The run's own folder below ``folder``."""
        return folder / self.mode / self.method / f"seed{self.seed}"


@dataclass(frozen=True)
class FinishedRun:
    """What a run left.

    Attributes:
        run: which.
        captions: of the held-out recordings, in their order.
        bridge: class of the bridge, or None without one.
        bridge_steps: optimization steps of the bridge, 0 for a closed form.
        seconds: of ``bridge``, ``decoder`` and ``captions``; None where a stage was resumed or there is none.
    """

    run: Run
    captions: list[str]
    bridge: str | None
    bridge_steps: int
    seconds: dict[str, float | None]


@torch.no_grad()
def caption_embeddings(
    audio: torch.Tensor,
    projector: PrefixProjector,
    decoder: CaptionDecoder,
    link: BridgeModel | None = None,
    scheduler: DDIMScheduler | None = None,
    batch_size: int = 64,
    **generation,
) -> list[str]:
    """What an `AudioCaptionPipeline` of these parts writes for recordings with these embeddings.

    Args:
        audio: (N, D) CLAP embeddings of any norm but zero.
        link, scheduler: None for the paper's baseline, which reads the embeddings as they are.
        batch_size: recordings captioned at once; the captions do not depend on it.
        generation: as `CaptionDecoder.generate`; greedy by default.

    Returns:
        N captions.
    """
    captions = []
    for rows in audio.split(batch_size):
        embeds = rows.to(decoder.device)
        if link is not None:
            embeds = link.bridge(embeds, "audio", scheduler=scheduler)
        prefix = projector(F.normalize(embeds.float(), dim=-1).to(projector.dtype))
        captions += [texts[0] for texts in decoder.generate(prefix, **generation)]
    return captions


def installed_metrics() -> tuple[list[str], dict[str, str]]:
    """`METRICS_ALWAYS` and those of `METRICS_IF_INSTALLED` that are; what to do about each of the others."""
    names, missing = list(METRICS_ALWAYS), {}
    for name in METRICS_IF_INSTALLED:
        try:
            for family in (*METRICS[name].parts, name):
                METRICS[family].check(ScoreOptions())
            names.append(name)
        except MetricDependencyError as error:
            missing[name] = error.remedy
    return names, missing


def check_scoring(references: Sequence[Sequence[str]], metrics: Sequence[str]) -> None:
    """Score each first reference as if it were a caption, so that what cannot be scored fails before any training.

    Raises:
        DiffusionLinkError: see `score`.
    """
    score([own[0] for own in references], references, metrics)


class EventAccuracy:
    """Which captions name exactly the events that the references of their recording name, and no other.

    Recordings whose references name no event are left out.

    Args:
        words: the table of events.
        references: of the N recordings.

    Attributes:
        counts: kind → number of recordings, of those kinds that there are.

    Raises:
        DataError: no reference names an event.
    """

    def __init__(self, words: EventWords, references: Sequence[Sequence[str]]):
        self.words = words
        self.events = [words.of_references(own) for own in references]
        self.kinds = [
            kind(events, own) if events else None for events, own in zip(self.events, references, strict=True)
        ]
        self.counts = {name: self.kinds.count(name) for name in KINDS if name in self.kinds}
        if not self.counts:
            raise DataError("events", "do not occur in any reference", "Use words that occur in the captions")

    def estimates(self, candidates: Sequence[str], boot: GroupBootstrap) -> dict[str, Estimate]:
        """``event_accuracy`` of all recordings and of each kind, such as ``event_accuracy, one event``."""
        right = np.array([self.words.named(text) == own for text, own in zip(candidates, self.events, strict=True)])
        found = {"event_accuracy": self._share(right, [name is not None for name in self.kinds], boot)}
        for name in self.counts:
            found[f"event_accuracy, {name}"] = self._share(right, [own == name for own in self.kinds], boot)
        return found

    @staticmethod
    def _share(right: np.ndarray, chosen: Sequence[bool], boot: GroupBootstrap) -> Estimate:
        rows = np.flatnonzero(chosen)
        with np.errstate(invalid="ignore"):  # a resample without any recording of a rare kind does not count
            return boot.mean(right[rows].astype(np.float64), rows)


@dataclass(frozen=True)
class MeasuredCaptions:
    """The figures of one run.

    Attributes:
        estimates: what is a mean over recordings, with its resamples: the scores' own names; with `PER_CAPTION` behind
            it the mean of an `AGGREGATED` one; `EventAccuracy`'s.
        corpus: scores without resamples: the aggregated ones, and those that only a corpus has.
    """

    estimates: dict[str, Estimate]
    corpus: dict[str, float]


def measure_captions(
    candidates: Sequence[str], scores: CaptionScores, boot: GroupBootstrap, events: EventAccuracy | None = None
) -> MeasuredCaptions:
    """The figures of N captions.

    Document frequencies (CIDEr-D) stay those of all references on every resample.

    Args:
        candidates: N captions.
        scores: theirs.
        boot: of the groups 0 … N − 1.
    """
    rows = np.arange(len(candidates))
    estimates = {}
    for name, values in scores.per_caption.items():
        estimates[f"{name}{PER_CAPTION}" if name in AGGREGATED else name] = boot.mean(values, rows)
    corpus = {name: value for name, value in scores.corpus.items() if name not in estimates}
    return MeasuredCaptions(estimates | (events.estimates(candidates, boot) if events else {}), corpus)


@dataclass(frozen=True)
class CaptionResult:
    """The figures of one method over its seeds, or their differences from another's.

    Attributes:
        runs: by seed, in the same order for all methods.
    """

    runs: tuple[MeasuredCaptions, ...]

    @property
    def names(self) -> list[str]:
        """Of the estimates."""
        return list(self.runs[0].estimates)

    def estimate(self, name: str) -> Estimate:
        """The mean over seeds; its interval is that over recordings."""
        return average([run.estimates[name] for run in self.runs])

    def by_seed(self, name: str) -> list[float]:
        """The figure of each seed."""
        return [run.estimates[name].value for run in self.runs]

    def __sub__(self, other: "CaptionResult") -> "CaptionResult":
        """Seed by seed and resample by resample: the same recordings, weights' seed and order of batches."""
        return CaptionResult(
            tuple(
                MeasuredCaptions({name: run.estimates[name] - base.estimates[name] for name in run.estimates}, {})
                for run, base in zip(self.runs, other.runs, strict=True)
            )
        )
