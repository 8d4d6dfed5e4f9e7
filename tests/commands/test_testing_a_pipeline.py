"""``diffusion-link test``: captions, scores, report and card of a pipeline; killed and shared, it ends the same."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from diffusion_link_hf import AudioCaptionPipeline, DataError, InputError, MetricDependencyError, evaluate_pipeline
from diffusion_link_hf.audio import load_audio
from diffusion_link_hf.commands import test as command
from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.errors import ModelFolderError
from diffusion_link_hf.experiments import data_captioning, testing
from diffusion_link_hf.experiments.data_captioning import CaptioningOptions, caption_data, shard_count
from diffusion_link_hf.experiments.written_captions import WrittenCaptions
from diffusion_link_hf.hub.contents import collect
from diffusion_link_hf.hub.results import RESULTS, pipeline_fingerprint, read_results
from support.commands import run
from support.embeddings import make_clips
from support.models import make_pipeline

QUICK = {"device": "cpu", "batch_size": 2, "max_new_tokens": 5, "resamples": 20}
METRICS = ["rouge_l", "cider_d", "bleu", "vocabulary"]


@pytest.fixture(autouse=True)
def no_java_needed(request, monkeypatch):
    """Words between spaces in the place of PTB's tokens: what the metrics make of them is tested with the metrics."""
    monkeypatch.setattr("diffusion_link_hf.metrics.tokenization.check_tokenizer", lambda: None)
    monkeypatch.setattr(
        "diffusion_link_hf.metrics.captions.ptb_tokenize", lambda texts: [text.lower() for text in texts]
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "captioner")
    return tmp_path / "captioner"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Eleven recordings: two longer than ten seconds, two that cannot be read."""
    folder = tmp_path_factory.mktemp("sounds")
    with open(folder / "metadata.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption"])
        for clip in make_clips():
            (folder / clip.name).write_bytes(clip.audio)
            rows.writerows([clip.name, caption] for caption in clip.captions)
    return folder


def files(output: Path) -> dict[str, str]:
    """What equal runs write equally: all but the times."""
    document = json.loads((output / "results.json").read_text()) | {"times": None}
    report = (output / "report.md").read_text().split("## Times")[0]
    return {"results": json.dumps(document), "report": report, "captions": (output / "captions.jsonl").read_text()}


def test_from_a_data_set_to_a_report_and_a_card(pipeline, sounds, tmp_path, capsys):
    output = tmp_path / "report"
    options = ["--device", "cpu", "--batch-size", 2, "--max-new-tokens", 5, "--resamples", 20, "--quiet"]
    arguments = [pipeline, "--data", sounds, "--output", output, "--metrics", *METRICS, *options]
    assert run(command, *arguments) == 1  # two recordings are left out
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(output / "report.md")
    assert any(line.startswith("CIDEr-D ") and "[" in line for line in printed.out.splitlines())
    assert sorted(line.split()[3] for line in printed.err.splitlines()) == ["5.wav:", "9.wav:"]

    document = json.loads((output / "results.json").read_text())
    assert document["pipeline"]["name"] == "captioner"
    assert document["pipeline"]["link"] == "DiffusionLinkModel"
    assert (document["data"]["recordings"], document["data"]["references"]) == (9, 17)
    assert {failure["audio"] for failure in document["data"]["left_out"]} == {"5.wav", "9.wav"}
    assert document["figures"]["cider_d"]["low"] is not None
    assert set(document["paper"]) == {"zeroshot", "supervised"}  # no recipe says how it was trained
    report = (output / "report.md").read_text()
    assert "| the paper: diffusion-link | 24.2 | 73.2 | 17.5 | 45.4 |" in report
    assert str(tmp_path) not in report + json.dumps(document)

    rows = [json.loads(line) for line in (output / "captions.jsonl").read_text().splitlines()]
    assert [row["recording"] for row in rows] == [clip.name for clip in make_clips() if clip.name[0] not in "59"]
    assert set(rows[0]["scores"]) == {"rouge_l", "cider_d", *(f"bleu_{n}" for n in range(1, 5))}
    pipe = AudioCaptionPipeline.from_pretrained(pipeline)
    expected = pipe(
        [(load_audio(sounds / row["recording"]), 48_000) for row in rows], long_audio="average", max_new_tokens=5
    )
    assert [row["candidate"] for row in rows] == expected.captions

    (result,) = read_results(pipeline)
    assert result.figures["cider_d"]["value"] == document["figures"]["cider_d"]["value"]
    assert "| ROUGE-L |" in (pipeline / "README.md").read_text()
    assert RESULTS in collect(pipeline).files


@pytest.mark.parametrize(("stop_at", "num_workers"), [(1, 0), (4, 1)])
def test_a_killed_run_goes_on_and_ends_the_same(pipeline, sounds, tmp_path, monkeypatch, stop_at, num_workers):
    options = {**QUICK, "metrics": METRICS, "rerank": 2, "do_sample": True, "num_workers": num_workers, "card": False}
    evaluate_pipeline(pipeline, sounds, tmp_path / "whole", **options)
    batches, write = [], WrittenCaptions.add

    def stop(self, shard, batch, captioned):
        if len(batches) == stop_at:
            raise KeyboardInterrupt
        batches.append((shard, batch))
        write(self, shard, batch, captioned)

    with monkeypatch.context() as context:
        context.setattr(WrittenCaptions, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate_pipeline(pipeline, sounds, tmp_path / "killed", **options)
    assert not (tmp_path / "killed" / "report.md").exists()
    assert len(list((tmp_path / "killed" / "batches").glob("*-*.json"))) == stop_at
    captioned, caption = [], data_captioning.caption_batch

    def count(pipe, clips, *rest):
        captioned.extend(clip.name for clip in clips)
        return caption(pipe, clips, *rest)

    monkeypatch.setattr(data_captioning, "caption_batch", count)
    evaluate_pipeline(pipeline, sounds, tmp_path / "killed", **options)
    assert len(captioned) == 11 - 2 * stop_at  # nothing is captioned twice
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    evaluate_pipeline(pipeline, sounds, tmp_path / "killed", **options)
    assert len(captioned) == 11 - 2 * stop_at


def test_processes_share_the_work_and_end_where_one_does(pipeline, sounds, tmp_path):
    pipe, data, options = (
        AudioCaptionPipeline.from_pretrained(pipeline),
        open_data(sounds),
        CaptioningOptions(batch_size=2, do_sample=True),
    )
    shards = shard_count(data, options)
    assert shards > 1
    one, two = (WrittenCaptions(tmp_path / name, {}) for name in ("one", "two"))
    caption_data(pipe, data, one, options, shards)
    caption_data(pipe, data, two, options, shards, (1, 2))
    assert two.read(shards) is None
    caption_data(pipe, data, two, options, shards, (0, 2))
    assert two.read(shards).rows == one.read(shards).rows
    assert two.read(shards).failures == one.read(shards).failures


def test_clap_chooses_among_beams(pipeline, sounds, tmp_path):
    options = {**QUICK, "metrics": ["rouge_l"], "card": False}
    document = evaluate_pipeline(pipeline, sounds, tmp_path / "report", rerank=3, **options)
    assert document["settings"]["generation"] == {"num_beams": 3, "max_new_tokens": 5, "rerank": 3}
    for line in (tmp_path / "report" / "captions.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert len(row["candidates"]) == len(row["clap_cosines"]) == 3
        assert row["candidate"] == row["candidates"][row["clap_cosines"].index(max(row["clap_cosines"]))]
    assert "candidate, CLAP cosine" in (tmp_path / "report" / "report.md").read_text()


def test_what_cannot_be_computed_is_listed_unless_it_was_asked_for(pipeline, sounds, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUSION_LINK_METRICS", str(tmp_path / "metrics"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    skip = ["sbert_similarity", "fense"]
    document = evaluate_pipeline(pipeline, sounds, tmp_path / "all", skip=skip, **QUICK)
    assert set(document["settings"]["not_computed"]) == {"meteor", "spice", "spider", "fluency_error"}
    assert "needs Java" in document["settings"]["not_computed"]["meteor"]
    assert "Install a Java runtime" in (tmp_path / "all" / "report.md").read_text()
    assert "sbert" not in json.dumps(document)
    monkeypatch.setattr(testing, "caption_data", lambda *_: pytest.fail("captioning began"))
    with pytest.raises(MetricDependencyError, match="needs Java"):
        evaluate_pipeline(pipeline, sounds, tmp_path / "named", metrics=["meteor", "rouge_l"], **QUICK)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"metrics": ["cider"]}, InputError, "there is no 'cider'"),
        ({"metrics": ["bleu"], "skip": ["bleu"]}, InputError, "all skipped"),
        ({"rerank": 0}, InputError, "rerank"),
        ({"resamples": 0}, InputError, "resamples"),
        ({"generation_kwargs": {"temperatur": 1}}, InputError, "temperatur"),
        ({"split": "test"}, DataError, "no split 'test'"),
        ({"device": "quantum"}, InputError, "device"),
        ({"model": "./nowhere"}, ModelFolderError, "no such folder"),
    ],
)
def test_what_cannot_work_is_refused_before_captioning(pipeline, sounds, tmp_path, monkeypatch, options, error, words):
    monkeypatch.setattr(testing, "caption_data", lambda *_: pytest.fail("captioning began"))
    arguments = {"model": pipeline, "data": sounds, "output": tmp_path / "r", **QUICK, "metrics": METRICS, **options}
    with pytest.raises(error, match=words) as caught:
        evaluate_pipeline(**arguments)
    assert caught.value.remedy


def test_captions_of_other_arguments_do_not_mix(pipeline, sounds, tmp_path):
    options = {**QUICK, "metrics": ["rouge_l"], "card": False}
    evaluate_pipeline(pipeline, sounds, tmp_path / "report", **options)
    with pytest.raises(InputError, match=r"generation.num_beams 1, now 2") as caught:
        evaluate_pipeline(pipeline, sounds, tmp_path / "report", **options, num_beams=2)
    assert "Use another folder" in caught.value.remedy
    make_pipeline(seed=3).save_pretrained(pipeline)
    with pytest.raises(InputError, match="pipeline "):
        evaluate_pipeline(pipeline, sounds, tmp_path / "report", **options)


def test_nothing_to_caption(pipeline, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").write_text("file_name,caption\na.wav,Rain\n")
    with pytest.raises(DataError, match=r"no recording that can be read \(1 failed\)"):
        evaluate_pipeline(pipeline, tmp_path / "data", tmp_path / "report", metrics=["rouge_l"], **QUICK)


def test_a_damaged_batch_is_named(pipeline, sounds, tmp_path):
    options = {**QUICK, "metrics": ["rouge_l"], "card": False}
    evaluate_pipeline(pipeline, sounds, tmp_path / "report", **options)
    (tmp_path / "report" / "batches" / "00000-0001.json").write_text("{")
    with pytest.raises(DataError, match="00000-0001"):
        evaluate_pipeline(pipeline, sounds, tmp_path / "report", **options)


def test_the_pipelines_folder_is_left_alone_where_that_is_asked(pipeline, sounds, tmp_path):
    before = sorted(path.name for path in pipeline.iterdir())
    evaluate_pipeline(pipeline, sounds, tmp_path / "report", metrics=["rouge_l"], card=False, **QUICK)
    assert sorted(path.name for path in pipeline.iterdir()) == before


def test_the_recipe_says_which_table_of_the_paper(pipeline, sounds, tmp_path):
    (pipeline / "recipe.yaml").write_text("stage: decoder\nmode: text_only\n")
    fingerprint = pipeline_fingerprint(pipeline)
    document = evaluate_pipeline(pipeline, open_data(sounds, limit=3), tmp_path / "r", metrics=["rouge_l"], **QUICK)
    assert (document["pipeline"]["mode"], list(document["paper"])) == ("zeroshot", ["zeroshot"])
    assert (document["data"]["recordings"], document["pipeline"]["fingerprint"]) == (3, fingerprint)
    with pytest.raises(InputError, match="limit: is given beside an opened data set"):
        evaluate_pipeline(pipeline, open_data(sounds), tmp_path / "r", limit=3, metrics=["rouge_l"], **QUICK)
