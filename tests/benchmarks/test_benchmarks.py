"""The benchmark suite: what it refuses, what it writes, and that every CPU benchmark's two sides agree."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bridging  # noqa: E402
import features  # noqa: E402
import folder  # noqa: E402
import generation  # noqa: E402
import memory  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import scaling  # noqa: E402
import scoring  # noqa: E402
from harness import DisagreementError, Row, Settings, agree, interleave, recordings  # noqa: E402

QUICK = Settings(seconds=0.0, share=0.01)


@pytest.fixture(autouse=True)
def threads():
    """`run.main` pins torch's threads for its own process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_agreement_is_checked():
    assert agree("x", torch.ones(3), np.ones(3) + 1e-6, 1e-5) == pytest.approx(1e-6)
    for other in (torch.ones(3) * 1.1, torch.ones(4), torch.full((3,), float("nan"))):
        with pytest.raises(DisagreementError, match="log-mel"):
            agree("log-mel", torch.ones(3), other, 1e-3)


def test_contestants_take_turns_after_their_warm_up():
    calls = []
    times, repeats = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, QUICK)
    assert repeats == 3
    assert times.keys() == {"a", "b"}
    warm_up = calls[:4]
    assert warm_up == ["a", "a", "b", "b"]
    rest = "".join(calls[4:])
    rounds = [part for part in rest.replace("ba", "b a").split(" ") if part]
    assert len(rounds) == 3
    assert all(part.startswith("a") and part.endswith("b") for part in rounds)


def test_ratio_and_distance():
    row = Row("features", "x", ours=2.0, peer=6.0, floor=1.0)
    assert (row.ratio, row.distance) == (3.0, 2.0)
    assert Row("features", "x", ours=None).document()["ratio"] is None


def test_a_wrong_front_end_is_not_timed(monkeypatch):
    extractor = features.extractor()
    extractor.mel_filters_slaney = extractor.mel_filters_slaney * 1.01
    monkeypatch.setattr(features, "extractor", lambda: extractor)
    with pytest.raises(DisagreementError, match="log-mel"):
        list(features.rows(QUICK))


def test_a_wrong_sampler_is_not_timed(monkeypatch):
    link = bridging.make_link()
    link.register_to_config(noise_timestep=90)
    monkeypatch.setattr(bridging, "make_link", lambda device: link)
    with pytest.raises(DisagreementError, match="bridging"):
        list(bridging.rows(QUICK))


@pytest.mark.parametrize("group", [bridging, generation])
def test_both_sides_agree(group):
    assert all(row.ours > 0 and row.peer > 0 and row.threads for row in group.rows(QUICK))


def test_the_folder_loop_agrees_with_the_package(tmp_path):
    paths = folder.synthesize(tmp_path, 2)
    model = folder.make_clap()
    clap = folder.ClapEncoder(model, front_end=folder.ClapLogMel())
    agree("folder", folder.embed(clap, paths), folder.plain_loop(model, folder.extractor(), paths), folder.TOLERANCE)


@pytest.mark.parametrize("rows", [3000, 40_000])
def test_numpy_agrees_with_the_memory_projection(rows):
    projection = memory.make_projection(rows)
    queries = memory.make_queries(projection.memory, 3)
    expected = memory.by_numpy(projection.memory.numpy(), queries.numpy())
    agree("memory", projection.bridge(queries), expected, memory.TOLERANCE)


def test_captions_for_scoring_are_reproducible():
    assert scoring.make_captions(30) == scoring.make_captions(30)
    candidates, references = scoring.make_captions(30)
    assert {len(row) for row in references} == {scoring.REFERENCES}
    assert len(set(candidates)) > 10


def test_scaling_measures_a_work_at_an_amount():
    seconds, megabytes = scaling.measure("bridging", 5, 1, 0.0)
    assert seconds > 0
    assert megabytes >= 0


def test_recordings_are_repeated_where_there_are_few(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSION_LINK_TEST_DATA", str(tmp_path))
    found, kind = recordings(20)
    assert len(found) == 20
    assert kind == "synthesized sample sounds"


def test_only_features_as_json(tmp_path, capsys):
    path = tmp_path / "out.json"
    assert run.main(["--only", "features", "--json", str(path), "--seconds", "0", "--share", "0.1"]) == 0
    document, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert document["machine"]["threads"] == 1
    assert {row["group"] for row in document["rows"]} == {"features"}
    for row in document["rows"]:
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert row["floor"] > 0
        assert row["name"] in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_rows_are_not_invented(tmp_path):
    path = tmp_path / "out.json"
    groups = ["features", "folder", "bridging", "link_training", "generation", "memory"]
    assert run.main(["--device", "cuda", "--only", *groups, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["group"] for row in rows} == set(groups)
    assert all(row["ours"] is None and row["note"] == "needs a GPU" for row in rows)


def test_markdown_refuses_a_part_of_the_work():
    for part in (["--share", "0.5"], ["--only", "features"]):
        with pytest.raises(SystemExit):
            run.parse(["--markdown", *part])


def make_document(device: str, ours: float) -> dict:
    row = Row("features", "log-mel", ours, 6 * ours, ours / 2, wanted="≥ 6×", met=True, note="floor: FFTs", repeats=5)
    return {"machine": {"device": device, "cpu": "a processor", "threads": 1}, "rows": [row.document()]}


def test_results_keep_the_other_device(tmp_path):
    path = tmp_path / "RESULTS.md"
    results.update(path, make_document("cpu", 0.5))
    assert "need a GPU" in path.read_text()
    results.update(path, make_document("cuda", 0.002))
    text = path.read_text()
    assert "| log-mel | 500 ms | 3 s | 6.00× |" in text
    assert "| log-mel | 2 ms | 12 ms | 6.00× |" in text
    assert "need a GPU" not in text
    results.update(path, make_document("cpu", 0.25))
    again = path.read_text()
    assert "250 ms" in again
    assert "500 ms" not in again
    assert "| 2 ms |" in again


def test_rows_without_figures_do_not_replace_measured_ones(tmp_path):
    path = tmp_path / "RESULTS.md"
    results.update(path, make_document("cuda", 0.002))
    empty = Row("features", "log-mel", None, note="needs a GPU").document()
    results.update(path, {"machine": {"device": "cuda"}, "rows": [empty]})
    assert "| 2 ms |" in path.read_text()


def test_the_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    curve = scaling.Curve("bridging", "rows", [1, 10, 100], [0.1, 0.9, 9.5], [1.0, 1.0, 2.0])
    scaling.draw(tmp_path / "scaling.svg", [curve])
    assert "bridging" in (tmp_path / "scaling.svg").read_text()
    assert curve.growth == pytest.approx(95)
