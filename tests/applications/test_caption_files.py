"""Folders captioned into files: every format, killed and resumed, changed files, and what is refused."""

import csv
import dataclasses
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf import CaptionSegment, caption_files
from diffusion_link_hf.applications.caption_files import iter_captions
from diffusion_link_hf.applications.captioned import CaptionedFile, merge_segments, write_captions
from diffusion_link_hf.errors import DataError, InputError
from support.models import make_pipeline

RATE = 48_000


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for k, (name, seconds) in enumerate((("a.wav", 1), ("b.wav", 21), ("c.flac", 1), ("deep/d.wav", 3))):
        sf.write(folder / name, np.random.default_rng(k).uniform(-0.2, 0.2, seconds * RATE), RATE)
    (folder / "bad.wav").write_bytes(b"not audio")
    return folder


def expected(pipe, sounds):
    files = sorted(path for path in sounds.rglob("*.*") if path.is_file())
    output = pipe(files)
    return {
        str(file): [(s.start, s.end, s.text) for s in segments]
        for file, segments in zip(files, output.segments, strict=True)
    }


def test_captions_are_those_of_the_pipeline(pipe, sounds):
    found = {one.file: [(s.start, s.end, s.text) for s in one.segments] for one in iter_captions(pipe, sounds)}
    assert found == expected(pipe, sounds)
    assert list(found) == sorted(found)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_captions_do_not_depend_on_their_batch(pipe, sounds, batch_size):
    assert list(iter_captions(pipe, sounds, batch_size=batch_size)) == list(iter_captions(pipe, sounds, batch_size=2))


