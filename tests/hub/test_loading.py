"""Loading from a server that speaks the Hub's HTTP API, and what its refusals become."""

from pathlib import Path

import pytest
import torch

from diffusion_link_hf import AudioCaptionPipeline, ClapEncoder, DiffusionLinkPipeline
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.loading import BaseReference, default_pipeline_folder, refuse_pickles, resolve_folder
from support.hub_client import RATE, recording
from support.hub_faults import ScriptedFaults
from support.models import make_pipeline


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders: a whole pipeline, one that references its bases, one whose base is gated, the link alone."""
    root, pipe = tmp_path_factory.mktemp("hub"), make_pipeline()
    pipe.save_pretrained(root / "whole")
    DiffusionLinkPipeline(pipe.link, pipe.scheduler).save_pretrained(root / "link")
    pipe.clap.source = BaseReference("me/clap", "main")
    for name, base in (("referencing", "me/language-model"), ("on-gated", "me/gated")):
        pipe.decoder.source = BaseReference(base, "main")
        pipe.save_pretrained(root / name, include_base=False)
    return root


@pytest.fixture(scope="module", autouse=True)
def repositories(served, root):
    for name in ("whole", "referencing", "on-gated", "link"):
        served.add(f"me/{name}", root / name)
    served.add("me/private", root / "whole", private=True)
    base = root / "whole" / "decoder" / "base"
    served.add("me/language-model", base)
    served.add("me/gated", base, gated=True, accepted={"hf_writer"})
    served.add("me/clap", root / "whole" / "clap")
    served.add("me/gated-clap", root / "whole" / "clap", gated=True)
    whole = served.repositories["models", "me/whole"]
    whole.branches["v1/stable"] = whole.branches["main"]


@pytest.fixture(scope="module")
def commit(repositories, served):
    return served.repositories["models", "me/whole"].branches["main"]


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def captions(root):
    return AudioCaptionPipeline.from_pretrained(root / "whole")(recording(), RATE).captions


REQUESTS = {
    "whole": {"id": "me/whole"},
    "branch": {"id": "me/whole", "revision": "v1/stable"},
    "commit": {"id": "me/whole", "revision": "COMMIT"},
    "referencing": {"id": "me/referencing"},
    "elsewhere": {"id": "me/referencing", "cache_dir": "OTHER"},
    "private with a token": {"id": "me/private", "token": "hf_writer"},
    "gated base, accepted": {"id": "me/on-gated", "token": "hf_writer"},
    "link": {"loads": "DiffusionLinkPipeline", "id": "me/link"},
    "link of a whole pipeline": {"loads": "DiffusionLinkPipeline", "id": "me/whole", "revision": "v1/stable"},
    "clap": {"loads": "ClapEncoder", "id": "me/clap", "revision": "main"},
    "clap of a whole pipeline": {"loads": "ClapEncoder", "id": "me/whole"},
    "no repository": {"id": "me/nothing"},
    "no revision": {"id": "me/whole", "revision": "v9"},
    "gated, no token": {"loads": "ClapEncoder", "id": "me/gated-clap"},
    "gated, not accepted": {"loads": "ClapEncoder", "id": "me/gated-clap", "token": "hf_stranger"},
    "gated base, no token": {"id": "me/on-gated", "cache_dir": "EMPTY"},
    "gated base, not accepted": {"id": "me/on-gated", "token": "hf_stranger", "cache_dir": "EMPTY"},
    "private": {"id": "me/private", "cache_dir": "EMPTY"},
    "private of somebody else": {"id": "me/private", "token": "hf_stranger", "cache_dir": "EMPTY"},
    "no revision of a clap": {"loads": "ClapEncoder", "id": "me/clap", "revision": "v9"},
    "no revision of a link": {"loads": "DiffusionLinkPipeline", "id": "me/link", "revision": "v9"},
    "no clap": {"loads": "ClapEncoder", "id": "me/nothing"},
}


@pytest.fixture(scope="module")
def online(client, other_cache, commit, tmp_path_factory):
    """Everything that is asked of the server, in one process."""
    stand_ins = {"COMMIT": commit, "OTHER": str(other_cache), "EMPTY": str(tmp_path_factory.mktemp("empty"))}
    requests = [{key: stand_ins.get(value, value) for key, value in asked.items()} for asked in REQUESTS.values()]
    return dict(zip(REQUESTS, client.ask(*requests), strict=True))


@pytest.mark.parametrize(
    "request_",
    ["whole", "branch", "commit", "referencing", "elsewhere", "private with a token", "gated base, accepted"],
)
def test_a_repository_captions_as_its_folder(online, captions, request_):
    assert online[request_].get("captions") == captions, online[request_]


def test_bases_are_pinned_to_their_commits(online, hub):
    """A branch can move; what was loaded is what is noted, and saved again."""
    for part, repo in (("base", "me/language-model"), ("clap", "me/clap")):
        commit = hub.repositories["models", repo].branches["main"]
        assert online["referencing"][part] == {"id": repo, "revision": commit}
        assert online["whole"][part] is None


def test_the_link_and_clap_alone(online, root, hub):
    link = DiffusionLinkPipeline.from_pretrained(root / "link")
    expected = link(torch.ones(1, link.link.config.embedding_dim)).embeds.tolist()
    assert online["link"].get("embeds") == expected, online["link"]
    assert online["link of a whole pipeline"].get("embeds") == expected
    clap = ClapEncoder.from_pretrained(root / "whole" / "clap")
    assert online["clap"].get("embeds") == clap.encode_text(["rain"]).tolist(), online["clap"]
    commit = hub.repositories["models", "me/clap"].branches["main"]
    assert online["clap"]["source"] == {"id": "me/clap", "revision": commit}
    assert online["clap of a whole pipeline"] == {"embeds": online["clap"]["embeds"], "source": None}


def test_only_the_link_is_fetched_for_the_link(hub, client, tmp_path):
    (got,) = client.ask(REQUESTS["link of a whole pipeline"] | {"cache_dir": tmp_path})
    assert "embeds" in got
    assert not [request for request in hub.requests if "/clap/" in request or "/decoder/" in request]


def test_the_cache_folder_holds_everything(online, other_cache):
    """``cache_dir`` reaches the base models as well."""
    kept = {path.name for path in other_cache.iterdir() if path.name.startswith("models--")}
    assert kept == {"models--me--referencing", "models--me--language-model", "models--me--clap"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("no repository", "neither a folder here nor a repository"),
        ("no clap", "neither a folder here nor a repository"),
        ("no revision", "no such revision"),
        ("no revision of a clap", "no such revision"),
        ("no revision of a link", "no such revision"),
        ("gated, no token", "Accept its license on https://huggingface.co/me/gated-clap"),
        ("gated, not accepted", "Accept its license on https://huggingface.co/me/gated-clap"),
        ("gated base, no token", "Accept its license on https://huggingface.co/me/gated "),
        ("gated base, not accepted", "Accept its license on https://huggingface.co/me/gated "),
        ("private", "token"),
        ("private of somebody else", "token"),
    ],
)
def test_refusals_say_what_to_do(online, request_, words):
    answer = online[request_]
    assert answer.get("error") == "HubAccessError", answer
    assert words in answer["text"]
    assert answer["cause"] != "NoneType"


def test_without_a_network(online, captions, hub, client):
    """What was fetched once still captions; the rest is a typed error."""
    with hub.away():
        known, unknown = client.ask({"id": "me/referencing"}, {"id": "me/other"})
    assert known.get("captions") == captions, known
    assert unknown.get("error") == "HubAccessError", unknown
    assert "Go online once" in unknown["text"]


def test_local_files_only_asks_nobody(online, captions, hub, client, other_cache):
    """Neither for the pipeline nor for its bases, nor for one that was never fetched."""
    wanted = [{"id": "me/referencing"}, {"id": "me/on-gated", "cache_dir": other_cache}]
    known, unknown = client.ask(*(request | {"local_files_only": True} for request in wanted))
    assert known.get("captions") == captions, known
    assert "Go online once" in unknown["text"]
    assert hub.requests == []


def test_a_token_without_the_right_and_a_rate_limit_are_not_called_offline(hub, client, tmp_path):
    hub.faults = ScriptedFaults.on("GET /api/models/me/whole", "forbidden", *["rate"] * 6)
    forbidden, limited = client.ask(*[{"id": "me/whole", "cache_dir": tmp_path}] * 2)
    assert forbidden["error"] == limited["error"] == "HubAccessError"
    assert "rights" in forbidden["text"], forbidden
    assert "429" in limited["text"], limited
    assert "later" in limited["text"]


def test_folders_and_names(tmp_path, monkeypatch):
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(None) == resolve_folder("tiny") == default_pipeline_folder()
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("tiny") == Path("tiny")
    (tmp_path / "file").write_text("")
    for name in ("file", "./nowhere", "/nowhere/at/all", "a/b/c"):
        with pytest.raises(ModelFolderError):
            resolve_folder(name)
    for name in ("", 5):
        with pytest.raises(InputError, match="Name a folder"):
            resolve_folder(name)


@pytest.mark.parametrize("name", [None, "tiny", "folder"])
def test_what_is_local_has_no_revision(tmp_path, name):
    name = tmp_path if name == "folder" else name
    with pytest.raises(InputError, match="revision: is 'v1'"):
        resolve_folder(name, "v1")
    for load in (AudioCaptionPipeline.from_pretrained, AudioCaptionPipeline.download):
        with pytest.raises(InputError, match="revision"):
            load(name, revision="v1")


@pytest.mark.parametrize("name", ["a.bin", "deep/b.PT", "c.pkl", "d.ckpt", "e.pth"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / "model.safetensors").write_bytes(b"")
    refuse_pickles(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelFolderError, match="pickle"):
        refuse_pickles(tmp_path)
