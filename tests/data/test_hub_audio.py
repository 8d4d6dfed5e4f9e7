"""Data sets on the Hub, streamed from a server that speaks its API, and what its refusals become."""

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.data.captioned_parquet import READERS
from diffusion_link_hf.data.parted_file import PART_BYTES
from support.captions import AUDIOCAPS_SCHEMA, make_audiocaps_repository, sound, write_parquet
from support.hub_server import running_hub

REQUESTS_FOR_CAPTIONS = 2  # the end of the file, which says where things are, and the columns

# In a new process, since huggingface_hub reads its endpoint and cache folder at import.
PROGRAM = """
import hashlib, json, sys, time
time.sleep = lambda seconds: None  # between attempts at what the server keeps refusing
from diffusion_link_hf import DiffusionLinkError
from diffusion_link_hf.data.captioned_audio import open_data

def row(clip):
    return [clip.name, clip.captions, clip.audio and hashlib.sha256(clip.audio).hexdigest()]

for request in json.loads(sys.argv[1]):
    parts = request.pop("parts", 1)
    try:
        data = open_data(**request)
        answer = {"name": data.name, "split": data.split, "fingerprint": data.fingerprint}
        answer["rows"] = [row(clip) for k in range(parts) for clip in data.shard(k, parts)]
    except DiffusionLinkError as error:
        answer = {"error": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__}
    print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_audiocaps_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def hub(repository, tmp_path_factory):
    recordings = tmp_path_factory.mktemp("recordings")
    (recordings / "metadata.csv").write_text("file_name,caption\n0.wav,Rain\n")
    (recordings / "0.wav").write_bytes(b"")
    with running_hub() as server:
        server.add("me/audiocaps", repository, kind="datasets")
        server.add("me/private", repository, kind="datasets", private=True)
        server.add("me/gated", repository, kind="datasets", gated=True)
        server.add("me/recordings", recordings, kind="datasets")
        server.add("me/model", repository)
        server.add("me/unreachable", repository, kind="datasets")
        for fault in ("drop", "truncate"):
            server.add(f"me/{fault}", one_file(tmp_path_factory.mktemp(fault), fault), kind="datasets")
        audio = [{"bytes": long_sound(k), "path": "a"} for k in range(3)]
        rows = [{"youtube_id": f"{k:011d}", "caption": f"Long {k}", "audio": audio[k]} for k in range(3)]
        schema = {name: AUDIOCAPS_SCHEMA[name] for name in rows[0]}
        long = write_parquet(tmp_path_factory.mktemp("long") / "train.parquet", rows, schema)
        server.add("me/long", long.parent, kind="datasets")
        server.faults = Faults(server)
        yield server


def one_file(folder: Path, name: str) -> Path:
    """A repository whose file is no other's, so that the server can tell requests for it."""
    rows = [{"youtube_id": name, "start_time": 0, "caption": name, "audio": {"bytes": sound(0), "path": "a"}}]
    return write_parquet(folder / "train.parquet", rows).parent


def long_sound(k: int) -> bytes:
    """Nothing that could be compressed, of several parts' length."""
    return random.Random(k).randbytes(3 * PART_BYTES)


class Faults:
    """Captions of "me/drop" and "me/truncate" arrive, then their audio does not; "me/unreachable" is down."""

    def __init__(self, server):
        self.server, self.seen = server, Counter()
        self.lock, self.running, self.most = threading.Lock(), 0, 0  # requests for "me/long" at a time
        self.broken = {self.get(f"me/{fault}"): fault for fault in ("drop", "truncate")}
        self.long = self.get("me/long")

    def get(self, repo: str) -> str:
        """The request for a repository's file."""
        return f"GET /lfs/{hashlib.sha256(self.server.files(repo, 'datasets')['train.parquet']).hexdigest()}"

    def __call__(self, request: str) -> str | None:
        self.seen[request] += 1
        if request == self.long:
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            time.sleep(0.1)
            with self.lock:
                self.running -= 1
        if "me/unreachable" in request:
            return "drop"
        return self.broken.get(request) if self.seen[request] > REQUESTS_FOR_CAPTIONS else None


def ask(hub, home: Path, *requests: dict) -> list[dict]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(requests)],
        capture_output=True,
        text=True,
        env=hub.client_environment(home),
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


