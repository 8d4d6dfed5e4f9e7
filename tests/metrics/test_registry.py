"""Names, shared work, and the order in which things are found missing."""

import subprocess
import sys

import numpy as np
import pytest

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.metrics import (
    METRICS,
    SCORE_NAMES,
    Captions,
    MetricDependencyError,
    MetricToolError,
    missing_dependencies,
    score,
    score_each,
    score_names,
)
from diffusion_link_hf.metrics.captions import CaptionScores
from support.metrics import pretokenized

LIGHT = ["bleu", "rouge_l", "cider_d", "vocabulary"]
ROWS = (["a dog barks", "rain falls"], [["the dog barks", "a dog"], ["it rains", "rain falls hard"]])
ROWS_TOKENS = (pretokenized(*ROWS), None)


def test_names_and_order():
    assert score_names(["rouge_l", "bleu", "bleu_4"]) == {
        "rouge_l": "rouge_l",
        **dict.fromkeys(["bleu_1", "bleu_2", "bleu_3", "bleu_4"], "bleu"),
    }
    assert list(score(*ROWS_TOKENS, ["bleu_4", "rouge_l", "bleu_1"]).corpus) == ["bleu_4", "rouge_l", "bleu_1"]


@pytest.mark.parametrize("metrics", [["cider"], ["bleu_5"], [], "bleu", None, [["bleu"]], [None]])
def test_unknown_names(metrics):
    with pytest.raises(InputError, match="metrics"):
        score(*ROWS_TOKENS, metrics)


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"batch_size": 1.5}, {"sbert_model": None}, {"fluency_model": ""}, {"beams": 3}]
)
def test_options_that_do_not_exist_or_fit(options):
    with pytest.raises(InputError):
        score(*ROWS_TOKENS, ["bleu"], **options)


def test_references_are_given_once():
    with pytest.raises(InputError, match="missing"):
        score(ROWS[0])
    with pytest.raises(InputError, match="twice"):
        score(Captions(*ROWS), ROWS[1])


def test_corpus_and_captions_agree_with_each_metric_alone():
    together = score(*ROWS_TOKENS, LIGHT)
    assert set(together.corpus) == {figure for name in LIGHT for figure in METRICS[name].scores}
    for name in LIGHT:
        alone = score(*ROWS_TOKENS, [name])
        for figure in METRICS[name].scores:
            assert alone.corpus[figure] == together.corpus[figure]
            if name != "vocabulary":
                np.testing.assert_array_equal(alone.per_caption[figure], together.per_caption[figure])
                assert together.per_caption[figure].shape == (2,)
    assert all(isinstance(value, float) and np.isfinite(value) for value in together.corpus.values())


def test_everything_is_tokenized_once_in_one_process(ptb, monkeypatch):
    runs = []
    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: runs.append(args) or original(*args, **kwargs))
    score(*ROWS, LIGHT)
    assert len(runs) == 1


def test_parts_are_computed_once(monkeypatch):
    calls = []

    def part(name):
        metric = METRICS[name]

        def compute(captions, parts, options):
            calls.append(name)
            return CaptionScores.mean_of(name, [1.0, 3.0] if name == "spice" else [0.0, 2.0])

        return type(metric)((name,), compute, lambda options: None, "", "")

    monkeypatch.setitem(METRICS, "spice", part("spice"))
    monkeypatch.setitem(METRICS, "cider_d", part("cider_d"))
    scores = score(*ROWS_TOKENS, ["spider", "cider_d", "spider"])
    assert sorted(calls) == ["cider_d", "spice"]
    assert scores.corpus == {"spider": 1.5, "cider_d": 1.0}
    assert scores.per_caption["spider"].tolist() == [0.5, 2.5]


def test_what_is_missing_is_said_before_any_work(no_java, monkeypatch):
    monkeypatch.setattr("diffusion_link_hf.metrics.sbert.sbert_similarity", lambda *args: pytest.fail("work was done"))
    with pytest.raises(MetricDependencyError, match="Java"):
        score(*ROWS, ["sbert_similarity", "meteor"])


def test_each_metric_fails_alone(monkeypatch):
    """What cannot be had is named with its reason; only what is made of it goes with it."""
    metric = METRICS["spice"]

    def fail(captions, parts, options):
        raise MetricToolError("spice", "gave up", "Look")

    monkeypatch.setitem(METRICS, "spice", type(metric)(metric.scores, fail, lambda options: None, "", ""))
    scores, failed = score_each(ROWS_TOKENS[0], ["rouge_l", "spider", "bleu_4", "spice"])
    assert list(scores.corpus) == ["rouge_l", "bleu_4"]
    assert {name: str(error) for name, error in failed.items()} == dict.fromkeys(
        ["spider", "spice"], "spice: gave up. Look"
    )
    alone, failed = score_each(pretokenized(["a"], [["a"]]), ["cider_d", "rouge_l"])
    assert (list(alone.corpus), list(failed)) == (["rouge_l"], ["cider_d"])
    with pytest.raises(MetricToolError, match="gave up"):
        score(*ROWS_TOKENS, ["rouge_l", "spice"])


def test_what_is_missing_is_listed_with_what_to_do(no_java):
    missing = missing_dependencies(["rouge_l", "spider", "sbert_similarity"])
    assert {"rouge_l", "spider"} <= set(missing)
    assert all(error.remedy for error in missing.values())
    scores, failed = score_each(Captions(*ROWS), LIGHT)
    assert (dict(scores.corpus), set(failed)) == ({}, set(LIGHT))


def test_every_score_has_a_name():
    assert set(SCORE_NAMES) == {name for metric in METRICS.values() for name in metric.scores}


def test_a_single_row_is_refused_before_any_work():
    with pytest.raises(InputError, match="one row"):
        score(["a"], [["a"]], ["bleu", "cider_d"])


def test_the_import_loads_neither_torch_nor_evaluate():
    program = (
        "import sys, diffusion_link_hf.commands.score; print({'torch', 'evaluate', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
