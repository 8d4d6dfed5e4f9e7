"""The report of a test: figures as they are, the paper's tables beside, and nothing that is taken for Markdown."""

import numpy as np
import pytest

from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.captioning import CaptionResult, measure_captions
from diffusion_link_hf.metrics import CaptionScores
from diffusion_link_hf.reports.markdown import plain
from diffusion_link_hf.reports.published import TABLE_3, TABLE_3_OTHERS
from diffusion_link_hf.reports.testing import pipeline_document, pipeline_markdown, score_figures, score_lines

CIDER, METEOR = np.array([0.5, 1.5, 1.0]), np.array([0.2, 0.3, 0.4])
ROWS = [{"recording": f"{k}|<b>.wav", "candidate": "a [dog](x)", "references": ["a dog"]} for k in range(7)]


def make_document(mode="zeroshot", **settings):
    scores = CaptionScores(
        {"meteor": 0.25, "cider_d": 1.0, "vocabulary_size": 5.0}, {"meteor": METEOR, "cider_d": CIDER}
    )
    measured = measure_captions(["a"] * 3, scores, GroupBootstrap(np.arange(3), 50))
    return pipeline_document(
        CaptionResult((measured,)),
        {"name": "captioner", "fingerprint": "0a", "link": None, "mode": mode},
        {
            "name": "me/sounds@1b",
            "split": "test",
            "fingerprint": "2c",
            "limit": None,
            "recordings": 3,
            "references": 6,
            "left_out": [{"audio": "gone.wav", "reason": "gone.wav: is missing"}],
        },
        {
            "generation": {"num_beams": 1, "max_new_tokens": 40},
            "resamples": 50,
            "seed": 0,
            "metrics": ["meteor", "cider_d"],
            "not_computed": {"spice": "spice: needs a JDK. Install one"},
            "notes": ["a.wav, candidate: meteor took the first 1,000 of its 2,000 words"],
            **settings,
        },
        ROWS,
        {"captioning": 2.0},
    )


def test_figures_are_those_measured():
    document = make_document()
    assert document["figures"]["cider_d"]["value"] == 1.0
    low, high = (document["figures"]["cider_d"][key] for key in ("low", "high"))
    assert 0.5 <= low < 1.0 < high <= 1.5
    assert document["figures"]["meteor_per_caption"]["value"] == pytest.approx(0.3)
    assert document["corpus"]["meteor"] == {"value": 0.25, "low": None, "high": None, "by_seed": [0.25], "std": None}
    assert score_figures(document) == {
        "meteor": {"value": 0.25, "low": None, "high": None},
        "cider_d": {"value": 1.0, "low": low, "high": high},
    }
    lines = dict(score_lines(document))
    assert list(lines) == ["METEOR", "METEOR, mean of captions", "CIDEr-D", "Vocabulary size"]
    assert (lines["METEOR"], lines["Vocabulary size"]) == ("25.0", "5.000")
    assert lines["CIDEr-D"].startswith("100.0 [")


def test_the_papers_table_stands_beside():
    report = pipeline_markdown(make_document())
    assert "Table 3, zero-shot" in report
    assert "Table 4" not in report
    assert report.count("| the paper: ") == len(TABLE_3)
    assert all(f"| {name} |" in report for name in TABLE_3_OTHERS)
    both = pipeline_markdown(make_document(mode=None))
    assert "Table 3, zero-shot" in both
    assert "Table 4, supervised" in both


def test_what_is_missing_is_said():
    report = pipeline_markdown(make_document())
    assert "- SPICE: spice: needs a JDK. Install one" in report
    assert "left out of all figures: 1" in report
    assert "meteor took the first 1,000" in report
    assert "CLAP-Refine" not in report
    reranked = make_document(generation={"num_beams": 4, "max_new_tokens": 40, "rerank": 4})
    assert "Of 4 captions of each recording" in pipeline_markdown(reranked)


def test_names_and_captions_are_no_markdown():
    report = pipeline_markdown(make_document())
    assert "<b>" not in report
    assert "](x)" not in report.replace("\\](x)", "")
    assert plain("a\nb`c` | *d*") == r"a b\`c\` \| \*d\*"
    assert report.count("reference: ") == 5  # of the first recordings
