"""The captioning report: figures from the runs, differences, the paper's tables, captions that `score` reads."""

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelCardData

from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.captioning import CaptionResult, EventAccuracy, measure_captions
from diffusion_link_hf.analysis.event_words import EventWords
from diffusion_link_hf.errors import DataError
from diffusion_link_hf.metrics.predictions_file import read_predictions
from diffusion_link_hf.reports.captioning import (
    PUBLISHED,
    PUBLISHED_SCORES,
    caption_eval_results,
    captioning_document,
    captioning_markdown,
    write_captions,
)
from support.captioning import EVENTS, make_finished, make_held_out, make_scores

HELD_OUT = make_held_out(30)
BETTER = {"none": 0.0, "ridge": 0.5, "diffusion-link": 0.3}  # CIDEr-D above that of none, for every recording
DATA = {
    "train_name": "cache",
    "train_recordings": 90,
    "train_captions": 180,
    "held_out_name": "cache",
    "held_out_recordings": 30,
    "held_out_captions": 60,
    "without_references": 0,
}
TRAINING = {
    "base_model": "lm",
    "base_was_trained": False,
    "instruction": "Say: ",
    "bridge": {"steps": 3},
    "decoder": {"max_steps": 4, "lora": None},
    "generation": {"num_beams": 1},
}


def make_report(modes=("zeroshot", "supervised"), methods=tuple(BETTER), training=TRAINING):
    rng = np.random.default_rng(0)
    boot, judge = GroupBootstrap(np.arange(30), 100), EventAccuracy(EventWords(EVENTS), HELD_OUT.references)
    base, meteor = rng.random(30), rng.random(30)
    runs, results = [], {}
    for mode in modes:
        for method in methods:
            measured = []
            for seed in (0, 1):
                # As right as the reference for ridge, and never for the others.
                captions = [own[0] if method == "ridge" else "nothing" for own in HELD_OUT.references]
                runs.append(make_finished(method, seed, captions, mode))
                scores = make_scores(base + BETTER.get(method, 0) + 0.1 * seed, meteor)
                measured.append(measure_captions(captions, scores, boot, judge))
            results.setdefault(mode, {})[method] = CaptionResult(tuple(measured))
    settings = {"resamples": 100, "seed": 0, "metrics": [], "missing": {"spice": "Fetch it"}, "events": judge.counts}
    return runs, captioning_document(results, runs, DATA, training, settings, HELD_OUT)


