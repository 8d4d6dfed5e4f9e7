"""Push, then load in a new process with an empty cache: the same captions, whatever goes wrong on the way."""

import pytest
from huggingface_hub import ModelCard

from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkPipeline
from support.faulty_rounds import run_rounds
from support.hub_client import RATE, recording
from support.hub_faults import ScriptedFaults
from support.hub_server import Handler
from support.models import make_pipeline


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs: a captioner with an adapter, one without, and a link."""
    root = tmp_path_factory.mktemp("runs")
    for name, lora in (("adapter", True), ("whole", False)):
        make_pipeline(lora=lora).save_pretrained(root / name)
        (root / name / "metrics.json").write_text('{"loss": 1.5}')
    pipe = make_pipeline()
    DiffusionLinkPipeline(pipe.link, pipe.scheduler).save_pretrained(root / "link")
    return root


@pytest.fixture(scope="module")
def captions(folders):
    return {
        name: AudioCaptionPipeline.from_pretrained(folders / name)(recording(), RATE).captions
        for name in ("adapter", "whole")
    }


@pytest.fixture
def push(client, folders):
    """Pushes a run and returns the answer of the process that did."""

    def push(name: str, repo: str, *options: str, token: str = "hf_writer"):
        return client.ask({"push": [str(folders / name), "--repo-id", repo, "--token", token, *options]})[0]

    return push


def test_what_is_pushed_captions_as_its_folder(hub, client, push, captions, tmp_path):
    assert push("adapter", "me/pushed") == {"status": 0}
    (loaded,) = client.ask({"id": "me/pushed", "cache_dir": tmp_path})
    assert loaded.get("captions") == captions["adapter"], loaded
    assert sum(request.startswith("POST") and "/commit/" in request for request in hub.requests) == 1
    card = ModelCard(hub.files("me/pushed")["README.md"].decode())
    assert card.data.eval_results[0].metric_value == 1.5


def test_a_link_can_be_pushed(hub, client, push, folders, tmp_path):
    assert push("link", "me/pushed-link") == {"status": 0}
    (loaded,) = client.ask({"loads": "DiffusionLinkPipeline", "id": "me/pushed-link", "cache_dir": tmp_path})
    assert "embeds" in loaded, loaded


def test_files_of_an_earlier_push_do_not_stay(hub, client, push, captions, tmp_path):
    """An adapter of before would be put onto a decoder that has none. What somebody else added stays."""
    assert push("adapter", "me/changed") == {"status": 0}
    repository = hub.repositories["models", "me/changed"]
    repository.commit("main", hub.files("me/changed") | {"images/plot.png": b"x"})
    assert push("whole", "me/changed") == {"status": 0}
    assert "images/plot.png" in hub.files("me/changed")
    assert "decoder/adapter_config.json" not in hub.files("me/changed")
    (loaded,) = client.ask({"id": "me/changed", "cache_dir": tmp_path})
    assert loaded.get("captions") == captions["whole"], loaded


def test_branches_and_pushing_the_same_again(hub, client, push, captions, tmp_path):
    assert push("adapter", "me/branches") == {"status": 0}
    assert push("whole", "me/branches", "--revision", "v2/try") == {"status": 0}
    jobs = [{"id": "me/branches", "revision": revision, "cache_dir": tmp_path} for revision in (None, "v2/try")]
    assert [loaded.get("captions") for loaded in client.ask(*jobs)] == [captions["adapter"], captions["whole"]]
    commits = len(hub.repositories["models", "me/branches"].commits)
    assert push("adapter", "me/branches") == {"status": 0}
    assert len(hub.repositories["models", "me/branches"].commits) == commits


def test_private(hub, client, push, captions, tmp_path):
    assert push("adapter", "me/secret", "--private") == {"status": 0}
    job = {"id": "me/secret", "cache_dir": tmp_path}
    refused, loaded = client.ask(job, job | {"token": "hf_writer"})
    assert refused["error"] == "HubAccessError"
    assert loaded.get("captions") == captions["adapter"]


def test_a_public_repository_does_not_pass_for_private(hub, push):
    hub.add("me/public")
    before = hub.files("me/public")
    answer = push("adapter", "me/public", "--private")
    assert "exists and is public" in answer["text"], answer
    assert hub.files("me/public") == before


@pytest.mark.parametrize("token", ["hf_stranger", "hf_unknown"])
def test_a_token_without_the_right_to_write(hub, push, token):
    answer = push("adapter", "me/forbidden", token=token)
    assert answer["error"] == "HubAccessError", answer
    assert "right" in answer["text"]
    assert ("models", "me/forbidden") not in hub.repositories


def test_a_space_beside_it(hub, push):
    assert push("adapter", "me/shown", "--space", "--private") == {"status": 0}
    files = hub.files("me/shown-demo", "spaces")
    assert set(files) == {".gitattributes", "app.py", "README.md", "requirements.txt"}
    assert b'MODEL = "me/shown"' in files["app.py"]
    assert hub.repositories["spaces", "me/shown-demo"].private
    assert push("adapter", "me/shown", "--space", "me/show") == {"status": 0}
    assert ("spaces", "me/show") in hub.repositories


@pytest.mark.parametrize("fault", ["rate", "drop", "truncate"])
def test_an_upload_that_fails_once_is_repeated(hub, push, folders, fault):
    hub.lfs.clear()
    hub.faults = ScriptedFaults.on("PUT /lfs/", fault)
    assert push("adapter", f"me/upload-{fault}") == {"status": 0}
    files = hub.files(f"me/upload-{fault}")
    for path in folders.joinpath("adapter").rglob("*.safetensors"):
        assert files[path.relative_to(folders / "adapter").as_posix()] == path.read_bytes()


@pytest.mark.parametrize(("fault", "there"), [("error", False), ("drop", False), ("lost", True)])
def test_a_commit_is_there_wholly_or_not_at_all(hub, push, fault, there):
    """If only the answer got lost, pushing again changes nothing."""
    repo = f"me/commit-{fault}"
    hub.faults = ScriptedFaults.on(f"POST /api/models/{repo}/commit", fault)
    answer = push("adapter", repo)
    assert answer["error"] == "HubAccessError", answer
    assert ("model_index.json" in hub.files(repo)) == there
    assert ("decoder/adapter_model.safetensors" in hub.files(repo)) == there
    assert push("adapter", repo) == {"status": 0}
    assert len(hub.repositories["models", repo].commits) == 2  # the one of its creation, and this


def test_somebody_else_pushed_meanwhile(hub, push, client):
    hub.add("me/contested")

    def meddle(request):
        if "/commit/" in request:
            hub.repositories["models", "me/contested"].commit("main", {"theirs": b"x"})

    hub.faults = meddle
    answer = push("adapter", "me/contested")
    assert "was changed by somebody else" in answer["text"], answer
    assert hub.files("me/contested") == {"theirs": b"x"}


@pytest.mark.parametrize("fault", ["truncate", "error"])
def test_a_download_that_breaks(hub, client, push, captions, tmp_path, fault):
    """The same captions or a typed error, and afterwards, from the same cache, the captions."""
    assert push("adapter", "me/fetched") == {"status": 0}
    job = {"id": "me/fetched", "cache_dir": tmp_path}
    hub.faults = ScriptedFaults.on("GET /lfs/", fault, fault)
    (first,) = client.ask(job)
    assert first.get("captions") == captions["adapter"] or first["error"] == "HubAccessError", first
    hub.faults = lambda request: None
    (second,) = client.ask(job)
    assert second.get("captions") == captions["adapter"], second


def test_half_a_download_does_not_load_offline(hub, client, push, captions, tmp_path):
    assert push("adapter", "me/half") == {"status": 0}
    hub.faults = lambda request: "drop" if request.startswith("GET /lfs/") else None
    job = {"id": "me/half", "cache_dir": tmp_path}
    broken, offline = client.ask(job, job | {"local_files_only": True})
    assert broken["error"] == offline["error"] == "HubAccessError", (broken, offline)


def test_rounds_with_random_faults(hub, client, tmp_path):
    """One of the rounds that ``python tests/hub/faulty_rounds.py`` runs a hundred of."""
    tally = run_rounds(hub, client, tmp_path, rounds=1, seed=5)
    assert not tally.corrupt, tally
    assert sum(tally.pushes.values()) == 1


def test_the_rounds_see_a_mixture(hub, client, tmp_path, monkeypatch):
    """Their judge has to notice a repository that holds files of two pushes."""
    apply = Handler.apply
    monkeypatch.setattr(
        Handler, "apply", lambda self, files, key, value: key == "deletedFile" or apply(self, files, key, value)
    )
    assert run_rounds(hub, client, tmp_path, rounds=1).corrupt


@pytest.mark.slow
def test_a_hundred_rounds_with_random_faults(hub, client, tmp_path):
    tally = run_rounds(hub, client, tmp_path, rounds=100)
    assert not tally.corrupt, tally
    assert sum(tally.loads.values()) == 100
