"""Pushes to and loads from the test server, each in a new process.

huggingface_hub reads its endpoint at import, and the import of everything takes seconds. So one process per server
imports once and forks a child for every job: a new process, with whatever cache folder it is given.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

RATE = 48_000


def recording() -> np.ndarray:
    """(48000,) one second of noise."""
    return np.random.default_rng(0).uniform(-0.2, 0.2, RATE).astype(np.float32)


def load(loads: str = "AudioCaptionPipeline", **options: Any) -> dict[str, Any]:
    """What a class makes of a recording, a caption or an embedding once it is loaded."""
    import torch

    import diffusion_link_hf

    loaded = getattr(diffusion_link_hf, loads).from_pretrained(options.pop("id"), **options)
    if loads == "AudioCaptionPipeline":
        loaded.set_progress_bar_config(disable=True)
        sources = {"base": loaded.decoder.source, "clap": loaded.clap.source}
        sources = {name: source and source.as_json() for name, source in sources.items()}
        return {"captions": loaded(recording(), RATE).captions, **sources}
    if loads == "DiffusionLinkPipeline":
        return {"embeds": loaded(torch.ones(1, loaded.link.config.embedding_dim)).embeds.tolist()}
    return {"embeds": loaded.encode_text(["rain"]).tolist(), "source": loaded.source and loaded.source.as_json()}


def push(arguments: list[str]) -> dict[str, Any]:
    """Exit status of ``diffusion-link push``."""
    from diffusion_link_hf.commands import push

    parser = argparse.ArgumentParser(prog="diffusion-link")
    push.add_parser(parser.add_subparsers())
    return {"status": push.run(parser.parse_args(["push", *arguments]))}


def command(arguments: list[str]) -> dict[str, Any]:
    """Exit status of ``diffusion-link`` with these arguments, and what it prints."""
    import contextlib
    import io

    from diffusion_link_hf.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(arguments)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def train(recipe: dict[str, Any], folder: str) -> dict[str, Any]:
    """Metrics of a training in a working folder, and what it warned of."""
    import logging

    from diffusion_link_hf import train
    from diffusion_link_hf.training.arguments import STAGES

    os.chdir(folder)
    warnings: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("diffusion_link_hf").addHandler(handler)
    return {"metrics": train(STAGES[recipe["stage"]](**recipe), progress=False), "warnings": warnings}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """The result of a job, or its error; any other error ends the process."""
    from diffusion_link_hf import DiffusionLinkError

    try:
        if "command" in job:
            return command(job["command"])
        if "train" in job:
            return train(job["train"], job["in"])
        return push(job["push"]) if "push" in job else load(**job)
    except DiffusionLinkError as error:
        return {"error": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__}


class HubClient:
    """A process that forks one child per `ask`."""

    def __init__(self, environment: dict[str, str]):
        paths = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # torch's own thread pool, which the threads of transformers' loader would start, does not survive a fork.
            env=environment | {"PYTHONPATH": paths, "HF_DEACTIVATE_ASYNC_LOAD": "1"},
        )

    def ask(self, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        """Answers to jobs, in order, from one new process; {"crash": traceback} for what is no typed error."""
        self.process.stdin.write(json.dumps(jobs, default=str) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextmanager
def hub_client(environment: dict[str, str]):
    client = HubClient(environment)
    try:
        yield client
    finally:
        client.close()


def serve() -> None:
    """Reads a line of jobs, answers in a child, and waits for the next."""
    import traceback

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    import peft  # noqa: F401
    import torch

    import diffusion_link_hf.hub.push  # noqa: F401

    torch.set_num_threads(1)  # threads do not survive a fork
    load(id="tiny")  # transformers imports the classes of a model when it is loaded first

    for line in sys.stdin:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        results = []
        for job in json.loads(line):
            try:
                results.append(answer(job))
            except BaseException:
                results.append({"crash": traceback.format_exc()})
        answers.write(json.dumps(results) + "\n")
        answers.flush()
        os._exit(0)
    os._exit(0)  # without the seconds that libraries take to shut down


if __name__ == "__main__":
    serve()
