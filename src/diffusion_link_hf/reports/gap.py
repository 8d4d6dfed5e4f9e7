"""The gap report: report.md for people, results.json for machines and for the Hub's `EvalResult`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult

from ..analysis.bootstrap import Estimate
from ..analysis.evaluation import EvaluationSettings, MethodResult
from ..embeddings.pairs import EmbeddingPairs
from ..errors import DataError
from .published import TABLE_1, TABLE_1_NAMES

FORMAT = "diffusion-link gap report 1"
LEVEL = 0.95
DIGITS = 6  # of stored figures: what is beyond float32's resolution differs from machine to machine
# What a bridge has to beat, those of them that were measured.
BASELINES = ("identity", "centering", "ridge", "procrustes", "mlp")
COMPARED = ("matched_audio", "source_to_target_r1", "target_to_source_r1")
COSINES = {
    "matched_audio": "audio, matched",
    "matched_text": "text, matched",
    "unmatched_audio": "audio, not matched",
    "unmatched_text": "text, not matched",
}
GEOMETRY = {
    "centroid_distance": "centroid distance",
    "linear_separability": "linear separability",
    "effective_dimension": "effective dimension",
    "text_effective_dimension": "… of the real text",
    "kl_divergence": "KL (nats)",
}


def describe_data(
    name: str, train: EmbeddingPairs, held_out: EmbeddingPairs, fingerprint: str, **more: Any
) -> dict[str, Any]:
    """What a report says of its data: sizes of both parts, width, and the hash of all rows."""
    sizes = {
        f"{part}_{what}": count
        for part, rows in (("train", train), ("held_out", held_out))
        for what, count in (("rows", len(rows.target)), ("recordings", len(rows.group.unique())))
    }
    unpaired = {"unpaired_source": len(train.unpaired_source), "unpaired_target": len(train.unpaired_target)}
    return {
        "name": name,
        "fingerprint": fingerprint,
        "embedding_dim": train.embedding_dim,
        **sizes,
        **unpaired,
        **more,
    }


def gap_document(
    results: Sequence[MethodResult],
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    settings: EvaluationSettings,
    title: str = "Modality gap",
    references: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything of a gap report as plain numbers and strings, ready for JSON.

    Figures are ``{"value", "low", "high", "by_seed", "std"}``: mean over seeds, its bootstrap interval over recordings
    (geometry has none), the single seeds, and their standard deviation. An infinite KL divergence is null. All that
    differs between equal runs is below ``times``.

    Args:
        training: what trained methods share.
        references: methods to compare the others with, beside the `BASELINES`.
    """
    by_name = {result.method: result for result in results}
    methods = {}
    for result in results:
        first, measured = result.runs[0]
        figures = {name: _figure(result.by_seed(name), result.estimate(name)) for name in measured.estimates}
        figures |= {name: _figure(result.by_seed(name)) for name in measured.geometry}
        methods[result.method] = {
            "class": type(first.bridge).__name__,
            "seeds": [fitted.seed for fitted, _ in result.runs],
            "steps": first.steps,
            "parameters": first.bridge.num_parameters(),
            "differs_in": {**first.recipe, **first.options},
            "figures": figures,
            "minus": {
                other: {name: _figure(None, result.estimate(name) - by_name[other].estimate(name)) for name in COMPARED}
                for other in (*BASELINES, *references)
                if other in by_name and other != result.method
            },
            "paper": dict(TABLE_1.get(result.method, {})),
        }
    return {
        "format": FORMAT,
        "title": title,
        "data": dict(data),
        "training": dict(training),
        "settings": {
            "level": LEVEL,
            **{name: getattr(settings, name) for name in ("resamples", "seed", "kl_components")},
        },
        "methods": methods,
        "times": {
            result.method: {
                "fit_seconds": [fitted.seconds for fitted, _ in result.runs],
                "bridge_seconds_per_1000_rows": [round(measured.seconds, 4) for _, measured in result.runs],
            }
            for result in results
        },
    }