def test_the_document_is_json_and_the_same_every_time():
    document, again = make_report()[1], make_report()[1]
    assert json.dumps(document, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert captioning_markdown(json.loads(json.dumps(document))) == captioning_markdown(document)


def test_figures_are_means_over_seeds():
    ridge = make_report()[1]["modes"]["zeroshot"]["ridge"]
    figure = ridge["figures"]["cider_d"]
    assert figure["value"] == pytest.approx(np.mean(figure["by_seed"]), abs=1e-6)
    assert figure["by_seed"][1] - figure["by_seed"][0] == pytest.approx(0.1, abs=1e-5)
    assert figure["low"] < figure["value"] < figure["high"]
    assert ridge["seeds"] == [0, 1]
    assert ridge["class"] == "LinearBridge"
    assert ridge["figures"]["event_accuracy"]["value"] == 1.0
    assert ridge["corpus"]["meteor"]["low"] is None
    assert ridge["corpus"]["meteor"]["std"] == 0.0


def test_differences_from_the_baselines_that_were_measured():
    methods = make_report()[1]["modes"]["zeroshot"]
    assert {name: set(method["minus"]) for name, method in methods.items()} == {
        "none": set(),
        "ridge": {"none"},
        "diffusion-link": {"none", "ridge"},
    }
    against = methods["diffusion-link"]["minus"]
    assert against["none"]["cider_d"]["value"] == pytest.approx(0.3, abs=1e-5)
    assert against["ridge"]["cider_d"]["high"] == pytest.approx(-0.2, abs=1e-5)
    assert make_report(methods=("diffusion-link",))[1]["modes"]["zeroshot"]["diffusion-link"]["minus"] == {}


def test_the_report_says_who_wins_only_outside_of_the_intervals():
    report = captioning_markdown(make_report()[1])
    assert "Zero-shot, highest CIDEr-D: **ridge**" in report
    assert "diffusion-link against none: above it in CIDEr-D." in report
    assert "diffusion-link against ridge: below it in CIDEr-D, event accuracy." in report
    same = captioning_markdown(make_report(methods=("none", "mlp"))[1])
    assert "mlp against none: no clear difference." in same
    assert "| mlp | none | +0.0 [+0.0, +0.0]" in same
    assert "| diffusion-link | none | **+30.0 [+30.0, +30.0]** |" in report


def test_the_papers_figures_stand_beside():
    report = captioning_markdown(make_report()[1])
    assert "21.2 · 48.0 · 14.4 · 31.2" in report
    assert "24.2 · 73.2 · 17.5 · 45.4" in report
    assert "25.6 · 82.5 · 18.9 · 50.7" in report
    assert "| DRCap (embedding-level retrieval only) | zero-shot | 21.8 · 59.5 · 15.7 · 37.6 | 450,000 |" in report
    alone = captioning_markdown(make_report(modes=("supervised",))[1])
    assert "25.6 · 82.5 · 18.9 · 50.7" in alone
    assert "24.2 · 73.2 · 17.5 · 45.4" not in alone


def test_published_figures_are_consistent():
    """SPIDEr is the mean of CIDEr-D and SPICE, as far as the paper keeps to it (RECAP), and so are the gains."""
    for _, table, others in PUBLISHED.values():
        for row in (*table.values(), *others.values()):
            assert row["spider"] == pytest.approx((row["cider_d"] + row["spice"]) / 2, abs=0.003)
            assert set(PUBLISHED_SCORES) <= set(row)
    gains = [table["diffusion-link"]["cider_d"] / table["none"]["cider_d"] - 1 for _, table, _ in PUBLISHED.values()]
    assert gains == pytest.approx([0.525, 0.073], abs=5e-4)


def test_what_is_missing_or_left_out_is_said():
    report = captioning_markdown(make_report(methods=("centering",))[1])
    assert "SPICE was not measured: Fetch it." in report
    assert "| SPICE |" not in report
    assert report.count("C3 is centering here") == 1
    assert "C3 is centering" not in captioning_markdown(make_report(methods=("centering", "c3"))[1])
    assert "favors" not in report
    assert "left out" not in report
    document = make_report()[1]
    incomplete = {**document, "data": {**DATA, "without_references": 3}}
    assert "3 recordings without references are left out." in captioning_markdown(incomplete)
    biased = make_report(training={**TRAINING, "base_was_trained": True})[1]
    assert "favors bridges like that one" in captioning_markdown(biased)


def test_tables_are_whole():
    report = captioning_markdown(make_report()[1])
    tables = [[]]
    for line in report.splitlines():
        if line.startswith("|"):
            assert "None" not in line
            assert "nan" not in line
            tables[-1].append(line.count("|"))
        elif tables[-1]:
            tables.append([])
    assert len(tables) > 7
    assert all(len(set(columns)) <= 1 for columns in tables)


def test_only_the_times_differ():
    document = make_report()[1]
    other = json.loads(json.dumps(document))
    other["times"]["zeroshot"]["ridge"][0]["decoder"] = 99.0
    first, second = captioning_markdown(document), captioning_markdown(other)
    assert first != second
    assert first.split("## Times")[0] == second.split("## Times")[0]


def test_eval_results_fit_a_model_card():
    document = json.loads(json.dumps(make_report()[1]))
    found = caption_eval_results(document, "supervised", "ridge", "owner/data")
    values = {one.metric_type: one.metric_value for one in found}
    ridge = document["modes"]["supervised"]["ridge"]
    assert values["cider_d"] == ridge["figures"]["cider_d"]["value"]
    assert values["meteor"] == ridge["corpus"]["meteor"]["value"]
    card = ModelCardData(model_name="captioner", eval_results=found)
    again = ModelCard(f"---\n{card.to_yaml()}\n---\n").data.eval_results
    assert {one.metric_type: one.metric_value for one in again} == values
    for wrong, words in (({"format": "gap"}, "format"), (document, "teleport")):
        with pytest.raises(DataError, match=words):
            caption_eval_results(wrong, "supervised", "teleport")


def test_captions_are_predictions_that_can_be_scored(tmp_path):
    runs, _ = make_report()
    write_captions(runs, HELD_OUT, tmp_path / "captions.jsonl")
    predictions = read_predictions(tmp_path / "captions.jsonl")
    assert predictions.captions.candidates == [caption for found in runs for caption in found.captions]
    assert predictions.captions.references[:30] == HELD_OUT.references
    assert predictions.others[30] == {
        "mode": "zeroshot",
        "method": "none",
        "seed": 1,
        "recording": HELD_OUT.names[0],
    }
