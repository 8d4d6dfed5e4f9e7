"""The report of a test: figures of one pipeline on one data set, beside those of the paper."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..analysis.captioning import PER_CAPTION, CaptionResult
from ..metrics import SCORE_NAMES
from ..metrics.vocabulary import NAMES as VOCABULARY
from .captioning import MODE_WORDS, PUBLISHED, PUBLISHED_SCORES
from .markdown import LEVEL, figure, figure_of, left_out_section, plain, table, with_interval

FORMAT = "diffusion-link test report 1"
EXAMPLES = 5  # recordings whose captions the report shows


def pipeline_document(
    result: CaptionResult,
    pipeline: Mapping[str, Any],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    times: Mapping[str, float],
) -> dict[str, Any]:
    """Everything of the report as plain numbers and strings, ready for JSON.

    Scores are fractions. ``figures`` have bootstrap intervals over recordings; those below ``corpus`` are no means over
    captions and have none. All that differs between equal runs is below ``times``.

    Args:
        result: of the one run that there is.
        pipeline: ``name``, ``fingerprint``, ``link`` (class) and ``mode`` of its decoder's training, or None.
        data: ``name``, ``split``, ``fingerprint``, ``limit``, numbers of ``recordings`` and ``references``, and
            ``left_out``, {"audio", "reason"} of each recording that could not be read.
        settings: ``generation`` (`CaptioningOptions.described`), ``resamples``, ``seed``, ``metrics``,
            ``not_computed`` (score family → why), and ``notes``.
        rows: of the captions.
        times: ``captioning``, seconds of all processes.
    """
    modes = [pipeline["mode"]] if pipeline["mode"] in PUBLISHED else list(PUBLISHED)
    return {
        "format": FORMAT,
        "pipeline": dict(pipeline),
        "data": dict(data),
        "settings": {"level": LEVEL, **settings},
        "figures": {name: figure_of(result, name) for name in result.names},
        "corpus": {name: figure([value]) for name, value in result.runs[0].corpus.items()},
        "paper": {mode: {name: dict(row) for name, row in _published(mode)} for mode in modes},
        "examples": [dict(row) for row in rows[:EXAMPLES]],
        "times": dict(times),
    }


def score_figures(document: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Score → its {"value", "low", "high"}, in the order of tables; without the vocabulary, which is no score."""
    found = {**document["figures"], **document["corpus"]}
    return {
        name: {key: found[name][key] for key in ("value", "low", "high")}
        for name in SCORE_NAMES
        if name not in VOCABULARY and name in found and found[name]["value"] is not None
    }


def score_lines(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(name, value with its interval) of all figures, as tables have them: scores × 100."""
    for name, words in SCORE_NAMES.items():
        found = document["figures"].get(name) or document["corpus"].get(name)
        if found is not None:
            yield words, _value(name, found)
        if name == "meteor" and found is not None:
            yield f"{words}, mean of captions", _value(name, document["figures"][f"{name}{PER_CAPTION}"])


def pipeline_markdown(document: Mapping[str, Any]) -> str:
    """report.md, from the document alone."""
    pipeline, data, settings = document["pipeline"], document["data"], document["settings"]
    where = f"{plain(data['name'])}{', split ' + plain(data['split']) if data['split'] else ''}"
    first = f", the first {data['limit']:,}" if data["limit"] else ""
    generation = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings["generation"].items())
    rerank = settings["generation"].get("rerank", 1)
    chosen = (
        f" Of {rerank} captions of each recording, the one was taken whose CLAP embedding is nearest to the "
        "recording's (CLAP-Refine)."
    )
    return "\n".join(
        [
            f"# {plain(pipeline['name'])} on {where}\n",
            f"{data['recordings']:,} recordings{first}, with {data['references']:,} references. Pipeline "
            f"{pipeline['fingerprint']}, link {pipeline['link'] or 'none'}; data {data['fingerprint']}.\n",
            f"Captions: {generation}.{chosen if rerank > 1 else ''} A recording longer than ten seconds is the mean of "
            "its windows, as in training.\n",
            *left_out_section(data["left_out"], "Recordings that could not be read, left out of all figures"),
            "## Scores\n",
            f"× 100, except for the vocabulary. Brackets: {settings['level']:.0%} intervals by "
            f"{settings['resamples']:,} bootstrap resamples of recordings. METEOR and BLEU are scores of the corpus "
            "and have none; the mean of METEOR over captions, which has one, stands beside. For CIDEr-D document "
            "frequencies stay those of all references.\n",
            table(["score", "value"], score_lines(document)),
            *_not_computed(settings["not_computed"]),
            *[f"- {plain(note)}" for note in settings["notes"]],
            *([""] if settings["notes"] else []),
            *_paper_section(document),
            *_examples_section(document["examples"]),
            "## Times\n",
            f"Captioning took {document['times']['captioning']:,.1f} s, of all processes together.\n",
        ]
    )


def _published(mode: str) -> Iterable[tuple[str, Mapping[str, float]]]:
    _, ours, others = PUBLISHED[mode]
    yield from ours.items()
    yield from others.items()


def _value(name: str, found: Mapping[str, Any]) -> str:
    if name in VOCABULARY:
        return with_interval(found)
    return with_interval({**found, **{key: found[key] and 100 * found[key] for key in ("value", "low", "high")}}, 1)


def _not_computed(reasons: Mapping[str, str]) -> list[str]:
    if not reasons:
        return []
    return ["Not computed:\n", *[f"- {SCORE_NAMES.get(name, name)}: {plain(why)}" for name, why in reasons.items()], ""]


def _paper_section(document: Mapping[str, Any]) -> Iterable[str]:
    """The tables of the paper, with this pipeline in their first row."""
    yield "## Beside the paper\n"
    yield (
        "The paper's figures are of the AudioCaps test set, LAION-CLAP and LLaMA-2 7B, and its other systems' are as "
        "it cites them. Only scores of the same recordings can be compared with them.\n"
    )
    found = {**document["figures"], **document["corpus"]}
    own = [_value(name, found[name]) if name in found else "–" for name in PUBLISHED_SCORES]
    for mode, rows in document["paper"].items():
        yield f"Table {PUBLISHED[mode][0]}, {MODE_WORDS[mode]}:\n"
        published = [[_system(name, row), *(_cell(row, key) for key in PUBLISHED_SCORES)] for name, row in rows.items()]
        header = ["system", *(SCORE_NAMES[name] for name in PUBLISHED_SCORES)]
        yield table(header, [[f"**{plain(document['pipeline']['name'])}**", *own], *published])


def _system(name: str, row: Mapping[str, float]) -> str:
    return name if "external" in row else f"the paper: {'no bridge' if name == 'none' else name}"


def _cell(row: Mapping[str, float], name: str) -> str:
    return f"{100 * row[name]:.1f}" if name in row else "–"


def _examples_section(examples: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield "## Examples\n"
    yield "The first recordings, not chosen.\n"
    for row in examples:
        yield f"{plain(row['recording'])}: **{plain(row['candidate'])}**\n"
        yield from (f"- reference: {plain(text)}" for text in row["references"])
        others = zip(row.get("candidates", ()), row.get("clap_cosines", ()), strict=True)
        yield from (f"- candidate, CLAP cosine {cosine:.3f}: {plain(text)}" for text, cosine in others)
        yield ""
