"""Zero-shot classification: how probable each of some labels is for a recording, by CLAP alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..audio import WINDOW_SECONDS
from ..errors import InputError
from ..pipelines.sound_search import SoundSearchPipeline
from .heard_files import hear_files
from .sound_index import SoundIndex

TEMPLATE = "This is a sound of {}."  # that of the zero-shot audio classification pipeline of transformers
ROWS_AT_A_TIME = 4096

DEFAULT_LOGIT_SCALE = 20.0  # where CLAP has none: its probabilities are then a ranking, not calibrated


@dataclass(frozen=True)
class ClassifiedSound:
    """What a recording, or a window of it, is taken for.

    Attributes:
        file: name of the recording.
        start, end: seconds that were listened to; None if it failed.
        probabilities: {label: probability}, most probable first; they add up to 1. Empty for silence, and if it failed.
        error: why it could not be read.
    """

    file: str
    start: float | None = None
    end: float | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    error: str | None = None


def classify_sounds(
    pipeline: SoundSearchPipeline,
    sounds: SoundIndex | str | Path | Iterable[str | Path],
    labels: Sequence[str],
    *,
    template: str = TEMPLATE,
    bridge: bool = False,
    logit_scale: float | None = None,
    each_window: bool = False,
    hop_seconds: float = WINDOW_SECONDS,
    batch_size: int = 32,
    max_duration: float | None = None,
) -> Iterator[ClassifiedSound]:
    """Zero-shot classification of recordings by labels in words.

    The probabilities of a window are the softmax, over the labels, of the cosines of its embedding and the labels'
    text embeddings, times CLAP's logit scale (Radford et al. 2021, Sec. 3.1.2). They tell the labels from each other:
    one of them gets the most even where none fits. Those of a recording are the mean over its windows.

    Args:
        pipeline: embeds sounds and labels.
        sounds: a `SoundIndex`, whose recordings are not read again; or files, folders and addresses as `iter_sources`.
        labels: at least two different ones.
        template: text with ``{}`` where a label goes; "{}" takes labels as they are.
        bridge: whether the pipeline's link maps sounds to text-like embeddings first.
        logit_scale: above 0; by default that of CLAP, or 20 for a CLAP that has none, such as that of ``tiny``.
        each_window: whether every window is classified for itself.
        hop_seconds, batch_size, max_duration: as `index_sounds`, of recordings that are read.

    Yields:
        A `ClassifiedSound` for each recording, or each window, in order; one with the error for what cannot be read.

    Raises:
        InputError: an option out of range; no link to bridge with.
        DataError: another CLAP made the index.

    Examples:
        >>> import tempfile, pathlib, numpy, soundfile
        >>> from diffusion_link_hf import SoundSearchPipeline, classify_sounds
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.wav"
        >>> soundfile.write(path, numpy.random.default_rng(0).normal(0, 0.05, 24_000), 48_000)
        >>> pipe = SoundSearchPipeline.from_pretrained("tiny")
        >>> [one] = classify_sounds(pipe, path, ["rain", "a dog barking"])
        >>> sorted(one.probabilities), round(sum(one.probabilities.values()), 6)
        (['a dog barking', 'rain'], 1.0)
    """
    classifier = _Classifier(pipeline, labels, template, bridge, logit_scale)
    if isinstance(sounds, SoundIndex):
        sounds.check_made_by(pipeline)
        return _of_index(classifier, sounds, each_window)
    options = {"hop_seconds": hop_seconds, "batch_size": batch_size, "max_duration": max_duration}
    return _of_files(classifier, sounds, each_window, options)


class _Classifier:
    """(N, D) embeddings → (N, L) probabilities."""

    def __init__(
        self,
        pipeline: SoundSearchPipeline,
        labels: Sequence[str],
        template: str,
        bridge: bool,
        logit_scale: float | None,
    ):
        self.pipeline, self.labels, self.bridge = pipeline, _checked_labels(labels), bridge
        if not isinstance(template, str) or template.count("{}") != 1:
            raise InputError("template", f"is {template!r}", "Write {} once, where the label goes")
        scale = (pipeline.logit_scale or DEFAULT_LOGIT_SCALE) if logit_scale is None else logit_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
            raise InputError("logit_scale", f"is {scale!r}", "Use a number above 0")
        if bridge:
            pipeline.bridge_rows(torch.empty(0, pipeline.clap.embedding_dim))  # says if there is no link
        texts = pipeline.encode_text([template.replace("{}", label) for label in self.labels])
        self._scaled_texts = scale * texts.double().cpu()

    def __call__(self, embeds: torch.Tensor) -> torch.Tensor:
        rows = self.pipeline.bridge_rows(embeds) if self.bridge else embeds
        return (rows.double() @ self._scaled_texts.T).softmax(-1)

    def found(self, file: str, start: float, end: float, row: torch.Tensor) -> ClassifiedSound:
        """(L,) probabilities by label, most probable first."""
        order = row.argsort(descending=True, stable=True).tolist()
        return ClassifiedSound(file, start, end, {self.labels[k]: float(row[k]) for k in order})


def _checked_labels(labels: Sequence[str]) -> list[str]:
    """Raises InputError for what is no list of at least two different labels."""
    if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise InputError("labels", f"are {labels!r}", "Pass a list of texts, none of them empty")
    labels = [label.strip() for label in labels]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError("labels", f"are {', '.join(labels) or 'none'}", "Name at least two different ones")
    return labels


def _of_files(
    classify: _Classifier, paths: str | Path | Iterable[str | Path], each_window: bool, options: dict[str, Any]
) -> Iterator[ClassifiedSound]:
    windows: list[tuple[float, float, torch.Tensor | None]] = []
    for name, one in hear_files(classify.pipeline, paths, **options):
        if not one.ended:
            windows.append((one.start, one.end, None if one.embed is None else classify(one.embed[None])[0]))
            continue
        if one.error is not None:
            yield ClassifiedSound(name, error=str(one.error))
        elif each_window:
            for start, end, row in windows:
                silent = ClassifiedSound(name, start, end)
                yield silent if row is None else classify.found(name, start, end, row)
        else:
            start, end = windows[0][0], windows[-1][1]
            rows = [row for _, _, row in windows if row is not None]
            silent = ClassifiedSound(name, start, end)
            yield classify.found(name, start, end, torch.stack(rows).mean(0)) if rows else silent
        windows = []


def _of_index(classify: _Classifier, index: SoundIndex, each_window: bool) -> Iterator[ClassifiedSound]:
    rows, owners, times = index.windows()
    names = index.files
    bounds = torch.searchsorted(owners, torch.arange(len(names) + 1)).tolist()
    for name, first, last in zip(names, bounds, bounds[1:], strict=False):
        file = index.path_of(name)
        if first == last:  # silent from start to end
            yield ClassifiedSound(file)
            continue
        parts = rows[first:last].split(ROWS_AT_A_TIME)
        probabilities = torch.cat([classify(part) for part in parts])
        if each_window:
            for row, (start, end) in zip(probabilities, times[first:last].tolist(), strict=True):
                yield classify.found(file, start, end, row)
        else:
            start, end = float(times[first, 0]), float(times[last - 1, 1])
            yield classify.found(file, start, end, probabilities.mean(0))
