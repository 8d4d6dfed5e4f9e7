"""A server on loopback that speaks the Hub's HTTP API as huggingface_hub calls it, with faults on demand.

Repositories of models, data sets and Spaces: create, branch, preupload, LFS batch and upload, commit, information,
tree, paths, and files with ETag, commit, ranges and the redirect of LFS files. Reads and writes need tokens as on the
Hub. Xet is never offered; clients run with HF_HUB_DISABLE_XET=1, as `client_environment` sets it.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from support.hub_faults import STATUSES
from support.hub_repository import LFS_SUFFIXES, Repository, describe, git_oid

REVISION = r"(?P<revision>[^/]+)"
REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"


class HubServer(http.server.ThreadingHTTPServer):
    """Repositories in memory, behind the Hub's API.

    Attributes:
        repositories: by (kind, id), where kind is "models", "datasets" or "spaces".
        tokens: token → the namespace that it may write to and whose private repositories it may read.
        faults: from "METHOD path" to one of FAULTS or None.
        requests: every "METHOD path" that came.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.tokens: dict[str, str] = {"hf_writer": "me", "hf_stranger": "stranger"}
        self.faults: Callable[[str], str | None] = lambda request: None
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def handle_error(self, request, client_address):
        """A client that went away, as the faults make them do, is no error of the server."""

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Meanwhile nothing listens at the endpoint."""
        self.shutdown()
        self.socket.close()
        try:
            yield
        finally:
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_bind()
            self.server_activate()
            self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo_id: str, folder: Path | None = None, kind: str = "models", **options) -> Repository:
        """A repository with the files of a folder in its first commit."""
        repository = self.repositories[kind, repo_id] = Repository(**options)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder else []
        repository.commit("main", {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
        return repository

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[kind, repo_id]
        return repository.commits[repository.resolve(revision)]

    def client_environment(self, home: Path) -> dict[str, str]:
        """Environment of a process that shall use this server, with its cache in ``home``: huggingface_hub reads it at
        import."""
        dropped = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_XET_HIGH_PERFORMANCE", "TRANSFORMERS_OFFLINE")
        return {name: value for name, value in os.environ.items() if name not in dropped} | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


@contextmanager
def running_hub() -> Iterator[HubServer]:
    server = HubServer()
    server.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Refused(Exception):
    """An answer with an error status and the Hub's headers for it."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: a fault, or the route whose pattern fits."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_):
        """Says nothing: pytest shows what matters."""

    def do_GET(self):
        self.handle_one()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_one(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path).strip("/"), parse_qs(url.query)
        self.raw_route = url.path.strip("/")  # a revision may hold a quoted slash
        request = f"{self.command} /{self.route}"
        self.server.requests.append(request)
        self.fault = self.server.faults(request)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.fault == "drop":
            self.close_connection = True
            return
        if self.fault in STATUSES:
            self.answer(b"{}", STATUSES[self.fault], Retry_After="0")
            return
        try:
            self.dispatch()
        except Refused as refused:
            body = json.dumps({"error": refused.message}).encode()
            self.answer(body, refused.status, X_Error_Code=refused.code, X_Error_Message=refused.message)

    def dispatch(self) -> None:
        for methods, pattern, action in ROUTES:
            match = re.fullmatch(pattern, self.raw_route)
            if match and self.command in methods:
                action(self, **{name: unquote(value) for name, value in match.groupdict().items() if value})
                return
        raise Refused(404, message=f"no route for {self.command} {self.route}")

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        if self.fault == "lost":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "truncate" and body:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.fault == "slow":
            step = max(1, len(body) // 8)
            for first in range(0, len(body), step):
                self.wfile.write(body[first : first + step])
                self.wfile.flush()
                time.sleep(0.02)
        else:
            self.wfile.write(body)

    def answer_json(self, value: object, status: int = 200) -> None:
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

    # Who may do what -----------------------------------------------------------------------------------------------

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def writable(self, namespace: str) -> None:
        if self.token not in self.server.tokens:
            raise Refused(401, message="Invalid username or password.")
        if self.server.tokens[self.token] != namespace:
            raise Refused(403, message=f"You don't have the rights to create or change a repository of {namespace}")

    def repository(self, kind: str, repo: str) -> Repository:
        found = self.server.repositories.get((kind, repo))
        may_read = found and (not found.private or self.server.tokens.get(self.token) == repo.split("/")[0])
        if not may_read:
            raise Refused(404 if self.token else 401, "RepoNotFound", "Repository not found")
        return found

    def at(self, kind: str, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.repository(kind, repo)
        sha = repository.resolve(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repository.commits[sha]

    # Reading ---------------------------------------------------------------------------------------------------------

    def info(self, kind: str, repo: str, revision: str = "main") -> None:
        sha, files = self.at(kind, repo, revision)
        repository = self.repository(kind, repo)
        siblings = [{"rfilename": path} for path in files]
        facts = {"private": repository.private, "gated": "manual" if repository.gated else False, "tags": []}
        self.answer_json({"id": repo, "sha": sha, "siblings": siblings, **facts})

    def tree(self, kind: str, repo: str, revision: str, folder: str = "") -> None:
        _, files = self.at(kind, repo, revision)
        inside = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["False"])[0].lower() in ("true", "1")
        entries: dict[str, dict] = {}
        for path, content in files.items():
            if not path.startswith(inside):
                continue
            child, *deeper = path.removeprefix(inside).split("/")
            if deeper and not recursive:
                entries[inside + child] = {"type": "directory", "path": inside + child, "oid": "0" * 40, "size": 0}
            else:
                entries[path] = describe(path, content)
        if folder and not entries:
            raise Refused(404, "EntryNotFound", f"{folder} does not exist")
        self.answer_json(list(entries.values()))

    def paths_info(self, kind: str, repo: str, revision: str) -> None:
        _, files = self.at(kind, repo, revision)
        asked = json.loads(self.body)["paths"] if self.body[:1] == b"{" else parse_qs(self.body.decode())["paths"]
        found = [describe(path, files[path]) for path in asked if path in files]
        folders = [path for path in asked if any(name.startswith(f"{path}/") for name in files)]
        found += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        self.answer_json(found)

    def file(self, repo: str, revision: str, path: str, kind: str = "models") -> None:
        sha, files = self.at(kind, repo, revision)
        repository = self.repository(kind, repo)
        if repository.gated and self.token not in repository.accepted:
            raise Refused(403 if self.token else 401, "GatedRepo", f"Access to {kind} {repo} is restricted")
        if path not in files:
            raise Refused(404, "EntryNotFound", f"{path} does not exist")
        content, headers = files[path], {"X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        if not path.endswith(LFS_SUFFIXES):
            self.ranged(content, ETag=f'"{git_oid(content)}"', **headers)
            return
        oid = hashlib.sha256(content).hexdigest()
        self.server.lfs[oid] = content
        linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content))}
        # Another host name than the endpoint's, as the Hub sends its clients to a content network.
        self.answer(b"", 302, Location=f"http://localhost:{self.server.server_port}/lfs/{oid}", **linked, **headers)

    def lfs_file(self, oid: str) -> None:
        if oid not in self.server.lfs:
            raise Refused(404, "EntryNotFound", f"{oid} does not exist")
        self.ranged(self.server.lfs[oid], ETag=f'"{oid}"')

    def ranged(self, content: bytes, **headers: str) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match:
            self.answer(content, **headers)
            return
        first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            self.answer(b"", 416, Content_Range=f"bytes */{len(content)}")
            return
        self.answer(content[first : last + 1], 206, Content_Range=f"bytes {first}-{last}/{len(content)}", **headers)

    # Writing ---------------------------------------------------------------------------------------------------------

    def create(self) -> None:
        asked = json.loads(self.body)
        namespace = asked.get("organization") or self.server.tokens.get(self.token, "")
        self.writable(namespace)
        key = asked.get("type", "model") + "s", f"{namespace}/{asked['name']}"
        url = f"{self.server.endpoint}/{'' if key[0] == 'models' else key[0] + '/'}{key[1]}"
        with self.server.lock:
            if key in self.server.repositories:
                self.answer_json({"error": "You already created this repo", "url": url}, 409)
                return
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            repository = self.server.repositories[key] = Repository(private=private)
            repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.answer_json({"url": url, "id": key[1], "name": key[1]})

    def branch(self, kind: str, repo: str, revision: str) -> None:
        self.writable(repo.split("/")[0])
        repository = self.repository(kind, repo)
        if revision in repository.branches:
            raise Refused(409, message="Reference already exists")
        start = (json.loads(self.body) if self.body else {}).get("startingPoint", "main")
        repository.branches[revision] = repository.resolve(start)
        self.answer_json({})

    def validate_yaml(self) -> None:
        """The front matter has to be a mapping, with a license in the form of an identifier."""
        asked = json.loads(self.body)
        match = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        problems = [] if match else ["no front matter"]
        try:
            metadata = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            problems, metadata = [str(error)], {}
        if not isinstance(metadata, dict) or not re.fullmatch(r"[a-z0-9.-]+", str(metadata.get("license", "other"))):
            problems.append('"license" or the whole is invalid')
        self.answer_json({"errors": [{"message": text} for text in problems], "warnings": []}, 400 if problems else 200)

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        self.writable(repo.split("/")[0])
        _, files = self.at(kind, repo, revision)
        answers = []
        for entry in json.loads(self.body)["files"]:
            mode, old = "lfs" if entry["path"].endswith(LFS_SUFFIXES) else "regular", files.get(entry["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if mode == "lfs" else git_oid(old)
            answers.append({"path": entry["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer_json({"files": answers})

    def lfs_batch(self, repo: str, kind: str = "models") -> None:
        self.writable(repo.split("/")[0])
        objects = []
        for entry in json.loads(self.body)["objects"]:
            there = entry["oid"] in self.server.lfs
            href = {"href": f"{self.server.endpoint}/lfs/{entry['oid']}"}
            objects.append(entry if there else entry | {"actions": {"upload": href}})
        self.answer_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, message="the content does not have this hash")
        if self.fault == "truncate":  # the connection broke in the middle of the upload
            self.close_connection = True
            return
        self.server.lfs[oid] = self.body
        self.answer(b"")

    def commit(self, kind: str, repo: str, revision: str) -> None:
        self.writable(repo.split("/")[0])
        with self.server.lock:
            sha, files = self.at(kind, repo, revision)
            header, *operations = [json.loads(line) for line in self.body.splitlines()]
            parent = header["value"].get("parentCommit")
            if parent not in (None, sha):
                raise Refused(412, message=f"the branch is at {sha}, not at {parent}")
            files = dict(files)
            for operation in operations:
                self.apply(files, operation["key"], operation["value"])
            sha = self.repository(kind, repo).commit(revision, files)
        self.answer_json(
            {"success": True, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}", "commitOid": sha}
        )

    def apply(self, files: dict[str, bytes], key: str, value: dict) -> None:
        path = value["path"]
        if key == "file":
            files[path] = base64.b64decode(value["content"], validate=True)
        elif key == "lfsFile":
            if value["oid"] not in self.server.lfs:
                raise Refused(400, message=f"LFS object {value['oid']} of {path} was never uploaded")
            files[path] = self.server.lfs[value["oid"]]
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise Refused(400, message=f"unknown operation {key}")


ROUTES = (
    (("POST",), "api/repos/create", Handler.create),
    (("POST",), "api/validate-yaml", Handler.validate_yaml),
    (("POST",), rf"api/{REPO}/branch/{REVISION}", Handler.branch),
    (("POST",), rf"api/{REPO}/preupload/{REVISION}", Handler.preupload),
    (("POST",), rf"api/{REPO}/commit/{REVISION}", Handler.commit),
    (("POST",), rf"api/{REPO}/paths-info/{REVISION}", Handler.paths_info),
    (("GET",), rf"api/{REPO}", Handler.info),
    (("GET",), rf"api/{REPO}/revision/{REVISION}", Handler.info),
    (("GET",), rf"api/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (("POST",), r"(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    (("GET", "HEAD"), r"lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_file),
    (
        ("GET", "HEAD"),
        rf"(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)/resolve/{REVISION}/(?P<path>.+)",
        Handler.file,
    ),
)
