"""``diffusion-link evaluate`` from a cache to a report: contents, repetition, going on, and what it refuses."""

import json

import pytest
import torch

from diffusion_link_hf.analysis.captioning import HeldOut
from diffusion_link_hf.commands import evaluate
from diffusion_link_hf.embeddings.cache import EmbeddingCache
from diffusion_link_hf.errors import DataError, InputError, ModelFolderError, RecipeError
from diffusion_link_hf.experiments import caption_runs, captioning
from diffusion_link_hf.experiments.choices import DataChoice
from diffusion_link_hf.experiments.data import split_cache
from diffusion_link_hf.metrics import MetricDependencyError
from support.captioning import EVENTS, make_captioned_cache
from support.commands import parse, run
from support.models import make_pipeline
from support.training import make_base

QUICK = [
    *("--decoder-steps", 3, "--decoder-batch-size", 8, "--decoder", "lora={r: 2, target_modules: [q_proj]}"),
    *("--train-steps", 2, "--batch-size", 8, "--max-new-tokens", 5, "--resamples", 20, "--quiet"),
]


@pytest.fixture
def no_java_needed(monkeypatch):
    """Words between spaces in the place of PTB's tokens: what the metrics make of them is tested with the metrics."""
    monkeypatch.setattr("diffusion_link_hf.metrics.tokenization.check_tokenizer", lambda: None)
    monkeypatch.setattr(
        "diffusion_link_hf.metrics.captions.ptb_tokenize", lambda texts: [text.lower() for text in texts]
    )


@pytest.fixture
def given(tmp_path):
    """Arguments that name a cache of 40 recordings, a base model and an output folder."""
    make_captioned_cache().save(tmp_path / "cache")
    make_base(tmp_path / "lm")
    (tmp_path / "events.json").write_text(json.dumps(EVENTS), encoding="utf-8")
    return [
        *("--embeddings", tmp_path / "cache", "--held-out", 0.2, "--base-model", tmp_path / "lm"),
        *("--output", tmp_path / "report", "--metrics", "rouge_l", "cider_d", *QUICK),
    ]


