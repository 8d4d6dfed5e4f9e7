"""Embedding in processes of their own: killed at random moments, or launched together, they end with the same bytes."""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from diffusion_link_hf.commands import embed
from support.embeddings import contents, embed_here, make_clips, same_clap


@pytest.fixture(scope="module")
def server(pytestconfig):
    """Starts processes that have torch and all else imported already."""
    tests = pytestconfig.rootpath / "tests"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tests}{os.pathsep}{tests / 'data'}")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["test_embedding_processes"])
        yield context


def embed_to_be_killed(folder: Path, num_workers: int) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the workers: as it is in a process of its own
    embed_here(folder, num_workers=num_workers)


def kill_until_through(folder: Path, server, rng: random.Random) -> tuple[list[int], set]:
    """Exit codes of the runs, and the workers that they had; each run is killed some while after another few files."""
    exits, workers = [], set()
    while 0 not in exits:
        before = set(folder.iterdir())
        process = server.Process(target=embed_to_be_killed, args=(folder, len(exits) % 2))
        process.start()
        new_files = rng.randrange(1, 5)
        while process.is_alive() and len(set(folder.iterdir()) - before) < new_files:
            workers |= children(process.pid)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        exits.append(process.exitcode)
        assert set(exits) <= {0, -signal.SIGKILL}
    return exits, workers


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path, server):
    """Some while after another few files were begun, with and without a worker, until it is through."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    embed_here(whole)
    rng, exits, workers = random.Random(0), [], set()
    while len(exits) <= 2:  # on a busy machine a run may be through before the second kill: begin again
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        exits, their_workers = kill_until_through(folder, server, rng)
        workers |= their_workers
    assert len(exits) > 2
    assert contents(folder) == contents(whole)
    assert workers
    assert not psutil.wait_procs(list(workers), timeout=60)[1]  # they look for their parent every five seconds


def children(pid: int) -> set[psutil.Process]:
    """Of a process that may have ended."""
    try:
        return set(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return set()


def launched(rank: str, port: str, arguments: list[str]) -> None:
    """A process as accelerate launch and torchrun start them."""
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    embed.add_parser(parser.add_subparsers())
    return embed.run(parser.parse_args(["embed", *arguments]))


def test_launched_processes_share_the_work(tmp_path, server):
    """The bytes are those of one process; who comes last says that recordings were left out."""
    clips = [clip for clip in make_clips() if clip.name != "3.wav"]
    for clip in clips:
        (tmp_path / clip.name).write_bytes(clip.audio)
    rows = "".join(f"{clip.name},{caption}\n" for clip in clips for caption in clip.captions)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n" + rows)
    same_clap().save_pretrained(tmp_path / "clap")
    common = ["--data", str(tmp_path), "--clap", str(tmp_path / "clap"), "--device", "cpu", "--quiet"]
    common += ["--shard-size", "2", "--num-workers", "0", "--output"]
    assert run([*common, str(tmp_path / "one")]) == 1
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [server.Process(target=launched, args=(k, port, [*common, str(tmp_path / "two")])) for k in "01"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    # Both, where both came to the end at the same time.
    assert sorted(process.exitcode for process in processes) in ([0, 1], [1, 1])
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "two")) == 3 * 5 + 1
