"""The captioning report: report.md, results.json and captions.jsonl, beside the paper's Tables 3 and 4."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult

from ..analysis.captioning import CaptionResult, FinishedRun, HeldOut
from ..errors import DataError
from ..files import write_whole
from .markdown import LEVEL, difference_cell, figure, figure_of, intervals_line, table, with_interval
from .published import TABLE_3, TABLE_3_OTHERS, TABLE_4, TABLE_4_OTHERS

FORMAT = "diffusion-link captioning report 2"
REFERENCES = ("none", "ridge")  # what the others are compared with
MODE_WORDS = {"zeroshot": "zero-shot", "supervised": "supervised"}
PUBLISHED = {"zeroshot": (3, TABLE_3, TABLE_3_OTHERS), "supervised": (4, TABLE_4, TABLE_4_OTHERS)}
PUBLISHED_SCORES = ("meteor", "cider_d", "spice", "spider")
NAMES = {
    "meteor": "METEOR",
    "meteor_per_caption": "METEOR, mean of captions",
    "cider_d": "CIDEr-D",
    "spice": "SPICE",
    "spider": "SPIDEr",
    "fense": "FENSE",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
}
COMPARED = ("cider_d", "meteor_per_caption", "spider", "event_accuracy")
EXAMPLES = 5  # recordings whose captions the report shows


def captioning_document(
    results: Mapping[str, Mapping[str, CaptionResult]],
    runs: Sequence[FinishedRun],
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    settings: Mapping[str, Any],
    held_out: HeldOut,
) -> dict[str, Any]:
    """Everything of a captioning report as plain numbers and strings, ready for JSON.

    Scores are fractions. Figures are as in `gap_document`; those below ``corpus`` have no interval. All that
    differs between equal runs is below ``times``.

    Args:
        results: mode → method → figures.
        runs: all of them, seeds in the order of the results'.
        data: names, sizes and fingerprints of both parts.
        training: what all runs share.
        settings: ``resamples`` and ``seed`` of the bootstrap, ``metrics``, ``missing`` ones with their remedy, and
            ``events``, the number of recordings by kind.
        held_out: the recordings that the runs captioned.
    """
    modes = {
        mode: {
            method: {
                "class": next(found.bridge for found in _of(runs, mode, method)),
                "bridge_steps": next(found.bridge_steps for found in _of(runs, mode, method)),
                "seeds": [found.run.seed for found in _of(runs, mode, method)],
                "figures": {name: figure_of(result, name) for name in result.names},
                "corpus": {name: _corpus_figure(result, name) for name in result.runs[0].corpus},
                "minus": {
                    other: {name: figure_of(result - methods[other], name) for name in result.names}
                    for other in _baselines_of(method)
                    if other in methods
                },
                "paper": dict(PUBLISHED[mode][1].get(method, {})),
            }
            for method, result in methods.items()
        }
        for mode, methods in results.items()
    }
    return {
        "format": FORMAT,
        "data": dict(data),
        "training": dict(training),
        "settings": {"level": LEVEL, **settings},
        "modes": modes,
        "examples": [_example(runs, held_out, row) for row in range(min(EXAMPLES, len(held_out)))],
        "times": {
            mode: {method: [found.seconds for found in _of(runs, mode, method)] for method in methods}
            for mode, methods in results.items()
        },
    }


def write_captions(runs: Sequence[FinishedRun], held_out: HeldOut, path: Path) -> None:
    """Every caption as a JSON line, which ``diffusion-link score`` reads too."""
    lines = []
    for found in runs:
        about = {"mode": found.run.mode, "method": found.run.method, "seed": found.run.seed}
        for name, caption, references in zip(held_out.names, found.captions, held_out.references, strict=True):
            line = {**about, "recording": name, "candidate": caption, "references": references}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(path, "".join(lines).encode())


def caption_eval_results(
    document: Mapping[str, Any], mode: str, method: str, dataset_type: str | None = None
) -> list[EvalResult]:
    """A model card's evaluation results of one method, as fractions.

    Args:
        document: from `captioning_document`, or read from ``results.json``.
        mode: "zeroshot" or "supervised".
        method: a name in it.
        dataset_type: id of the data set on the Hub; its name in the report by default.

    Raises:
        DataError: another document, or a mode or method that it does not hold.
    """
    if document.get("format") != FORMAT:
        raise DataError("results", f"have the format {document.get('format')!r}", f"Pass a {FORMAT!r}")
    found = document["modes"].get(mode, {}).get(method)
    if found is None:
        held = ", ".join(f"{one}: {' '.join(methods)}" for one, methods in document["modes"].items())
        raise DataError("results", f"do not hold {mode} {method!r}", f"They hold {held}")
    name = document["data"]["held_out_name"]
    return [
        EvalResult(
            task_type="audio-to-text",
            dataset_type=dataset_type or name,
            dataset_name=name,
            dataset_split="held out",
            metric_type=metric,
            metric_name=NAMES.get(metric, metric.replace("_", " ")),
            metric_value=figure["value"],
        )
        for metric, figure in {**found["corpus"], **found["figures"]}.items()
    ]


def captioning_markdown(document: Mapping[str, Any]) -> str:
    """report.md, from the document alone."""
    data, settings, modes = document["data"], document["settings"], document["modes"]
    seeds = sorted({seed for methods in modes.values() for method in methods.values() for seed in method["seeds"]})
    events = settings["events"]
    return "\n".join(
        [
            "# Captioning with and without bridges\n",
            f"{data['held_out_recordings']:,} held-out recordings with {data['held_out_captions']:,} references from "
            f"{data['held_out_name']}; trained on {data['train_captions']:,} captions of "
            f"{data['train_recordings']:,} other recordings from {data['train_name']}. "
            f"Seeds: {', '.join(map(str, seeds))}. All scores × 100. {intervals_line(settings)}\n",
            "METEOR and BLEU-4 are scores of the corpus, which are no means over captions: they have no interval here, "
            "and the mean of METEOR over captions, which has one, stands beside. For CIDEr-D document frequencies stay "
            "those of all references.\n",
            *_left_out_line(data["without_references"]),
            *_training_lines(document["training"]),
            *[f"{NAMES[name]} was not measured: {remedy}.\n" for name, remedy in settings["missing"].items()],
            "## Who wins\n",
            *[f"- {line}" for mode, methods in modes.items() for line in _winners(mode, methods)],
            "",
            *[part for mode, methods in modes.items() for part in _mode_section(mode, methods)],
            "## Differences\n",
            "Of the same recordings and seeds, so these intervals are narrower than the tables suggest. Bold: zero is "
            "outside.\n",
            *[part for mode, methods in modes.items() for part in _difference_table(mode, methods)],
            *(_events_section(modes, events) if events else []),
            "## The paper's other systems\n",
            "On AudioCaps, from the paper: METEOR · CIDEr-D · SPICE · SPIDEr. “External”: samples from other data.\n",
            table(
                ["system", "training", "scores", "external"],
                (
                    [name, MODE_WORDS[mode], _published(row), f"{row['external']:,}" if row["external"] else "none"]
                    for mode in modes
                    for name, row in PUBLISHED[mode][2].items()
                ),
            ),
            *_examples_section(document["examples"]),
            "## Times\n",
            table(
                ["training", "method", "fitting the bridge (s)", "training the decoder (s)", "captioning (s)"],
                (
                    [
                        MODE_WORDS[mode],
                        method,
                        *(_mean_seconds(seconds, stage) for stage in ("bridge", "decoder", "captions")),
                    ]
                    for mode, methods in document["times"].items()
                    for method, seconds in methods.items()
                ),
            ),
        ]
    )


def _baselines_of(method: str) -> Sequence[str]:
    """What a method is compared with; a baseline itself with those before it, so that no pair is there twice."""
    return REFERENCES[: REFERENCES.index(method)] if method in REFERENCES else REFERENCES


def _of(runs: Sequence[FinishedRun], mode: str, method: str) -> list[FinishedRun]:
    return [found for found in runs if (found.run.mode, found.run.method) == (mode, method)]


def _corpus_figure(result: CaptionResult, name: str) -> dict[str, Any]:
    return figure([run.corpus[name] for run in result.runs])


def _example(runs: Sequence[FinishedRun], held_out: HeldOut, row: int) -> dict[str, Any]:
    first = runs[0].run.seed
    captions: dict[str, dict[str, str]] = {}
    for found in runs:
        if found.run.seed == first:
            captions.setdefault(found.run.mode, {})[found.run.method] = found.captions[row]
    return {"recording": held_out.names[row], "references": held_out.references[row], "captions": captions}


def _percent(figure: Mapping[str, Any]) -> str:
    scaled = {key: None if figure[key] is None else 100 * figure[key] for key in ("value", "low", "high", "std")}
    return with_interval({**figure, **scaled}, digits=1)


def _figure(method: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return method["figures"].get(name) or method["corpus"].get(name)


def _mode_section(mode: str, methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    number = PUBLISHED[mode][0]
    learned = "text embeddings alone" if mode == "zeroshot" else "audio embeddings"
    yield f"## {MODE_WORDS[mode].capitalize()}: decoders trained on {learned} (the paper's Table {number})\n"
    yield (
        "`none` has no bridge: the paper's baseline. The paper's figures (METEOR · CIDEr-D · SPICE · SPIDEr) are of "
        "LAION-CLAP, LLaMA-2 7B and AudioCaps: other models and other data.\n"
    )
    if mode == "supervised" and "centering" in methods and "c3" not in methods:
        yield "C3 is centering here: its noise belongs to training on text.\n"
    first = next(iter(methods.values()))
    names = [name for name in NAMES if _figure(first, name)]
    yield table(
        ["method", *(NAMES[name] for name in names), "the paper's"],
        (
            [name, *(_percent(_figure(method, key)) for key in names), _published(method["paper"])]
            for name, method in methods.items()
        ),
    )


def _published(scores: Mapping[str, float]) -> str:
    return " · ".join(f"{100 * scores[name]:.1f}" for name in PUBLISHED_SCORES) if scores else "–"


def _difference_table(mode: str, methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    rows = [(name, other, figures) for name, method in methods.items() for other, figures in method["minus"].items()]
    if not rows:
        return
    names = [name for name in COMPARED if name in rows[0][2]]
    yield table(
        [MODE_WORDS[mode], "minus", *(NAMES.get(name, "event accuracy") for name in names)],
        ([name, other, *(difference_cell(figures[key], 100, 1) for key in names)] for name, other, figures in rows),
    )


def _events_section(modes: Mapping[str, Mapping[str, Any]], counts: Mapping[str, int]) -> list[str]:
    kinds = ["event_accuracy", *(f"event_accuracy, {name}" for name in counts)]
    header = ["all", *(f"{name} (n = {count})" for name, count in counts.items())]
    return [
        "## Events\n",
        "Share of captions that name exactly the events that the references of their recording name, and no other "
        f"(n = {sum(counts.values())} recordings whose references name any).\n",
        *[
            table(
                [MODE_WORDS[mode], *header],
                ([name, *(_percent(method["figures"][key]) for key in kinds)] for name, method in methods.items()),
            )
            for mode, methods in modes.items()
        ],
    ]


def _examples_section(examples: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "## Examples\n"
    yield "The first held-out recordings, not chosen; captions of the first seed.\n"
    for example in examples:
        yield f"{example['recording']}: “{example['references'][0]}”\n"
        for mode, captions in example["captions"].items():
            yield from (f"- {MODE_WORDS[mode]}, {method}: {caption}" for method, caption in captions.items())
        yield ""


def _left_out_line(count: int) -> list[str]:
    return [f"{count:,} recordings without references are left out.\n"] if count else []


def _training_lines(training: Mapping[str, Any]) -> Iterable[str]:
    def words(values: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {'none' if value is None else value}" for name, value in values.items()
        )

    yield f"Bridges, if trained: {words(training['bridge'])}.\n"
    prompt = f" Prompt (zero-shot): “{training['instruction']}”." if training["instruction"] else ""
    yield f"Decoders, all from {training['base_model']}: {words(training['decoder'])}.{prompt}\n"
    yield f"Generation: {words(training['generation'])}.\n"
    if training["base_was_trained"]:
        yield (
            "The base model is that of a captioner whose own weights were trained through its link, so it favors "
            "bridges like that one. Name a plain language model with --base-model for a fair comparison.\n"
        )


def _winners(mode: str, methods: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Plain sentences: the best of each figure, and what beats which baseline outside of the intervals."""
    first = next(iter(methods.values()))
    names = [name for name in COMPARED if name in first["figures"]]
    for key in names:
        best = max(methods, key=lambda name: methods[name]["figures"][key]["value"])
        yield (
            f"{MODE_WORDS[mode].capitalize()}, highest {NAMES.get(key, 'event accuracy')}: **{best}**, "
            f"{_percent(methods[best]['figures'][key])}."
        )
    for name, method in methods.items():
        for other, figures in method["minus"].items():
            won = [NAMES.get(key, "event accuracy") for key in names if figures[key]["low"] > 0]
            lost = [NAMES.get(key, "event accuracy") for key in names if figures[key]["high"] < 0]
            words = [f"above it in {', '.join(won)}" if won else "", f"below it in {', '.join(lost)}" if lost else ""]
            said = " and ".join(filter(None, words)) or "no clear difference"
            yield f"{MODE_WORDS[mode].capitalize()}, {name} against {other}: {said}."


def _mean_seconds(seconds: Sequence[Mapping[str, float | None]], stage: str) -> str:
    values = [of[stage] for of in seconds]
    return "–" if None in values else f"{np.mean(values):.1f}"
