"""Loading from a server that speaks the Hub's HTTP API, and what its refusals become."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from diffusion_link_hf import AudioCaptionPipeline
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.hub.loading import default_pipeline_folder, refuse_pickles, resolve_folder
from factories import make_pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(http.server.ThreadingHTTPServer):
    """The read side of the Hub: repository info at a revision, and files with their ETag and commit."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders: dict[str, Path] = {}
        self.refused: dict[str, tuple[int, str]] = {"me/gated": (403, "GatedRepo"), "me/private": (401, "RepoNotFound")}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        is_api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        repo = "/".join(parts[:2])
        if repo in self.server.refused:
            status, code = self.server.refused[repo]
            return self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code)
        folder = self.server.folders.get(repo)
        if folder is None:
            return self.answer(404, b"{}", X_Error_Code="RepoNotFound")
        files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        if is_api:
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", COMMIT):
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            if len(parts) > 2 and parts[2] == "tree":
                tree = [
                    {"type": "file", "path": f.relative_to(folder).as_posix(), "size": f.stat().st_size, "oid": "0"}
                    for f in files
                ]
                return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            siblings = [{"rfilename": f.relative_to(folder).as_posix()} for f in files]
            info = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        file = folder / "/".join(parts[4:])
        if not file.is_file():
            return self.answer(404, X_Error_Code="EntryNotFound")
        body = file.read_bytes()
        return self.answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    server, root = HubServer(), tmp_path_factory.mktemp("hub")
    pipe = make_pipeline()
    pipe.save_pretrained(root / "whole")
    pipe.clap.source = {"id": "me/clap", "revision": "main"}
    for name, base in (("referencing", "me/language-model"), ("on-gated", "me/gated")):
        pipe.decoder.source = {"id": base, "revision": "main"}
        pipe.save_pretrained(root / name, include_base=False)
    server.folders = {
        "me/whole": root / "whole",
        "me/referencing": root / "referencing",
        "me/on-gated": root / "on-gated",
        "me/clap": root / "whole" / "clap",
        "me/language-model": root / "whole" / "decoder" / "base",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


PROGRAM = """
import json, sys
import numpy as np
from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkError
audio = np.random.default_rng(0).uniform(-0.2, 0.2, 48000).astype("float32")
for repo, revision in json.loads(sys.argv[1]):
    try:
        pipe = AudioCaptionPipeline.from_pretrained(repo, revision=revision)
        answer = {"captions": pipe(audio, 48000).captions, "base": pipe.decoder.source}
    except DiffusionLinkError as error:
        answer = {"error": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__}
    print(json.dumps(answer))
"""


def load(endpoint, cache, *requests):
    """Answers to (repository, revision) requests, from a new process: huggingface_hub reads its endpoint at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    program = [sys.executable, "-c", PROGRAM, json.dumps(requests)]
    run = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def captions(hub):
    audio = np.random.default_rng(0).uniform(-0.2, 0.2, 48_000).astype(np.float32)
    return AudioCaptionPipeline.from_pretrained(hub.folders["me/whole"])(audio, 48_000).captions


@pytest.fixture(scope="module")
def online(hub, cache):
    """Everything that is asked of the server, in one process."""
    requests = [
        ("me/whole", None),
        ("me/whole", COMMIT),
        ("me/referencing", None),
        ("me/nothing", None),
        ("me/whole", "v9"),
        ("me/gated", None),
        ("me/on-gated", None),
        ("me/private", None),
    ]
    answers = load(f"http://127.0.0.1:{hub.server_port}", cache, *requests)
    return dict(zip(requests, answers, strict=True))


@pytest.mark.parametrize("request_", [("me/whole", None), ("me/whole", COMMIT), ("me/referencing", None)])
def test_a_repository_captions_as_its_folder(online, captions, request_):
    assert online[request_].get("captions") == captions, online[request_]


def test_a_referenced_base_is_pinned_to_its_commit(online):
    """A branch can move; what was loaded is what is noted, and saved again."""
    assert online["me/referencing", None]["base"] == {"id": "me/language-model", "revision": COMMIT}
    assert online["me/whole", None]["base"] is None


@pytest.mark.parametrize(
    ("repo", "revision", "words"),
    [
        ("me/nothing", None, "neither a folder here nor a repository"),
        ("me/whole", "v9", "no such revision"),
        ("me/gated", None, "Accept its licence on https://huggingface.co/me/gated"),
        ("me/on-gated", None, "Accept its licence on https://huggingface.co/me/gated"),
        ("me/private", None, "token"),
    ],
)
def test_refusals_say_what_to_do(online, repo, revision, words):
    answer = online[repo, revision]
    assert answer.get("error") == "HubAccessError", answer
    assert words in answer["text"]
    assert answer["cause"] != "NoneType"


def test_without_a_network(online, captions, cache):
    """What was fetched once still captions; the rest is a typed error. Nothing listens on the discard port."""
    known, unknown = load("http://127.0.0.1:9", cache, ("me/referencing", None), ("me/other", None))
    assert known.get("captions") == captions, known
    assert unknown.get("error") == "HubAccessError", unknown
    assert "Go online once" in unknown["text"]


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