def test_csv_and_parquet_and_jsonl_say_the_same(pipe, sounds, tmp_path):
    truth = expected(pipe, sounds)
    rows = [(file, *segment) for file, segments in truth.items() for segment in segments]
    for format in ("csv", "parquet", "jsonl"):
        summary = caption_files(pipe, sounds, tmp_path / f"captions.{format}")
        assert (summary.files, summary.captioned, summary.failed, summary.resumed) == (5, 4, 1, 0)
        assert summary.seconds == pytest.approx(26)
    with (tmp_path / "captions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["file"], float(r["start"]), float(r["end"]), r["caption"]) for r in table if not r["error"]] == rows
    table = pq.read_table(tmp_path / "captions.parquet").to_pylist()
    assert [(r["file"], r["start"], r["end"], r["caption"]) for r in table if not r["error"]] == rows
    assert [r["file"] for r in table if r["error"]] == [str(sounds / "bad.wav")]
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [(r["file"], s["start"], s["end"], s["text"]) for r in lines for s in r.get("captions", [])] == rows
    assert not list(tmp_path.glob("*.partial*"))


def test_subtitles_of_one_recording(pipe, sounds, tmp_path):
    segments = pipe(sounds / "b.wav").segments[0]
    caption_files(pipe, sounds / "b.wav", tmp_path / "b.srt")
    first = (tmp_path / "b.srt").read_text().split("\n\n")[0].split("\n")
    assert first == ["1", "00:00:00,000 --> 00:00:10,000", " ".join(segments[0].text.split())]
    caption_files(pipe, sounds / "b.wav", tmp_path / "b.vtt")
    lines = (tmp_path / "b.vtt").read_text().split("\n")
    assert lines[:3] == ["WEBVTT", "", "00:00:00.000 --> 00:00:10.000"]


def test_subtitles_of_a_folder_are_a_file_each(pipe, sounds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caption_files(pipe, "sounds", "subtitles", format="vtt")
    assert sorted(path.name for path in (tmp_path / "subtitles").rglob("*.*")) == [
        "a.wav.vtt",
        "b.wav.vtt",
        "c.flac.vtt",
        "d.wav.vtt",
    ]
    assert (tmp_path / "subtitles" / "sounds" / "deep" / "d.wav.vtt").is_file()


class Killed(Exception):
    """Stands for the end of a process after a recording."""


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_killed_run_goes_on_where_it_stopped(pipe, sounds, tmp_path, after):
    undisturbed = tmp_path / "a.jsonl"
    caption_files(pipe, sounds, undisturbed)
    output, seen = tmp_path / "b.jsonl", []

    def kill(captioned):
        seen.append(captioned.file)
        if len(seen) == after:
            raise Killed

    with pytest.raises(Killed):
        caption_files(pipe, sounds, output, progress=kill, batch_size=1)
    assert not output.exists()
    with (tmp_path / "b.jsonl.partial-0").open("ab") as file:
        file.write(b'{"file": "cut in the mid')
    summary = caption_files(pipe, sounds, output, batch_size=1, progress=lambda one: seen.append(one.file))
    assert summary.resumed == after
    assert len(seen) == summary.files
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_file_that_changed_meanwhile_is_captioned_anew(pipe, sounds, tmp_path):
    def kill(captioned):
        if captioned.file.endswith("c.flac"):
            raise Killed

    with pytest.raises(Killed):
        caption_files(pipe, sounds, tmp_path / "a.jsonl", progress=kill, batch_size=1)
    shutil.copy(sounds / "deep" / "d.wav", sounds / "a.wav")
    assert caption_files(pipe, sounds, tmp_path / "a.jsonl", batch_size=1).resumed == 3
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[0]["captions"][0]["end"] == 3


def test_an_unfinished_run_with_other_options_is_refused(pipe, sounds, tmp_path):
    def kill(captioned):
        raise Killed

    with pytest.raises(Killed):
        caption_files(pipe, sounds, tmp_path / "a.csv", progress=kill, batch_size=1)
    with pytest.raises(DataError, match="belongs to a run of another model or other options"):
        caption_files(pipe, sounds, tmp_path / "a.csv", batch_size=1, hop_seconds=5.0)


@pytest.mark.parametrize("name", ["captions", "captions.xls"])
def test_an_unknown_format_is_refused(pipe, sounds, tmp_path, name):
    with pytest.raises(InputError, match="does not say a format"):
        caption_files(pipe, sounds, tmp_path / name)


def test_a_missing_folder_for_the_output_is_named(pipe, sounds, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/a\.csv: cannot be written"):
        caption_files(pipe, sounds, tmp_path / "nowhere" / "a.csv")


def test_processes_share_the_recordings(sounds, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    code = (
        "import sys; from diffusion_link_hf import AudioCaptionPipeline, caption_files\n"
        "pipe = AudioCaptionPipeline.from_pretrained(sys.argv[1])\n"
        "caption_files(pipe, sys.argv[2], sys.argv[3])\n"
    )
    (tmp_path / "run.py").write_text(code)
    arguments = [str(tmp_path / "run.py"), str(tmp_path / "model"), str(sounds)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    subprocess.run([*launch, *arguments, str(tmp_path / "two.jsonl")], check=True, timeout=300)
    subprocess.run([sys.executable, *arguments, str(tmp_path / "one.jsonl")], check=True, timeout=300)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
segments = st.builds(
    CaptionSegment,
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    texts,
    st.just(()),
    st.none() | st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(st.builds(CaptionedFile, texts, st.lists(segments, max_size=4).map(tuple), st.none()))
def test_json_gives_back_what_it_got(one):
    assert CaptionedFile.from_json(json.loads(json.dumps(one.as_json()))) == one


@settings(max_examples=60, deadline=None)
@given(st.lists(segments, max_size=5))
def test_merged_segments_say_the_same_once(found):
    found = [dataclasses.replace(one, start=10.0 * k, end=10.0 * k + 10) for k, one in enumerate(found)]
    merged = merge_segments(found)
    assert all(a.text != b.text for a, b in itertools.pairwise(merged))
    for one in found:
        assert any(part.start <= one.start and one.end <= part.end and part.text == one.text for part in merged)


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx"])
def test_what_a_spreadsheet_would_run_is_quoted(text, tmp_path):
    with (tmp_path / "a.csv").open("wb") as file:
        write_captions([CaptionedFile("a.wav", (CaptionSegment(0, 1, text),))], file, "csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["caption"] == f"'{text}"