def write_document(document: Mapping[str, Any], markdown: str, folder: str | Path) -> None:
    """Write ``results.json`` and ``report.md``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "report.md").write_text(markdown, encoding="utf-8")


def eval_results(document: Mapping[str, Any], method: str, dataset_type: str | None = None) -> list[EvalResult]:
    """A model card's evaluation results of one method.

    Args:
        document: from `gap_document`, or read from ``results.json``.
        method: a name in it.
        dataset_type: id of the data set on the Hub; its name in the report by default.

    Raises:
        DataError: another document, or a method that it does not hold.
    """
    if document.get("format") != FORMAT:
        raise DataError("results", f"have the format {document.get('format')!r}", f"Pass a {FORMAT!r}")
    if method not in document["methods"]:
        raise DataError("results", f"do not hold {method!r}", f"Use one of {', '.join(document['methods'])}")
    data = document["data"]
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=dataset_type or data["name"],
            dataset_name=data["name"],
            dataset_split="held out",
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=figure["value"],
        )
        for name, figure in document["methods"][method]["figures"].items()
        if figure["value"] is not None
    ]


def gap_markdown(document: Mapping[str, Any], pictures: Sequence[str] = ()) -> str:
    """report.md, from the document alone.

    Args:
        pictures: file names beside the report, shown at its end.
    """
    methods, data, settings = document["methods"], document["data"], document["settings"]
    seeds = sorted({seed for method in methods.values() for seed in method["seeds"]})
    parts = [
        f"# {document['title']}\n",
        f"{data['held_out_rows']:,} held-out rows of {data['held_out_recordings']:,} recordings from {data['name']} "
        f"(width {data['embedding_dim']}, {data['fingerprint']}); fitted on {data['train_rows']:,} rows of "
        f"{data['train_recordings']:,} other recordings. Seeds: {', '.join(map(str, seeds))}. "
        f"{intervals_line(settings)} “Audio” is the side that a bridge comes from, “text” the one that it leads to.\n",
        *_training_line(document["training"]),
        *left_out_section(data.get("left_out", ())),
        "## Who wins\n",
        *[f"- {line}" for line in _winners(methods)],
        "",
        "## Cosine with the real text (the paper's Table 1)\n",
        "The paper's figures are of LAION-CLAP on AudioCaps: another encoder and other data. `identity` (raw) and "
        "`memory` stay in the encoder's own space, the others are centered: compare levels within one space only; "
        "not-matched cosines near zero are the work of centering alone.\n",
        table(
            ["method", *COSINES.values(), "the paper's, in this order"],
            ([name, *_cells(method, COSINES), _paper_cell(name)] for name, method in methods.items()),
        ),
        "## Retrieval\n",
        "Share of held-out items whose partner is among the first k: a higher cosine is not more information. "
        "`identity` is the state before bridging. Ties count as they would fall by chance.\n",
        *[
            table(
                [f"method, {words}", *(f"R@{k}" for k in (1, 5, 10))],
                ([name, *_cells(method, [f"{way}_r{k}" for k in (1, 5, 10)])] for name, method in methods.items()),
            )
            for way, words in (("source_to_target", "audio → text"), ("target_to_source", "text → audio"))
        ],
        "## Differences from the baselines\n",
        "Of the same recordings, so these intervals are narrower than the tables' suggest. Bold: zero is outside.\n",
        table(
            ["method", "minus", "matched cosine", "R@1 audio → text", "R@1 text → audio"],
            (
                [name, other, *(difference_cell(figures[key]) for key in COMPARED)]
                for name, method in methods.items()
                for other, figures in method["minus"].items()
            ),
        ),
        *_geometry_section(methods, settings),
        "## Cost\n",
        "Methods have equal budgets: steps, batch size, learning rate, data; but for what the last column says.\n",
        table(
            ["method", "class", "parameters", "steps", "differs in"],
            (
                [name, method["class"], f"{method['parameters']:,}", _or_unknown(method["steps"]), _differs_in(method)]
                for name, method in methods.items()
            ),
        ),
        *[f"![{Path(picture).stem}]({picture})\n" for picture in pictures],
        times_section(document["times"]),
    ]
    return "\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others are centered."""
    lines = [header, ["---", *[":---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def intervals_line(settings: Mapping[str, Any]) -> str:
    """What brackets and ± mean."""
    return (
        f"Brackets: {settings['level']:.0%} intervals of the mean over seeds, by {settings['resamples']:,} bootstrap "
        "resamples of recordings; ±: standard deviation over seeds."
    )


def left_out_section(failures: Sequence[Mapping[str, str]]) -> list[str]:
    """The recordings that could not be embedded, each with its reason."""
    if not failures:
        return []
    rows = ([failure["audio"], failure["reason"].replace("|", "\\|")] for failure in failures)
    return [f"{len(failures):,} recordings are left out, with their captions:\n", table(["recording", "why"], rows)]


def times_section(times: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """The last section of a report: the only one that differs between equal runs."""

    def mean(seconds: Sequence[float | None], digits: int) -> str:
        return "–" if None in seconds else f"{np.mean(seconds):.{digits}f}"

    return "## Times\n\n" + table(
        ["method", "fitting (s)", "bridging 1,000 rows (s)"],
        ([name, mean(of["fit_seconds"], 1), mean(of["bridge_seconds_per_1000_rows"], 3)] for name, of in times.items()),
    )


def with_interval(figure: Mapping[str, Any], digits: int = 3) -> str:
    """“0.688 [0.680, 0.696] ±0.002”, as far as there are intervals and several seeds; “∞” for null."""
    if figure["value"] is None:
        return "∞"
    text = f"{figure['value']:.{digits}f}"
    if figure["low"] is not None:
        text += f" [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    if len(figure["by_seed"]) > 1 and figure["std"] is not None:
        text += f" ±{figure['std']:.{digits}f}"
    return text


def figure_of(result: MethodResult, name: str) -> dict[str, Any]:
    """A figure of a method as documents hold it; see `gap_document`."""
    return _figure(result.by_seed(name), result.estimate(name))


def _figure(by_seed: Sequence[float] | None, estimate: Estimate | None = None) -> dict[str, Any]:
    low, high = estimate.interval(LEVEL) if estimate else (None, None)
    value = estimate.value if estimate else float(np.mean(by_seed))
    rounded = {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high)}
    if by_seed is None:
        return rounded
    std = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 and np.isfinite(by_seed).all() else None
    return {**rounded, "by_seed": [_rounded(one) for one in by_seed], "std": _rounded(std)}


def _rounded(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return round(value, DIGITS) + 0.0  # no negative zero


def _training_line(training: Mapping[str, Any]) -> list[str]:
    if not training:
        return []
    return ["Training: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in training.items()) + ".\n"]


def _winners(methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Plain sentences: the best of each figure, and what beats every baseline outside of the intervals."""
    words = {
        "matched_audio": "matched cosine, audio-driven",
        "source_to_target_r1": "recall@1, audio → text",
        "target_to_source_r1": "recall@1, text → audio",
    }
    for key, what in words.items():
        best = max(methods, key=lambda name: methods[name]["figures"][key]["value"])
        yield f"Highest {what}: **{best}**, {with_interval(methods[best]['figures'][key])}."
    for name, method in methods.items():
        if name in BASELINES:
            continue
        won = [
            what
            for key, what in words.items()
            if method["minus"] and all(figures[key]["low"] > 0 for figures in method["minus"].values())
        ]
        others = ", ".join(method["minus"])
        yield f"{name} beats all of {others} outside of the intervals in: {'; '.join(won) or 'nothing'}."


def _cells(method: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    return [with_interval(method["figures"][name]) for name in names]


def _paper_cell(name: str) -> str:
    if name not in TABLE_1:
        return "–"
    return f"{TABLE_1_NAMES[name]}: " + " · ".join(f"{TABLE_1[name][key]:.3f}" for key in COSINES)


def difference_cell(figure: Mapping[str, Any], factor: int = 1, digits: int = 3) -> str:
    """A difference, ``factor`` times, with its interval; bold where that leaves out zero."""
    value, low, high = (f"{factor * figure[key]:+.{digits}f}" for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if figure["low"] > 0 or figure["high"] < 0 else text


def _geometry_section(methods: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    if not all("kl_divergence" in method["figures"] for method in methods.values()):
        return []
    return [
        "## Geometry of bridged audio against real text\n",
        "Centroid distance 0–2. Linear separability: balanced accuracy on unseen recordings, 0.5 if a linear rule "
        "cannot tell them apart. Effective dimension: participation ratio of the covariance. "
        f"KL(bridged ‖ real): of Gaussians in at most {settings['kl_components']} principal axes of the training text, "
        "corrected for finite samples; “∞” where a bridge fills fewer.\n",
        table(
            ["method", *GEOMETRY.values()],
            (
                [
                    name,
                    *(with_interval(method["figures"][key], digits=1 if "dimension" in key else 3) for key in GEOMETRY),
                ]
                for name, method in methods.items()
            ),
        ),
    ]


def _differs_in(method: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in method["differs_in"].items()) or "–"


def _or_unknown(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
