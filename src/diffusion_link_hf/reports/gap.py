"""The gap report: report.md for people, results.json for machines and for the Hub's `EvalResult`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..analysis.gap_measures import BASELINES, GapSettings, MethodResult
from ..embeddings.pairs import EmbeddingPairs
from ..errors import DataError
from .gap_readouts import readouts_document, readouts_section
from .markdown import (
    LEVEL,
    difference_cell,
    figure,
    figure_of,
    intervals_line,
    left_out_section,
    table,
    times_section,
    with_interval,
)
from .published import TABLE_1, TABLE_1_NAMES, TABLE_2

FORMAT = "diffusion-link gap report 1"
# What source and target are called where nothing else is said; the paper's own direction.
AUDIO_TO_TEXT = ("audio", "text")
COMPARED = ("matched_audio", "source_to_target_r1", "target_to_source_r1")
# In these keys "audio" is the side that a bridge comes from and "text" the one that it leads to, whatever their names.
COSINES = ("matched_audio", "matched_text", "unmatched_audio", "unmatched_text")
GRID_FIGURES = ("matched_audio", "matched_text", "unmatched_audio", "source_to_target_r1", "target_to_source_r1")
GEOMETRY = (
    "centroid_distance",
    "linear_separability",
    "effective_dimension",
    "text_effective_dimension",
    "kl_divergence",
)


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
    settings: GapSettings,
    title: str = "Modality gap",
    references: Sequence[str] = (),
    names: tuple[str, str] = AUDIO_TO_TEXT,
    grid: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Everything of a gap report as plain numbers and strings, ready for JSON.

    Figures are ``{"value", "low", "high", "by_seed", "std"}``: mean over seeds, its bootstrap interval over recordings
    (geometry has none), the single seeds, and their standard deviation. An infinite KL divergence is null. In their
    names, "audio" stands for the source and "text" for the target, whatever ``names`` says. All that differs between
    equal runs is below ``times``.

    Args:
        training: what trained methods share.
        references: methods to compare the others with, beside the `BASELINES`.
        names: of source and target. The paper's figures are from audio to text, and in no other document.
        grid: points of grids: ``row``, a method of ``results``; ``variant`` and ``method`` of the bridge; and its
            ``noise_timestep``, ``num_inference_steps`` and ``add_noise``.
    """
    by_name = {result.method: result for result in results}
    methods = {}
    for result in results:
        first, measured = result.runs[0]
        figures = {name: figure_of(result, name) for name in measured.estimates}
        figures |= {name: figure(result.by_seed(name)) for name in measured.geometry}
        methods[result.method] = {
            "class": type(first.bridge).__name__,
            "seeds": [fitted.seed for fitted, _ in result.runs],
            "steps": first.steps,
            "parameters": first.bridge.num_parameters(),
            "differs_in": {**first.recipe, **first.options},
            "figures": figures,
            "minus": {
                other: {name: figure(None, result.estimate(name) - by_name[other].estimate(name)) for name in COMPARED}
                for other in (*BASELINES, *references)
                if other in by_name and other != result.method
            },
            "paper": dict(TABLE_1.get(result.method, {})) if tuple(names) == AUDIO_TO_TEXT else {},
        }
    return {
        "format": FORMAT,
        "title": title,
        "names": list(names),
        "data": dict(data),
        "training": dict(training),
        "settings": {
            "level": LEVEL,
            **{name: getattr(settings, name) for name in ("resamples", "seed", "kl_components")},
        },
        "methods": methods,
        "readouts": readouts_document(results, references),
        "grid": [dict(point) for point in grid],
        "times": {
            result.method: {
                "fit_seconds": [fitted.seconds for fitted, _ in result.runs],
                "bridge_seconds_per_1000_rows": [round(measured.seconds, 4) for _, measured in result.runs],
            }
            for result in results
        },
    }


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
            metric_name=_words(name, *document["names"]),
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
    data, settings = document["data"], document["settings"]
    points = {point["row"] for point in document["grid"]}
    methods = {name: method for name, method in document["methods"].items() if name not in points}
    source, target = document["names"]
    items = "recordings" if _is_audio(document) else "items"
    seeds = sorted({seed for method in document["methods"].values() for seed in method["seeds"]})
    forward, backward = f"{source} → {target}", f"{target} → {source}"
    parts = [
        f"# {document['title']}\n",
        f"{data['held_out_rows']:,} held-out rows of {data['held_out_recordings']:,} {items} from {data['name']} "
        f"(width {data['embedding_dim']}, {data['fingerprint']}); fitted on {data['train_rows']:,} rows of "
        f"{data['train_recordings']:,} other {items}. Seeds: {', '.join(map(str, seeds))}. "
        f"{intervals_line(settings, items)} Bridges lead from {source} to {target}.\n",
        *_training_line(document["training"]),
        *left_out_section(data.get("left_out", ())),
        "## Who wins\n",
        *[f"- {line}" for line in _winners(document, methods)],
        "",
        *_cosine_section(document, methods),
        "## Retrieval\n",
        "Share of held-out items whose partner is among the first k. A higher cosine does not mean more information. "
        "`identity` is the state before bridging. Ties count as they would fall by chance.\n",
        *[
            table(
                [f"method, {words}", *(f"R@{k}" for k in (1, 5, 10))],
                ([name, *_cells(method, [f"{way}_r{k}" for k in (1, 5, 10)])] for name, method in methods.items()),
            )
            for way, words in (("source_to_target", forward), ("target_to_source", backward))
        ],
        *readouts_section(document),
        *_grid_section(document),
        "## Differences from the baselines\n",
        f"Of the same {items}, so these intervals are narrower than the tables suggest. Bold: zero is outside.\n",
        table(
            ["method", "minus", "matched cosine", f"R@1 {forward}", f"R@1 {backward}"],
            (
                [name, other, *(difference_cell(figures[key]) for key in COMPARED)]
                for name, method in methods.items()
                for other, figures in method["minus"].items()
            ),
        ),
        *_geometry_section(document, methods),
        "## Cost\n",
        "All trained methods have equal budgets (steps, batch size, learning rate, data), except where the last column "
        "says otherwise.\n",
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


def _is_audio(document: Mapping[str, Any]) -> bool:
    """Whether the paper's figures belong beside these: from audio to text."""
    return tuple(document["names"]) == AUDIO_TO_TEXT


def _words(key: str, source: str, target: str) -> str:
    """A figure's key as words, with the sides by their names."""
    names = {"audio": source, "text": target, "source": source, "target": target}
    return " ".join(names.get(part, part) for part in key.split("_"))


def _training_line(training: Mapping[str, Any]) -> list[str]:
    if not training:
        return []
    return ["Training: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in training.items()) + ".\n"]


def _winners(document: Mapping[str, Any], plain: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Plain sentences: the best of each figure, and what beats every baseline outside of the intervals."""
    methods, (source, target) = document["methods"], document["names"]
    words = {
        "matched_audio": f"matched cosine, from {source}",
        "source_to_target_r1": f"recall@1, {source} → {target}",
        "target_to_source_r1": f"recall@1, {target} → {source}",
    }
    for key, what in words.items():
        best = max(methods, key=lambda name: methods[name]["figures"][key]["value"])
        yield f"Highest {what}: **{best}**, {with_interval(methods[best]['figures'][key])}."
    for name, method in plain.items():
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


def _cosine_section(document: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    source, target = document["names"]
    header = [f"{source}, matched", f"{target}, matched", f"{source}, not matched", f"{target}, not matched"]
    spaces = (
        "`identity` (raw) and `memory` stay in the encoder's own space, the others are centered: compare levels within "
        "one space only. Not-matched cosines near zero come from centering alone.\n"
    )
    if not _is_audio(document):
        rows = ([name, *_cells(method, COSINES)] for name, method in methods.items())
        return [f"## Cosine with the real {target}\n", spaces, table(["method", *header], rows)]
    rows = ([name, *_cells(method, COSINES), _table_1_cell(name)] for name, method in methods.items())
    return [
        "## Cosine with the real text (the paper's Table 1)\n",
        f"The paper's figures are of LAION-CLAP on AudioCaps: another encoder and other data. {spaces}",
        table(["method", *header, "the paper's, in this order"], rows),
    ]


def _table_1_cell(name: str) -> str:
    if name not in TABLE_1:
        return "–"
    return f"{TABLE_1_NAMES[name]}: " + " · ".join(f"{TABLE_1[name][key]:.3f}" for key in COSINES)


def _grid_section(document: Mapping[str, Any]) -> list[str]:
    """Similarity and recall by s*, number of steps and input noise, where a variant has a grid."""
    if not document["grid"]:
        return []
    source, target = document["names"]
    header = ["variant", "s*", "steps", "noised", f"matched, {source}", f"matched, {target}", "not matched"]
    header += [f"R@1 {source} → {target}", f"R@1 {target} → {source}"]
    rows = []
    for point in document["grid"]:
        cells = [point["variant"], str(point["noise_timestep"]), str(point["num_inference_steps"])]
        cells += ["yes" if point["add_noise"] else "no", *_cells(document["methods"][point["row"]], GRID_FIGURES)]
        rows.append([*cells, _table_2_cell(point)] if _is_audio(document) else cells)
    if not _is_audio(document):
        return ["## Starting timestep\n", table(header, rows)]
    return [
        "## Starting timestep (the paper's Table 2)\n",
        "The paper's figures are of LAION-CLAP on AudioCaps, noised, in five steps.\n",
        table([*header, "the paper's"], rows),
    ]


def _table_2_cell(point: Mapping[str, Any]) -> str:
    same = point["method"] == "diffusion-link" and point["add_noise"] and point["num_inference_steps"] == 5
    return f"{TABLE_2[point['noise_timestep']]:.3f}" if same and point["noise_timestep"] in TABLE_2 else "–"


def _geometry_section(document: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not all("kl_divergence" in method["figures"] for method in methods.values()):
        return []
    source, target = document["names"]
    header = ["centroid distance", "linear separability", "effective dimension", f"… of the real {target}", "KL (nats)"]
    rows = []
    for name, method in methods.items():
        digits = {key: 1 if "dimension" in key else 3 for key in GEOMETRY}
        rows.append([name, *(with_interval(method["figures"][key], digits[key]) for key in GEOMETRY)])
    return [
        f"## Geometry of bridged {source} against real {target}\n",
        "Centroid distance 0–2. Linear separability: balanced accuracy on unseen items, 0.5 if a linear rule "
        "cannot tell them apart. Effective dimension: participation ratio of the covariance. KL(bridged ‖ real): of "
        f"Gaussians in at most {document['settings']['kl_components']} principal axes of the training {target}, "
        "corrected for finite samples; “∞” where a bridge fills fewer.\n",
        table(["method", *header], rows),
    ]


def _differs_in(method: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in method["differs_in"].items()) or "–"


def _or_unknown(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
