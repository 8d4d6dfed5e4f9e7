"""``diffusion-link sweep`` from a file to a report, and what it refuses."""

import json

import pytest

from diffusion_link_hf.commands import sweep
from diffusion_link_hf.errors import InputError
from support.bridges import make_bridge
from support.commands import run, write_pairs

QUICK = ["--resamples", 20, "--train-steps", 2, "--batch-size", 8, "--held-out", 0.3, "--seeds", 0, "--quiet"]


def test_a_sweep_of_fitted_bridges(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    make_bridge("diffusion-link").save_pretrained(tmp_path / "link")
    output = tmp_path / "report"
    grid = ["--timesteps", 3, 100, 500, "--steps", 1, 5]
    arguments = ["--embeddings", write_pairs(tmp_path), "--bridge", f"mine={tmp_path / 'link'}", "--output", output]
    assert run(sweep, *arguments, *grid, *QUICK) == 0
    assert capsys.readouterr().out.strip() == str(output / "report.md")
    document = json.loads((output / "results.json").read_text())
    points = {(point["timestep"], point["steps"], point["noised"]) for point in document["points"]}
    assert points == {(s, n, noised) for s, n in ((3, 1), (100, 1), (500, 1), (100, 5), (500, 5)) for noised in (0, 1)}
    assert list(document["baselines"]) == ["identity", "centering", "ridge"]
    report = (output / "report.md").read_text()
    for picture in ("matched_audio_by_timestep.svg", "source_to_target_r1_by_timestep.svg"):
        assert f"({picture})" in report
        assert (output / picture).is_file()


def test_methods_are_fitted_and_repeat(tmp_path):
    data, documents = write_pairs(tmp_path), []
    for name in "ab":
        arguments = ["--embeddings", data, "--output", tmp_path / name, "--no-figures", "--input", "noised"]
        run(sweep, *arguments, "--timesteps", 100, 200, "--steps", 5, *QUICK)
        documents.append(json.loads((tmp_path / name / "results.json").read_text()) | {"times": None})
    assert documents[0] == documents[1]
    assert [point["method"] for point in documents[0]["points"]] == ["diffusion-link"] * 2
    assert documents[0]["training"]["steps"] == 2
    assert "0.688" in (tmp_path / "a" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "teleport"], "teleport"),
        (["--methods", "mlp"], r"no s\*"),
        (["--timesteps", 1001], "1001"),
        (["--timesteps", 2, "--steps", 5], "more than any"),
        (["--bridge", "ridge=x"], "second 'ridge'"),
    ],
)
def test_what_cannot_work_is_refused_before_training(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "fit_bridges", lambda *_: pytest.fail("training began"))
    common = ["--embeddings", write_pairs(tmp_path), "--output", tmp_path / "r", "--no-figures", *QUICK]
    with pytest.raises(InputError, match=words):
        run(sweep, *common, *arguments)


def test_a_fitted_bridge_without_a_timestep_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "fit_bridges", lambda *_: pytest.fail("training began"))
    make_bridge("ridge").save_pretrained(tmp_path / "link")
    common = ["--embeddings", write_pairs(tmp_path), "--output", tmp_path / "r", "--no-figures", *QUICK]
    with pytest.raises(InputError, match=r"no s\*"):
        run(sweep, *common, "--bridge", f"mine={tmp_path / 'link'}")
