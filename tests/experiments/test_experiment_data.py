"""A report on recordings: embedded through the pipeline's CLAP, once, with those that are gone counted and listed."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusion_link_hf.commands import gap
from diffusion_link_hf.errors import DataError, InputError
from support.commands import run, write_pairs

TINY = Path(__file__).resolve().parents[2] / "hub_configs" / "tiny"
QUICK = ["--resamples", 20, "--held-out", 0.4, "--kl-components", 2, "--quiet", "--no-figures", "--seeds", 0]


@pytest.fixture
def recordings(tmp_path):
    """Twenty tones and their captions; a twenty-first is named and not there."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["file_name,caption"]
    for k in range(20):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * k) * np.arange(9_600) / 48_000)
        soundfile.write(folder / f"{k}.wav", tone, 48_000)
        rows += [f"{k}.wav,a tone number {k}", f"{k}.wav,somebody whistles {k} times"]
    (folder / "metadata.csv").write_text("\n".join([*rows, "gone.wav,a bell"]) + "\n")
    return folder


def test_recordings_are_embedded_with_the_pipelines_clap(recordings, tmp_path):
    output = tmp_path / "report"
    arguments = ["--data", recordings, "--model", TINY, "--methods", "none", "--output", output, *QUICK]
    assert run(gap, *arguments) == 0
    document = json.loads((output / "results.json").read_text())
    assert list(document["methods"]) == ["identity", "centering", "ridge", "model"]
    assert document["data"]["name"] == "clips"
    assert document["data"]["train_recordings"] + document["data"]["held_out_recordings"] == 20
    assert [failure["audio"] for failure in document["data"]["left_out"]] == ["gone.wav"]
    assert "| gone.wav |" in (output / "report.md").read_text()
    assert str(tmp_path) not in json.dumps(document)
    # The cache is one like any other, and is not made again.
    cache = output / "embeddings" / "clips-train"
    made = (cache / "manifest.json").stat().st_mtime_ns
    run(gap, *arguments)
    assert (cache / "manifest.json").stat().st_mtime_ns == made
    run(gap, "--embeddings", cache, "--methods", "none", "--output", tmp_path / "again", *QUICK)
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["methods"]["ridge"] == document["methods"]["ridge"]


def test_recordings_need_a_clap(recordings, tmp_path):
    with pytest.raises(DataError, match="clap=NAME"):
        run(gap, "--data", recordings, "--methods", "none", "--output", tmp_path / "r", *QUICK)


def test_embeddings_need_none(tmp_path):
    with pytest.raises(InputError, match="embeddings"):
        run(gap, "--data", write_pairs(tmp_path), "--clap", TINY, "--output", tmp_path / "r", *QUICK)
