"""The figures of a model card, of the training itself and on test sets: as ``model-index`` and as tables."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..files import write_whole
from .card_words import METRIC_NAMES, TASKS
from .contents import CARD, METRICS, refuse_not_finite
from .readme import MARKER, heading, read_readme
from .results import RESULTS, DataSetResult

MEASURED = "Measured"  # the heading of the figures


def eval_results(
    pipeline: str, metrics: Mapping[str, Any], results: Sequence[DataSetResult], datasets: Sequence[str] = ()
) -> list[EvalResult]:
    """The figures that have a name, as the front matter of a card holds them.

    Args:
        pipeline: class of the pipeline.
        metrics: metrics.json, the figures of the training itself.
        results: figures on test sets.
        datasets: that it was trained on.

    Raises:
        ModelFolderError: one is NaN or infinite.
    """
    refuse_not_finite(METRICS, metrics)
    task, task_name = TASKS[pipeline]
    held_out = {
        "dataset_type": datasets[0] if datasets else "unknown",
        "dataset_name": f"held-out part of {', '.join(datasets) or 'the training data'}",
        "dataset_split": "validation",
    }
    figures = [(name, value, held_out) for name, value in metrics.items()]
    for result in results:
        refuse_not_finite(RESULTS, result.figures)
        where = {
            "dataset_type": result.data,
            "dataset_name": result.title,
            "dataset_split": result.split,
            "dataset_revision": result.data_revision,
        }
        figures += [(name, figure["value"], where) for name, figure in result.figures.items()]
    return [
        EvalResult(
            task_type=task,
            task_name=task_name,
            metric_type=METRIC_NAMES[name][0],
            metric_name=METRIC_NAMES[name][1],
            metric_value=round(float(value), 6),
            **where,
        )
        for name, value, where in figures
        if _is_figure(name, value)
    ]


def figures_text(metrics: Mapping[str, Any], results: Sequence[DataSetResult]) -> str:
    """The same figures as tables."""
    parts = [_result_table(result) for result in results]
    rows = [f"| {METRIC_NAMES[name][1]} | {value:.4g} |" for name, value in metrics.items() if _is_figure(name, value)]
    if rows:
        head = ["On recordings held out from training, by the training itself:", "", "| | |", "|---|---|"]
        parts.append("\n".join([*head, *rows]))
    return "\n\n".join(parts)


def write_figures(folder: Path, results: Sequence[DataSetResult]) -> None:
    """Put the figures of a captioner on test sets into its README.md: ``model-index``, and a section of tables.

    The rest of the file stays as it is; where there is none, a short one is written. `push` makes the whole card.

    Raises:
        ModelFolderError: front matter that is no YAML mapping.
        DataError: the file cannot be written.
    """
    metadata, text = read_readme(folder / CARD)
    found = eval_results("AudioCaptionPipeline", {}, results)
    metadata |= {"model-index": eval_results_to_model_index(folder.resolve().name, found)}
    by_hand, _, generated = text.partition(MARKER)
    section = f"## {MEASURED}\n\n{figures_text({}, results)}\n"
    if re.search(heading(MEASURED), by_hand, re.MULTILINE):  # which is the author's
        section = ""
    elif earlier := re.search(rf"{heading(MEASURED)}.*?(?=^## |\Z)", generated, re.MULTILINE | re.DOTALL):
        generated = generated[: earlier.start()] + section + "\n" + generated[earlier.end() :]
        section = ""
    parts = (by_hand.strip(), MARKER, generated.strip(), section.strip())
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    content = f"---\n{front}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"
    write_whole(folder / CARD, content.encode())


def _is_figure(name: str, value: Any) -> bool:
    return name in METRIC_NAMES and isinstance(value, (int, float)) and not isinstance(value, bool)


def _result_table(result: DataSetResult) -> str:
    """The figures on one test set."""
    left_out = f" Left out, since they could not be read: {result.left_out:,}." if result.left_out else ""
    written = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result.generation.items())
    rows = [
        f"| {METRIC_NAMES[name][1]} | {figure['value']:.4g} | {_interval(figure)} |"
        for name, figure in result.figures.items()
        if _is_figure(name, figure["value"])
    ]
    head = [f"On {result.title} ({result.recordings:,} recordings).{left_out} Scores are fractions."]
    head += [f"Captions: {written}."] if written else []
    return "\n".join([" ".join(head), "", "| | | 95% interval |", "|---|---|---|", *rows])


def _interval(figure: Mapping[str, float | None]) -> str:
    return "–" if figure.get("low") is None else f"{figure['low']:.4g} to {figure['high']:.4g}"
