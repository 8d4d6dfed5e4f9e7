"""The report: the same bytes for the same seed, what the tables say, and the Hub's results."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diffusion_link_hf.analysis.bootstrap import Estimate
from diffusion_link_hf.analysis.gap_measures import BASELINES, MethodResult, measure_bridges
from diffusion_link_hf.errors import DataError
from diffusion_link_hf.reports.gap import (
    describe_data,
    eval_results,
    gap_document,
    gap_markdown,
)
from diffusion_link_hf.reports.markdown import write_document
from support.analysis import QUICK, make_fitted, make_split


def measure(seeds=(0, 1)):
    train, held_out = make_split()
    results = measure_bridges(make_fitted(train, seeds), held_out, train, QUICK)
    data = describe_data("small", train, held_out, "abc", split_seed=0)
    return results, gap_document(results, data, {"steps": 30}, QUICK)


@pytest.fixture(scope="module")
def measured():
    return measure()


def without_times(markdown: str) -> str:
    return markdown.split("## Times")[0]


def test_the_same_seed_gives_the_same_bytes_but_for_times(measured, tmp_path):
    for name, document in (("a", measured[1]), ("b", measure()[1])):
        document = {**document, "times": {}}
        write_document(document, without_times(gap_markdown(document)), tmp_path / name)
    for file in ("report.md", "results.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_file_holds_the_document(measured, tmp_path):
    document = measured[1]
    write_document(document, gap_markdown(document), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == document


def test_figures_are_means_over_seeds_with_intervals(measured):
    results, document = measured
    link = next(result for result in results if result.method == "diffusion-link")
    figure = document["methods"]["diffusion-link"]["figures"]["matched_audio"]
    seeds = link.by_seed("matched_audio")
    assert figure["value"] == pytest.approx(np.mean(seeds), abs=1e-6)
    assert figure["std"] == pytest.approx(np.std(seeds, ddof=1), abs=1e-6)
    assert figure["by_seed"] == pytest.approx(seeds, abs=1e-6)
    assert figure["low"] < figure["value"] < figure["high"]
    assert document["methods"]["diffusion-link"]["paper"]["matched_audio"] == 0.688
    assert document["methods"]["ridge"]["paper"] == {}


def test_differences_from_the_baselines(measured):
    results, document = measured
    by_name = {result.method: result for result in results}
    for name, method in document["methods"].items():
        assert set(method["minus"]) == {other for other in BASELINES if other in by_name and other != name}
        for other, figures in method["minus"].items():
            difference = by_name[name].estimate("matched_audio") - by_name[other].estimate("matched_audio")
            assert figures["matched_audio"]["value"] == pytest.approx(difference.value, abs=1e-6)
            assert figures["matched_audio"]["low"] == pytest.approx(difference.interval()[0], abs=1e-6)


def test_the_report_says_who_wins_and_shows_the_paper(measured):
    markdown = gap_markdown(measured[1], ["map_ridge.svg"])
    assert "Highest matched cosine, from audio: **ridge**" in markdown
    assert "diffusion-link beats all of identity, centering, ridge outside of the intervals in: nothing." in markdown
    assert "Diffusion-Link: 0.688 · 0.945 · 0.000 · 0.001" in markdown
    assert "CLAP: 0.486" in markdown
    assert "![map_ridge](map_ridge.svg)" in markdown
    ridge = measured[1]["methods"]["ridge"]["figures"]["matched_audio"]
    assert f"| ridge | {ridge['value']:.3f} [{ridge['low']:.3f}, {ridge['high']:.3f}]" in markdown
    for line in (line for line in markdown.splitlines() if line.startswith("|")):
        assert "None" not in line
        assert "nan" not in line


def test_a_win_is_said_only_outside_of_the_intervals(measured):
    """A method that is ridge plus a constant wins; one that is ridge itself does not."""
    results = measured[0]
    ridge = next(result for result in results if result.method == "ridge")

    def shifted(name, by):
        runs = []
        for fitted, of in ridge.runs:
            moved = {
                key: Estimate(estimate.value + by, estimate.resampled + by) for key, estimate in of.estimates.items()
            }
            runs.append((replace(fitted, method=name), replace(of, estimates=moved)))
        return MethodResult(name, tuple(runs))

    everything = [*results, shifted("better", 0.01), shifted("equal", 0.0)]
    markdown = gap_markdown(gap_document(everything, measured[1]["data"], {}, QUICK))
    assert "better beats all of identity, centering, ridge outside of the intervals in: matched cosine" in markdown
    assert "equal beats all of identity, centering, ridge outside of the intervals in: nothing." in markdown


def test_an_infinite_divergence_is_null_in_json_and_said_in_the_table(measured):
    results = [
        MethodResult(
            result.method,
            tuple((one, replace(of, geometry={**of.geometry, "kl_divergence": math.inf})) for one, of in result.runs),
        )
        for result in measured[0]
    ]
    document = gap_document(results, measured[1]["data"], {}, QUICK)
    assert document["methods"]["ridge"]["figures"]["kl_divergence"]["value"] is None
    json.dumps(document, allow_nan=False)
    assert "∞" in gap_markdown(document)
    assert "kl_divergence" not in {one.metric_type for one in eval_results(document, "ridge")}


def test_eval_results_fit_a_model_card(measured):
    found = eval_results(json.loads(json.dumps(measured[1])), "ridge", "owner/data")
    assert all(isinstance(one, EvalResult) for one in found)
    values = {one.metric_type: one.metric_value for one in found}
    assert values["matched_audio"] == measured[1]["methods"]["ridge"]["figures"]["matched_audio"]["value"]
    card = ModelCardData(model_name="link", eval_results=found)
    again = ModelCard(f"---\n{card.to_yaml()}\n---\n").data.eval_results
    assert {one.metric_type: one.metric_value for one in again} == values


def test_wrong_documents_are_refused(measured):
    with pytest.raises(DataError, match="format"):
        eval_results({"format": "shopping list"}, "ridge")
    with pytest.raises(DataError, match="teleport"):
        eval_results(measured[1], "teleport")


def test_other_modalities_are_called_by_their_names_and_stand_alone(measured):
    results, _ = measured
    train, held_out = make_split()
    data = describe_data("faces", train, held_out, "abc")
    document = gap_document(results, data, {"steps": 30}, QUICK, names=("image", "speaker"))
    markdown = gap_markdown(document)
    for words in ("audio", "Audio", "recording", "AudioCaps", "paper"):
        assert words not in markdown
    assert "R@1 image → speaker" in markdown
    assert "| method | image, matched | speaker, matched |" in markdown
    assert document["methods"]["diffusion-link"]["paper"] == {}
    names = {one.metric_name for one in eval_results(document, "ridge")}
    assert {"matched image", "image to speaker r1"} <= names