def test_a_report_that_goes_on(given, tmp_path, capsys, monkeypatch, no_java_needed):
    arguments = [*given, "--events", tmp_path / "events.json", "--seeds", 0]
    assert run(evaluate, *arguments, "--methods", "none", "centering") == 0
    output = tmp_path / "report"
    printed = capsys.readouterr()
    assert printed.out.strip() == str(output / "report.md")
    assert "decoder" not in printed.err  # --quiet, so no progress bar either
    document = json.loads((output / "results.json").read_text())
    assert {mode: list(methods) for mode, methods in document["modes"].items()} == {
        "zeroshot": ["none", "centering"],
        "supervised": ["none", "centering"],
    }
    assert document["data"]["held_out_recordings"] == 8
    assert document["data"]["train_recordings"] == 32
    assert document["training"]["base_model"] == "lm"
    assert document["modes"]["zeroshot"]["none"]["minus"] == {}
    assert document["modes"]["zeroshot"]["centering"]["minus"]["none"]["cider_d"]["high"] is not None
    assert "event_accuracy" in document["modes"]["supervised"]["centering"]["figures"]
    lines = [json.loads(line) for line in (output / "captions.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 8
    assert all(len(line["references"]) == 2 for line in lines)
    assert str(tmp_path) not in (output / "report.md").read_text() + json.dumps(document)
    assert {path.name for path in (output / "runs").iterdir()} == {"recipe.json", "zeroshot", "supervised"}

    # One method more: only that is trained; equal arguments: none, and the same bytes.
    arguments += ["--methods", "none", "c3", "centering"]
    trained, train = [], caption_runs.train_decoder
    monkeypatch.setattr(
        caption_runs, "train_decoder", lambda args, *rest: (trained.append(args.mode), train(args, *rest))
    )
    assert run(evaluate, *arguments) == 0
    assert trained == [caption_runs.MODES["zeroshot"]["mode"]]
    before = {name: (output / name).read_bytes() for name in ("report.md", "results.json", "captions.jsonl")}
    assert json.loads(before["results.json"])["modes"]["supervised"] == document["modes"]["supervised"]
    assert run(evaluate, *arguments) == 0
    assert trained == [caption_runs.MODES["zeroshot"]["mode"]]
    assert before == {name: (output / name).read_bytes() for name in before}

    # Another budget or other data do not mix with these.
    monkeypatch.setattr(caption_runs, "train_decoder", lambda *_: pytest.fail("training began"))
    with pytest.raises(InputError, match=r"decoder.max_steps 3, now 4"):
        run(evaluate, *arguments, "--decoder-steps", 4)
    with pytest.raises(InputError, match="train "):
        run(evaluate, *arguments, "--split-seed", 1)
    assert before == {name: (output / name).read_bytes() for name in before}


def test_equal_arguments_give_equal_files_but_for_times(given, tmp_path, no_java_needed):
    files = []
    for name in "ab":
        arguments = ["--methods", "diffusion-link", "--modes", "zeroshot", "--seeds", 3, "--keep-models"]
        run(evaluate, *given, *arguments, "--output", tmp_path / name)
        document = json.loads((tmp_path / name / "results.json").read_text()) | {"times": None}
        report = (tmp_path / name / "report.md").read_text().split("## Times")[0]
        files.append((document, report, (tmp_path / name / "captions.jsonl").read_bytes()))
    assert files[0] == files[1]
    assert (tmp_path / "a/runs/bridges/diffusion-link/seed3/link").is_dir()
    assert (tmp_path / "a/runs/zeroshot/diffusion-link/seed3/decoder/decoder").is_dir()


def test_the_pipelines_decoder_gives_base_and_adapter(given, tmp_path, no_java_needed):
    make_pipeline().save_pretrained(tmp_path / "pipeline")
    at = given.index("--base-model")
    arguments = [*given[:at], "--model", tmp_path / "pipeline", *given[at + 2 :]]
    at = arguments.index("--decoder")
    arguments = [*arguments[:at], *arguments[at + 2 :], "--methods", "none", "--modes", "supervised", "--seeds", 0]
    assert run(evaluate, *arguments) == 0
    training = json.loads((tmp_path / "report/results.json").read_text())["training"]
    assert training["base_model"] == "pipeline"
    assert training["base_was_trained"] is False
    assert training["decoder"]["lora"]["r"] == 4
    assert training["instruction"] is None


def test_test_recordings_of_another_cache(given, tmp_path):
    make_captioned_cache(10, seed=5).save(tmp_path / "test")
    choice = DataChoice(tmp_path / "cache", test=tmp_path / "test")
    train, test = split_cache(choice)
    assert test.fingerprint == make_captioned_cache(10, seed=5).fingerprint
    data = captioning.describe_caches(choice, train, test, HeldOut.from_cache(test))
    assert (data["train_recordings"], data["held_out_recordings"], data["held_out_captions"]) == (40, 10, 20)
    assert (data["train_name"], data["held_out_name"]) == ("cache", "test")


def test_test_recordings_must_be_others_of_the_same_encoder(given, tmp_path):
    choice = DataChoice(tmp_path / "cache", test=tmp_path / "test")
    cache = make_captioned_cache()
    cache.select(torch.arange(6)).save(tmp_path / "test")
    with pytest.raises(DataError, match="shares 3 recordings with the training data"):
        split_cache(choice)
    for name, of, clap in (("cache", cache, "this"), ("test", make_captioned_cache(10, seed=5), "that")):
        of.manifest["clap"] = clap
        of.save(tmp_path / name)
    with pytest.raises(DataError, match="CLAP that"):
        split_cache(choice)


def test_no_recording_is_on_both_sides(given, tmp_path):
    train, test = split_cache(DataChoice(tmp_path / "cache", held_out=0.2, limit=20))
    assert (len(train.audio), len(test.audio)) == (16, 4)
    assert not set(train.audio_names) & set(test.audio_names)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--methods", "none", "teleport"], RecipeError, "teleport"),
        (["--metrics", "applause"], InputError, "applause"),
        (["--held-out", 1.0], InputError, "held_out"),
        (["--held-out", 0.001], DataError, "held out"),
        (["--embeddings", "./nowhere"], DataError, "nowhere"),
        (["--base-model", "./nowhere"], ModelFolderError, "nowhere"),
        (["--model", "./nowhere"], ModelFolderError, "nowhere"),
        (["--events", "./nowhere"], DataError, "nowhere"),
        (["--decoder", "projector={}"], RecipeError, "projector"),
        (["--decoder", "lora={rank: 2}"], RecipeError, "rank"),
        (["--decoder", "weight_decay=-1"], RecipeError, "weight_decay"),
        (["--decoder", "weight_decay=much"], RecipeError, "decoder"),
        (["--decoder", "speed=9"], RecipeError, "speed"),
        (["--decoder-learning-rate", -1], RecipeError, "learning_rate"),
        (["--seeds", -1], RecipeError, "seed"),
        (["--base-revision", "main"], InputError, "folder"),
    ],
)
def test_what_cannot_work_is_refused_before_training(arguments, error, words, given, tmp_path, monkeypatch):
    monkeypatch.setattr(captioning, "fit_bridge", lambda *_: pytest.fail("training began"))
    monkeypatch.setattr(caption_runs, "train_decoder", lambda *_: pytest.fail("training began"))
    monkeypatch.setattr("diffusion_link_hf.analysis.captioning.score", lambda *_: None)
    with pytest.raises(error, match=words) as caught:
        run(evaluate, *given, *arguments)
    assert caught.value.remedy
    assert not (tmp_path / "report" / "runs" / "recipe.json").exists()


def test_missing_java_is_refused_before_training(given, tmp_path, monkeypatch):
    monkeypatch.setattr(caption_runs, "train_decoder", lambda *_: pytest.fail("training began"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MetricDependencyError):
        run(evaluate, *given, "--methods", "none")
    assert not (tmp_path / "report" / "runs" / "recipe.json").exists()


def test_a_cache_without_audio_is_refused(given, tmp_path):
    cache = make_captioned_cache()
    owners = torch.full_like(cache.caption_audio, -1)
    text_only = EmbeddingCache(cache.audio[:0], cache.text, owners, cache.captions, [], cache.manifest)
    make_captioned_cache(10, seed=5).save(tmp_path / "test")
    text_only.save(tmp_path / "cache")
    at = given.index("--held-out")
    arguments = [*given[:at], *given[at + 2 :], "--test", tmp_path / "test"]
    with pytest.raises(DataError, match="no audio"):
        run(evaluate, *arguments)
    train, _ = split_cache(DataChoice(tmp_path / "cache", test=tmp_path / "test"), needs_audio=False)
    assert len(train.text) == 80


@pytest.mark.parametrize(
    "arguments", [["--modes", "dreaming"], ["--decoder-steps", "0"], ["--held-out", "0.1", "--test", "x"]]
)
def test_malformed_arguments_are_a_usage_error(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(evaluate, "--embeddings", "x", "--output", tmp_path, *arguments)
    assert "usage" in capsys.readouterr().err
