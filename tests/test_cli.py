"""The command line, in process and as a program."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

from diffusion_link_hf.cli import main
from diffusion_link_hf.commands import caption
from support.models import make_pipeline

RATE = 48_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for k, name in enumerate(("a.wav", "deep/b.flac", "c.ogg")):
        sf.write(folder / name, np.random.default_rng(k).uniform(-0.2, 0.2, RATE), RATE)
    return folder


def rows(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_text_lines(model, sounds, capsys):
    assert main(["caption", "--model", model, str(sounds)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(sounds / name) for name in ("a.wav", "c.ogg", "deep/b.flac")]


def test_json_lines_equal_the_pipeline(model, sounds, capsys):
    from diffusion_link_hf import AudioCaptionPipeline

    files = sorted(sounds.rglob("*.*"))
    assert main(["caption", "--model", model, "--json", *map(str, files)]) == 0
    expected = AudioCaptionPipeline.from_pretrained(model)(files)
    for row, file, segments in zip(rows(capsys), files, expected.segments, strict=True):
        assert row == {
            "file": str(file),
            "captions": [{"start": s.start, "end": s.end, "text": s.text} for s in segments],
        }


def test_bad_files_are_reported_and_the_rest_captioned(model, sounds, tmp_path, capsys):
    (sounds / "bad.wav").write_bytes(b"not audio")
    (tmp_path / "empty").mkdir()
    status = main(
        ["caption", "--model", model, "--json", str(sounds), str(tmp_path / "nowhere.wav"), str(tmp_path / "empty")]
    )
    assert status == 1
    found = {row["file"].split("/")[-1]: row for row in rows(capsys)}
    assert sorted(name for name, row in found.items() if "error" in row) == ["bad.wav", "empty", "nowhere.wav"]
    assert "captions" in found["a.wav"]
    assert "no audio file" in found["empty"]["error"]


def test_an_empty_path_is_an_error(model, sounds, capsys, monkeypatch):
    monkeypatch.chdir(sounds)
    assert main(["caption", "--model", model, "--json", ""]) == 1
    (row,) = rows(capsys)
    assert row["file"] == ""
    assert "empty path" in row["error"]


def test_status_when_all_are_missing_is_as_the_help_says(capsys, monkeypatch):
    monkeypatch.setattr(caption, "load_pipeline", lambda _: pytest.fail("a model was loaded for nothing"))
    assert main(["caption", "nowhere.wav"]) == 1
    with pytest.raises(SystemExit):
        main(["caption", "--help"])
    assert "1 if some or all could not be" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", [None, "tiny"])
def test_a_local_model_has_no_revision(model, sounds, name, capsys):
    assert main(["caption", "--model", name or model, "--revision", "v1", str(sounds)]) == 2
    assert "revision" in capsys.readouterr().err


def test_errors_go_to_standard_error_in_text_mode(model, sounds, capsys):
    assert main(["caption", "--model", model, str(sounds / "a.wav"), "nowhere.wav"]) == 1
    captured = capsys.readouterr()
    assert "nowhere.wav: does not exist" in captured.err
    assert "nowhere" not in captured.out


def test_long_recordings_have_a_line_per_window(model, tmp_path, capsys):
    path = tmp_path / "long.wav"
    sf.write(path, np.random.default_rng(0).uniform(-0.2, 0.2, 12 * RATE), RATE)
    assert main(["caption", "--model", model, str(path)]) == 0
    assert "[10–12 s]" in capsys.readouterr().out.splitlines()[1]
    assert main(["caption", "--model", model, "--json", "--long-audio", "average", str(path)]) == 0
    assert [(c["start"], c["end"]) for c in rows(capsys)[0]["captions"]] == [(0, 12)]


def test_a_model_that_is_not_there(sounds, capsys):
    assert main(["caption", "--model", "./nowhere", str(sounds)]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_device_that_is_not_there(model, sounds, capsys):
    assert main(["caption", "--model", model, "--device", "quantum", str(sounds)]) == 2
    assert "--device" in capsys.readouterr().err


def test_nothing_to_do_loads_no_model(tmp_path, capsys):
    assert main(["caption", "--model", "./nowhere", str(tmp_path)]) == 1


@pytest.mark.parametrize("arguments", [[], ["caption"], ["caption", "--batch-size", "0", "a.wav"], ["capton", "a.wav"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_program_pipes_cleanly(model, sounds):
    program = [sys.executable, "-m", "diffusion_link_hf", "caption", "--model", model, "--json", str(sounds)]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    assert len([json.loads(line) for line in run.stdout.splitlines()]) == 3
    assert run.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_any_name_and_caption_can_be_printed(model, sounds, encoding, monkeypatch):
    """Names that are not UTF-8 and terminals that know only ASCII end no run, and JSON stays JSON."""
    name = os.fsdecode(os.fsencode(sounds) + b"/d\xff\xc3\xbc.wav")
    try:
        os.rename(sounds / "a.wav", name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for options in ([], ["--json"]):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, errors="strict"))
        assert main(["caption", "--model", model, *options, name]) == 0
        assert written.getvalue().count(b"\n") == 1
    assert json.loads(written.getvalue().decode(encoding))["file"] == name


def test_help_and_import_load_nothing_heavy():
    program = (
        "import sys, diffusion_link_hf, diffusion_link_hf.cli\n"
        "try: diffusion_link_hf.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'peft', 'datasets', 'soundfile'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_every_public_name_can_be_imported():
    import diffusion_link_hf

    for name in diffusion_link_hf.__all__:
        assert getattr(diffusion_link_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = diffusion_link_hf.Nothing


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gap", "--embeddings", "nowhere", "--held-out", "2"], "--held-out: is 2.0"),
        (["gap", "--embeddings", "nowhere", "--train-steps", "5", "--methods", "foo"], "--methods: is 'foo'"),
        (["gap", "--embeddings", "nowhere"], "also needs a CLAP (--clap NAME)"),
        (
            ["evaluate", "--embeddings", "nowhere", "--base-revision", "v1"],
            "--base-revision: is 'v1', but there is no --base",
        ),
        (["train-bridge", "--embeddings", "nowhere", "--method", "foo"], "--method: is 'foo'"),
        (["embed", "--data", "nowhere", "--clap", "tiny", "--device", "quantum"], "--device: quantum"),
    ],
)
def test_errors_name_options(arguments, words, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err


def test_errors_of_functions_name_arguments(tmp_path):
    import diffusion_link_hf

    with pytest.raises(diffusion_link_hf.InputError, match=r"^held_out: is 2"):
        diffusion_link_hf.gap("nowhere", tmp_path, held_out=2)
    with pytest.raises(diffusion_link_hf.DataError, match=r"\(clap=NAME\)$"):
        diffusion_link_hf.gap("nowhere", tmp_path, figures=False)
    with pytest.raises(diffusion_link_hf.RecipeError, match=r"^method: is 'foo'"):
        diffusion_link_hf.train_bridge("foo", "nowhere", tmp_path)
    with pytest.raises(diffusion_link_hf.InputError, match=r"^device: quantum"):
        diffusion_link_hf.embed("nowhere", tmp_path, "tiny", device="quantum")
    with pytest.raises(diffusion_link_hf.InputError, match=r"^repo_id: is 'x'"):
        diffusion_link_hf.push("nowhere", "x")


def test_output_options(model, sounds, tmp_path, capsys):
    assert main(["caption", "--model", model, str(sounds), "--output", str(tmp_path / "a.csv"), "--hop", "5"]) == 0
    assert "3 captioned" in capsys.readouterr().err
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 4
    assert main(["caption", "--model", model, "-", "--output", str(tmp_path / "b.csv")]) == 2
    assert "is standard input, which cannot be resumed" in capsys.readouterr().err


def test_n_best_is_a_line_each(model, sounds, capsys):
    assert main(["caption", "--model", model, str(sounds / "a.wav"), "--n-best", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_recording_beyond_the_limit_is_named(model, sounds, capsys):
    assert main(["caption", "--model", model, str(sounds / "a.wav"), "--max-duration", "0.5"]) == 1
    assert "is longer than 0.5 s" in capsys.readouterr().err


def test_standard_input(model, sounds):
    command = [sys.executable, "-m", "diffusion_link_hf", "caption", "--model", model, "-"]
    done = subprocess.run(command, input=(sounds / "a.wav").read_bytes(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"standard input: ")


def test_a_web_address(model, sounds, capsys):
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(sounds))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert main(["caption", "--model", model, f"{address}/a.wav", f"{address}/none.wav"]) == 1
        server.shutdown()
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{address}/a.wav: ")
    assert f"{address}/none.wav: cannot be fetched" in captured.err


def test_names_cannot_forge_lines(model, sounds, capsys):
    (sounds / "a.wav").rename(sounds / "a\nb: a cat\x1b[2J.wav")
    assert main(["caption", "--model", model, str(sounds)]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "\x1b" not in captured.out
