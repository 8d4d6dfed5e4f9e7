"""``diffusion-link search`` and ``classify``: lines, JSON, files, exit status."""

import csv
import json

import numpy as np
import pytest
import soundfile as sf

from diffusion_link_hf.commands import classify, search
from diffusion_link_hf.errors import AudioNotFoundError, InputError
from support.commands import parse, run
from support.models import make_pipeline

RATE = 48_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for k, name in enumerate(("a.wav", "b.wav")):
        sf.write(folder / name, np.random.default_rng(k).normal(0, 0.05, RATE), RATE)
    return folder


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_search_prints_score_file_and_time(model, sounds, capsys):
    assert run(search, "a dog barking in the distance", sounds, "--model", model) == 0
    found = lines(capsys)
    assert sorted(line.partition("  ")[2] for line in found) == [f"{sounds / n} [0–1 s]" for n in ("a.wav", "b.wav")]
    assert run(search, sounds / "b.wav", sounds, "--model", model, "--top", 1) == 0
    assert lines(capsys) == [f"1.000  {sounds / 'b.wav'} [0–1 s]"]


def test_search_as_json_and_files_with_an_error(model, sounds, tmp_path, capsys):
    (sounds / "bad.wav").write_bytes(b"not audio")
    assert run(search, "rain", sounds, "--model", model, "--json", "--index", tmp_path / "i") == 1
    rows = [json.loads(line) for line in lines(capsys)]
    assert [row.get("rank") for row in rows] == [1, 2, None]
    assert rows[2]["file"] == str(sounds / "bad.wav")
    assert not (sounds / ".sound-index").exists()
    for name in ("found.csv", "found.jsonl"):
        assert (
            run(search, "rain", sounds, "--model", model, "--index", tmp_path / "i", "--output", tmp_path / name) == 1
        )
        assert "bad.wav" in capsys.readouterr().err
    assert [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()] == rows
    with (tmp_path / "found.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["file"] for row in table] == [row["file"] for row in rows]
    assert [bool(row["error"]) for row in table] == [False, False, True]


def test_classify_prints_labels(model, sounds, tmp_path, capsys):
    labels = ["--labels", "dog, rain, engine, speech", "--model", model]
    assert run(classify, sounds, *labels, "--top", 2) == 0
    found = lines(capsys)
    assert [line.split(": ")[0] for line in found] == [str(sounds / "a.wav"), str(sounds / "b.wav")]
    assert all(len(line.split(", ")) == 2 for line in found)
    assert run(classify, sounds, *labels, "--top", 2, "--index", tmp_path / "i") == 0
    assert lines(capsys) == found
    assert run(classify, sounds / "a.wav", *labels, "--json", "--windows") == 0
    [row] = map(json.loads, lines(capsys))
    assert sum(one["probability"] for one in row["labels"]) == pytest.approx(1)
    assert (row["start"], row["end"]) == (0, 1)


@pytest.mark.parametrize("index", [False, True])
def test_classify_reports_errors_in_every_form(model, sounds, tmp_path, capsys, index):
    (sounds / "bad.wav").write_bytes(b"not audio")
    (tmp_path / "labels.txt").write_text("dog\n\nrain\n")
    options = ["--labels-file", tmp_path / "labels.txt", "--model", model]
    options += ["--index", tmp_path / "i"] if index else []
    assert run(classify, sounds, *options) == 1
    captured = capsys.readouterr()
    assert captured.err.count("bad.wav: cannot") == 1
    assert len(captured.out.splitlines()) == 2
    assert run(classify, sounds, *options, "--json") == 1
    rows = [json.loads(line) for line in lines(capsys)]
    assert sum("error" in row for row in rows) == 1
    assert run(classify, sounds, *options, "--output", tmp_path / "a.jsonl") == 1
    assert [json.loads(line)["file"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        row["file"] for row in rows
    ]
    assert run(classify, sounds, *options, "--output", tmp_path / "a.csv") == 1
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert sum(bool(row["error"]) for row in table) == 1
    assert {row["label"] for row in table} == {"dog", "rain", ""}


def test_what_cannot_be_used(model, sounds, tmp_path):
    with pytest.raises(AudioNotFoundError, match="is no folder"):
        run(search, "rain", tmp_path / "nowhere", "--model", model)
    with pytest.raises(AudioNotFoundError):
        run(search, "missing.wav", sounds, "--model", model)
    with pytest.raises(InputError, match="does not say a format"):
        run(search, "rain", sounds, "--output", "found.xls")
    with pytest.raises(InputError, match="at least two"):
        run(classify, sounds, "--labels", "dog", "--model", model)
    with pytest.raises(InputError, match="cannot be read"):
        run(classify, sounds, "--labels-file", tmp_path / "none.txt")
    with pytest.raises(InputError, match="one folder"):
        run(classify, sounds, sounds, "--labels", "a,b", "--index", tmp_path)
    with pytest.raises(InputError, match="without an index"):
        run(classify, sounds, "--labels", "a,b", "--rebuild")
    with pytest.raises(SystemExit):
        parse(classify, sounds)
