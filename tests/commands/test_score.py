"""``diffusion-link score``: its output, its errors, and the example of its help."""

import argparse
import io
import json
import zipfile

import pytest

from diffusion_link_hf.commands import score as command
from diffusion_link_hf.errors import DataError, InputError
from diffusion_link_hf.metrics import MetricDependencyError, score
from diffusion_link_hf.metrics.spice import CORENLP_JARS

ROWS = [
    {"candidate": "A dog barks!", "references": ["The dog barks.", "a dog is barking"], "file": "a.wav"},
    {"candidate": "", "references": ["rain"]},
    {"candidate": "狗 🐶\nrain", "references": ["rain falls"]},
]


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def java():
    import importlib.util
    import shutil

    if shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("no Java or no pycocoevalcap")


def run(*arguments) -> int:
    parser = argparse.ArgumentParser(prog="diffusion-link")
    command.add_parser(parser.add_subparsers(dest="command", required=True))
    return command.run(parser.parse_args(["score", *map(str, arguments)]))


def test_one_json_object_and_a_file_per_caption(predictions, java, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    metrics = ["cider_d", "rouge_l", "bleu_4", "vocabulary"]
    assert run(predictions, "--metrics", *metrics, "--json", "--per-caption", out) == 0
    expected = score([row["candidate"] for row in ROWS], [row["references"] for row in ROWS], metrics)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == pytest.approx(dict(expected.corpus))
    assert (printed.err, printed.out.count("\n")) == ("", 1)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["candidate"] for row in written] == [row["candidate"] for row in ROWS]
    assert written[0]["file"] == "a.wav"
    for name in ("cider_d", "rouge_l", "bleu_4"):
        assert [row["scores"][name] for row in written] == pytest.approx(expected.per_caption[name].tolist())


def test_a_table_without_json(predictions, java, capsys):
    assert run(predictions, "--metrics", "rouge_l", "vocabulary") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == [
        "rouge_l",
        "vocabulary_size",
        "vocabulary_ratio",
        "distinct_captions",
        "words_per_caption",
    ]
    assert dict(lines)["vocabulary_size"] == "5.0000"  # a dog barks 狗 rain


def test_standard_input(predictions, java, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(predictions.read_bytes())))
    assert run("-", "--metrics", "rouge_l", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"rouge_l"}


def test_nothing_is_printed_if_something_is_missing(predictions, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(MetricDependencyError, match="Install a Java runtime"):
        run(predictions, "--metrics", "rouge_l", "meteor", "--json")
    assert capsys.readouterr().out == ""


def test_errors_name_the_line_and_the_metric(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"candidate": "a", "references": ["b"]}\n{"candidate": "a"}\n')
    with pytest.raises(DataError, match=r"p\.jsonl, line 2: lacks 'references'"):
        run(path)
    with pytest.raises(InputError, match="there is no 'cider'"):
        run(tmp_path / "missing", "--metrics", "cider")
    path.write_text('{"candidate": "a", "references": ["b"]}')
    with pytest.raises(InputError, match="batch_size"):
        run(path, "--batch-size", "0")


@pytest.mark.parametrize("arguments", [[], ["p.jsonl", "--fetch", "spice"], ["p.jsonl", "--archive", "a.zip"]])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: diffusion-link score" in capsys.readouterr().err


def test_fetch_from_an_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUSION_LINK_METRICS", str(tmp_path / "metrics"))
    with zipfile.ZipFile(tmp_path / "corenlp.zip", "w") as file:
        for jar in CORENLP_JARS:
            file.writestr(f"corenlp/{jar}", jar)
    assert run("--fetch", "spice", "--archive", tmp_path / "corenlp.zip") == 0
    assert "spice: ready in" in capsys.readouterr().out
    assert all((tmp_path / "metrics" / "corenlp" / jar).is_file() for jar in CORENLP_JARS)
    with pytest.raises(MetricDependencyError):
        run("--fetch", "fluency", "--archive", tmp_path / "missing.ckpt")


def test_help_names_every_metric(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    text = capsys.readouterr().out
    assert all(name in text for name in ("cider_d", "spider", "fense", "--fetch spice"))
