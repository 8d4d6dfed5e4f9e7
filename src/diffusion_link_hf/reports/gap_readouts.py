"""The part of the gap report about read-outs: every method with the same ones, and which split chose what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..analysis.bootstrap import Estimate, average
from ..analysis.gap_measures import BASELINES, MethodResult
from ..analysis.readout_measures import BANK_ROWS
from .markdown import difference_cell, figure, table, with_interval

WAYS = ("source_to_target_r1", "source_to_target_r10", "target_to_source_r1", "target_to_source_r10")
COMPARED = ("matched_audio", *WAYS)


def readouts_document(results: Sequence[MethodResult], references: Sequence[str]) -> dict[str, Any]:
    """By method: ``chosen`` figures and what they are, all ``recalls``, and ``minus``, differences of the chosen.

    ``choices`` has one entry for each seed: what the validation pairs chose, and their figures. Empty where no
    read-outs were measured.
    """
    methods = {result.method: result for result in results if all(run.readouts for _, run in result.runs)}
    document = {}
    for name, result in methods.items():
        readouts = [run.readouts for _, run in result.runs]
        document[name] = {
            "chosen": {key: _figure([one.estimates[key] for one in readouts]) for key in readouts[0].estimates},
            "recalls": {
                kind: {key: _figure([one.recalls[kind][key] for one in readouts]) for key in recalls}
                for kind, recalls in readouts[0].recalls.items()
            },
            "choices": [
                {
                    "retrieval": one.chosen,
                    "embedding": one.choice.stack,
                    "score": one.choice.score,
                    "refined_steps": one.choice.refined_steps,
                    "validation_recalls": {kind: round(value, 6) for kind, value in one.validation.items()},
                    "validation_cosines": {kind: round(value, 6) for kind, value in one.choice.stack_cosines.items()},
                }
                for one in readouts
            ],
            "minus": {
                other: {key: figure(None, _chosen(result, key) - _chosen(methods[other], key)) for key in COMPARED}
                for other in dict.fromkeys((*BASELINES, *references))
                if other in methods and other != name
            },
        }
    return document


def readouts_section(document: Mapping[str, Any]) -> list[str]:
    """Three tables: what was chosen, all that there was to choose from, and differences."""
    methods = document.get("readouts")
    if not methods:
        return []
    source, target = document["names"]
    validation, there, back = document["data"]["validation"], f"{source} → {target}", f"{target} → {source}"
    recalls = [f"R@{k} {way}" for way in (there, back) for k in (1, 10)]
    chosen = [
        [name, _said(method, "embedding"), with_interval(method["chosen"]["matched_audio"]), _said(method, "retrieval")]
        + [with_interval(method["chosen"][key]) for key in WAYS]
        for name, method in methods.items()
    ]
    rows = [
        [f"{name}, {kind}", *(with_interval(figures[key]) for key in WAYS)]
        for name, method in methods.items()
        for kind, figures in method["recalls"].items()
    ]
    differences = [
        [name, other, *(difference_cell(figures[key]) for key in COMPARED)]
        for name, method in methods.items()
        for other, figures in method["minus"].items()
    ]
    return [
        "## Read-outs\n",
        "Every method has the same read-outs: two vectors of one bridge instead of one. They were fitted on the "
        f"training pairs and chosen on {validation['rows']:,} validation pairs ({validation['name']}), which no bridge "
        "was fitted on. The held-out pairs chose nothing. A closed form that is "
        "the same with every seed was given its read-outs once. A score is no cosine: compare it with scores.\n",
        table(["method", "embedding", "matched cosine", "ranked by", *recalls], chosen),
        "What there was to choose from. cosine: of the bridge's own output, as in the tables above, but with one draw "
        "of noise for all rows where a bridge is noised. stack: cosine of the stack. gaussian and refined: log "
        f"p(y | x) / p(y). CSLS: with the 10 best of {BANK_ROWS:,} training rows. A score that reads “input” alone "
        f"does not depend on the bridge: {_score_words(methods)}.\n",
        table(["method, ranked by", *recalls], rows),
        "Differences of what was chosen, with all read-outs open to both. Bold: zero is outside.\n",
        table(["method", "minus", "matched cosine", *recalls], differences),
    ]


def _chosen(result: MethodResult, key: str) -> Estimate:
    return average([run.readouts.estimates[key] for _, run in result.runs])


def _figure(estimates: Sequence[Estimate]) -> dict[str, Any]:
    return figure([each.value for each in estimates], average(estimates))


def _said(method: Mapping[str, Any], what: str) -> str:
    """What the seeds chose, with their number where they differ."""
    counted = Counter(choice[what] for choice in method["choices"])
    return ", ".join(value if len(counted) == 1 else f"{value} ({count}×)" for value, count in counted.items())


def _score_words(methods: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} reads {_said(method, 'score')}" for name, method in methods.items())
