"""Captions of a test set scored and reported: which metrics, what becomes of one that fails, and the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.bootstrap import GroupBootstrap
from ..analysis.captioning import CaptionResult, measure_captions
from ..errors import DataError, InputError
from ..hub.results import DataSetResult
from ..metrics import METRICS, Captions, missing_dependencies, score_each, score_names
from ..metrics.predictions_file import Predictions, write_per_caption
from ..reports.markdown import write_document
from ..reports.testing import pipeline_document, pipeline_markdown, score_figures
from .written_captions import Captioned


@dataclass(frozen=True)
class Scoring:
    """How captions are scored.

    Attributes:
        metrics: names of scores.
        required: whether one that cannot be had is an error; otherwise it is listed with the reason.
        models: options of `score`.
        resamples, seed: of the bootstrap.
    """

    metrics: Sequence[str]
    required: bool
    models: Mapping[str, Any]
    resamples: int
    seed: int

    @classmethod
    def chosen(
        cls, metrics: Sequence[str] | None, skip: Sequence[str], models: Mapping[str, Any], resamples: int, seed: int
    ) -> "Scoring":
        """The scores asked for, or all, but for those to be skipped; checked before anything is captioned.

        Raises:
            InputError: an unknown name or option, nothing is left, or a number out of range.
            MetricDependencyError: something is missing for what was asked for by name.
        """
        skipped = set(score_names(skip)) if skip else set()
        names = [name for name in score_names(list(METRICS) if metrics is None else metrics) if name not in skipped]
        if not names:
            raise InputError("metrics", "are all skipped", "Leave one")
        missing = missing_dependencies(names, **models)
        if metrics is not None and missing:
            raise next(iter(missing.values()))
        GroupBootstrap(np.zeros(1), resamples, seed)
        return cls(names, metrics is not None, models, resamples, seed)


def report_captions(
    captioned: Captioned, about: Mapping[str, Mapping[str, Any]], scoring: Scoring, output: Path
) -> dict[str, Any]:
    """Score captions and write ``captions.jsonl``, ``results.json`` and ``report.md``; returns the document.

    Args:
        about: "pipeline", "data" and "settings" of `pipeline_document`, as far as the captions do not tell them.

    Raises:
        DataError: no recording could be read, or the files cannot be written.
        DiffusionLinkError: a metric that is required failed.
    """
    captions = _captions(captioned, about["data"]["name"])
    scores, failed = score_each(captions, scoring.metrics, **scoring.models)
    if scoring.required and failed:
        raise next(iter(failed.values()))
    boot = GroupBootstrap(np.arange(len(captions)), scoring.resamples, scoring.seed)
    result = CaptionResult((measure_captions(captions.candidates, scores, boot),))
    counts = {"recordings": len(captions), "references": sum(map(len, captions.references))}
    settings = {
        "resamples": scoring.resamples,
        "seed": scoring.seed,
        "metrics": list(scoring.metrics),
        "not_computed": {name: str(error) for name, error in failed.items()},
        "notes": list(scores.notes),
    }
    document = pipeline_document(
        result,
        about["pipeline"],
        {**about["data"], **counts, "left_out": list(captioned.failures)},
        {**about["settings"], **settings},
        captioned.rows,
        {"captioning": round(captioned.seconds, 1)},
    )
    others = [{name: value for name, value in row.items() if name != "candidate"} for row in captioned.rows]
    write_per_caption(output / "captions.jsonl", Predictions(captions, others), scores)
    write_document(document, pipeline_markdown(document), output)
    return document


def data_set_result(document: Mapping[str, Any]) -> DataSetResult:
    """What the pipeline's folder keeps of a report."""
    data = document["data"]
    name, _, commit = data["name"].partition("@")
    return DataSetResult(
        pipeline=document["pipeline"]["fingerprint"],
        data=name,
        recordings=data["recordings"],
        figures=score_figures(document),
        split=data["split"],
        data_revision=commit or None,
        limit=data["limit"],
        left_out=len(data["left_out"]),
        generation=document["settings"]["generation"],
    )


def _captions(captioned: Captioned, name: str) -> Captions:
    """The captions with their references.

    Raises:
        DataError: no recording could be read.
    """
    if not captioned.rows:
        reasons = [failure["reason"] for failure in captioned.failures]
        remedy = f"See the first: {reasons[0]}" if reasons else "Check the data and the split"
        raise DataError(name, f"holds no recording that can be read ({len(reasons)} failed)", remedy)
    return Captions(
        [row["candidate"] for row in captioned.rows],
        [row["references"] for row in captioned.rows],
        [row["recording"] for row in captioned.rows],
    )
