"""A pipeline and a data set on the Hub are tested, and a tested pipeline is pushed with its figures."""

import importlib.util
import json
import shutil

import pytest
from huggingface_hub import ModelCard

from diffusion_link_hf.hub.results import RESULTS
from support.captions import make_audiocaps_repository
from support.models import make_pipeline

QUICK = ["--metrics", "rouge_l", "cider_d", "--device", "cpu", "--max-new-tokens", "4", "--resamples", "20", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def java():
    """The tokenizer runs in another process, where nothing can take its place."""
    if shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None:
        pytest.skip("no Java or no pycocoevalcap")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "captioner"
    make_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def data(hub, tmp_path):
    hub.add("me/audiocaps", make_audiocaps_repository(tmp_path / "audiocaps"), kind="datasets")
    return "me/audiocaps"


def test_both_from_the_hub(hub, client, folder, data, tmp_path):
    hub.add("me/captioner", folder)
    arguments = ["test", "me/captioner", "--data", data, "--split", "test", "--output", str(tmp_path / "report")]
    (answer,) = client.ask({"command": [*arguments, *QUICK]})
    assert answer.get("status") == 1, answer  # one recording is gone, one is damaged
    document = json.loads((tmp_path / "report" / "results.json").read_text())
    model, dataset = (hub.repositories[kind, name] for kind, name in (("models", "me/captioner"), ("datasets", data)))
    assert document["pipeline"]["name"] == f"me/captioner@{model.resolve('main')}"
    assert document["data"]["name"] == f"{data}@{dataset.resolve('main')}"
    assert (document["data"]["recordings"], document["data"]["references"]) == (2, 6)
    assert len(document["data"]["left_out"]) == 2
    rows = [json.loads(line) for line in (tmp_path / "report" / "captions.jsonl").read_text().splitlines()]
    assert [row["recording"] for row in rows] == ["test0000000_0", "test0000003_30"]
    assert set(hub.files("me/captioner")) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def test_a_tested_pipeline_is_pushed_with_its_figures(hub, client, folder, data, tmp_path):
    shutil.copytree(folder, tmp_path / "captioner")
    test = ["test", str(tmp_path / "captioner"), "--data", data, "--split", "test", "--output", str(tmp_path / "r")]
    (answer,) = client.ask({"command": [*test, *QUICK]})
    assert answer.get("status") == 1, answer
    figures = json.loads((tmp_path / "r" / "results.json").read_text())["figures"]
    push = [str(tmp_path / "captioner"), "--repo-id", "me/tested", "--token", "hf_writer"]
    assert client.ask({"push": push}) == [{"status": 0}]
    files = hub.files("me/tested")
    assert RESULTS in files
    found = {result.metric_name: result for result in ModelCard(files["README.md"].decode()).data.eval_results}
    assert found["CIDEr-D"].metric_value == pytest.approx(figures["cider_d"]["value"])
    assert (found["CIDEr-D"].dataset_type, found["CIDEr-D"].dataset_split) == (data, "test")
    assert found["CIDEr-D"].dataset_revision == hub.repositories["datasets", data].resolve("main")
    (loaded,) = client.ask({"id": "me/tested", "cache_dir": tmp_path / "cache"})
    assert "captions" in loaded, loaded