REQUESTS = {
    "test": {"data": "me/audiocaps", "split": "test"},
    "test in parts": {"data": "me/audiocaps", "split": "test", "parts": 3},
    "commit": {"data": "me/audiocaps", "split": "test"},
    "limit": {"data": "me/audiocaps", "split": "train", "limit": 3},
    "with a token": {"data": "me/private", "split": "test", "token": "hf_writer"},
    "no split": {"data": "me/audiocaps"},
    "no such config": {"data": "me/audiocaps", "config": "big"},
    "no such revision": {"data": "me/audiocaps", "revision": "v9"},
    "nothing": {"data": "me/nothing"},
    "a model": {"data": "me/model"},
    "private": {"data": "me/private"},
    "another's token": {"data": "me/private", "token": "hf_stranger"},
    "gated": {"data": "me/gated"},
    "no parquet": {"data": "me/recordings"},
    "a path": {"data": "./nowhere/at/all"},
    "a word": {"data": "audiocaps"},
    "empty": {"data": ""},
    "audio": {"data": "me/audiocaps", "split": "test", "audio": "x"},
    "drop": {"data": "me/drop"},
    "truncate": {"data": "me/truncate"},
    "unreachable": {"data": "me/unreachable"},
    "long": {"data": "me/long"},
}


@pytest.fixture(scope="module")
def answers(hub, tmp_path_factory):
    """Everything that is asked of the server, from one process."""
    commit = hub.repositories["datasets", "me/audiocaps"].resolve("main")
    requests = REQUESTS | {"commit": REQUESTS["commit"] | {"revision": commit}}
    answers = ask(hub, tmp_path_factory.mktemp("home"), *requests.values())
    return dict(zip(requests, answers, strict=True))


@pytest.fixture(scope="module")
def local(repository):
    """The same repository as a folder."""
    return [
        [clip.name, list(clip.captions), clip.audio and hashlib.sha256(clip.audio).hexdigest()]
        for clip in open_data(repository, split="test")
    ]


@pytest.mark.parametrize("request_", ["test", "commit", "with a token"])
def test_a_repository_is_its_folder(answers, local, request_):
    assert answers[request_].get("rows") == local, answers[request_]


def test_parts_make_the_whole(answers, local):
    assert sorted(answers["test in parts"]["rows"]) == sorted(local)


def test_what_was_read_is_pinned(hub, answers):
    """A branch can move: the report names the commit, and the fingerprint depends on it."""
    commit = hub.repositories["datasets", "me/audiocaps"].resolve("main")
    assert answers["test"]["name"] == answers["commit"]["name"] == f"me/audiocaps@{commit}"
    assert answers["test"]["fingerprint"] == answers["commit"]["fingerprint"]
    assert answers["test"]["fingerprint"] != answers["with a token"]["fingerprint"]


def test_a_limit(answers):
    assert [row[1] for row in answers["limit"]["rows"]] == [["Train 0"], ["Train 1"], ["Train 2"]]


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ("no split", "DataError", "Name one of train, test"),
        ("no such config", "DataError", "'big' not found. Available: ['default']"),
        ("no such revision", "HubAccessError", "no such revision"),
        ("nothing", "HubAccessError", "neither a folder here nor a data set"),
        ("a model", "HubAccessError", "neither a folder here nor a data set"),
        ("private", "HubAccessError", "token="),
        ("another's token", "HubAccessError", "token="),
        ("gated", "HubAccessError", "Accept its terms on https://huggingface.co/datasets/me/gated"),
        ("no parquet", "DataError", "Download it, and name its folder"),
        ("a path", "DataError", "'./nowhere/at/all': does not exist"),
        ("a word", "DataError", "owner/name"),
        ("empty", "DataError", "'': does not exist"),
        ("audio", "InputError", "holds its audio itself"),
    ],
)
def test_refusals_say_what_to_do(answers, request_, error, words):
    answer = answers[request_]
    assert answer.get("error") == error, answer
    assert words in answer["text"]


def test_a_row_group_is_fetched_in_parts_at_a_time(hub, answers):
    """A few at once, whatever their number; and what is put together is what is there."""
    expected = [[f"{k:011d}", [f"Long {k}"], hashlib.sha256(long_sound(k)).hexdigest()] for k in range(3)]
    assert answers["long"].get("rows") == expected, answers["long"]
    assert 1 < hub.faults.most <= READERS


@pytest.mark.parametrize("fault", ["drop", "truncate"])
def test_a_broken_connection_is_a_typed_error(hub, answers, fault):
    """Never a recording that is half there."""
    answer = answers[fault]
    assert answer.get("error") == "HubAccessError", answer
    assert "train.parquet: cannot be fetched" in answer["text"]
    assert any(count > REQUESTS_FOR_CAPTIONS for count in hub.faults.seen.values())


def test_a_hub_that_is_down_is_a_typed_error(answers):
    answer = answers["unreachable"]
    assert answer.get("error") == "HubAccessError", answer
    assert "Check the network" in answer["text"]
