"""Rounds of push and load over a server with random faults: ``cd tests; python -m support.faulty_rounds --rounds 100``.

Two pipelines, one with an adapter and one without, are pushed in turn to one repository, so that a mixture of both
would show. A push has to leave one of them there, whole. A load from an empty cache has to give that one's captions or
a typed error; after it, a second load from the same cache, without faults, has to give them.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from support.hub_client import RATE, HubClient, hub_client, recording
from support.hub_faults import RandomFaults
from support.hub_server import HubServer, running_hub
from support.models import make_pipeline

REPO = "me/rounds"
PROBABILITIES = (0.01, 0.03, 0.1, 0.3)  # of a fault, per request


@dataclass
class Tally:
    """Outcomes by name, how many faults of each kind there were, and what must not be."""

    pushes: Counter = field(default_factory=Counter)
    loads: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    corrupt: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"pushes {dict(self.pushes)}", f"loads {dict(self.loads)}", f"faults {dict(self.faults)}"]
        return "\n".join([*parts, f"corrupt {len(self.corrupt)}", *self.corrupt])


def make_folders(root: Path) -> dict[str, list[str]]:
    """Two pipeline folders below ``root`` and the captions of each."""
    captions = {}
    for name, seed, lora in (("adapter", 0, True), ("whole", 1, False)):
        pipeline = make_pipeline(seed, lora=lora)
        pipeline.save_pretrained(root / name)
        captions[name] = type(pipeline).from_pretrained(root / name)(recording(), RATE).captions
    if len({str(texts) for texts in captions.values()}) < 2:
        raise RuntimeError("both pipelines say the same: a mixture would not show")
    return captions


def published(hub: HubServer, root: Path) -> str | None:
    """Which of the folders the repository holds, file by file; None for neither."""
    files = {name: content for name, content in hub.files(REPO).items() if "/" in name or name == "model_index.json"}
    for name in ("adapter", "whole"):
        paths = [path for path in (root / name).rglob("*") if path.is_file()]
        if files == {path.relative_to(root / name).as_posix(): path.read_bytes() for path in paths}:
            return name
    return None


def run_rounds(hub: HubServer, client: HubClient, root: Path, rounds: int, seed: int = 0) -> Tally:
    """Pushes and loads ``rounds`` times; the first push, which is not counted, has no faults."""
    captions, tally = make_folders(root), Tally()
    push = {name: ["--repo-id", REPO, "--token", "hf_writer", str(root / name)] for name in captions}
    client.ask({"push": push["adapter"]})
    for number in range(rounds):
        faults = RandomFaults(seed * 1000 + number, PROBABILITIES[number % len(PROBABILITIES)])
        new = ("whole", "adapter")[number % 2]
        hub.lfs.clear()  # otherwise only the first pushes would upload weights
        hub.faults = faults
        (pushed,) = client.ask({"push": push[new]})
        hub.faults = lambda request: None
        there = published(hub, root)
        outcome = "done" if pushed.get("status") == 0 else pushed.get("error", "crash")
        tally.pushes[outcome] += 1
        if there is None or outcome == "crash" or (outcome == "done" and there != new):
            tally.corrupt.append(f"round {number}: {new} was pushed, {there} is there: {pushed}")
            continue
        hub.faults = faults
        (first,) = client.ask({"id": REPO, "cache_dir": root / f"cache-{number}"})
        hub.faults = lambda request: None
        outcome = "identical" if first.get("captions") == captions[there] else first.get("error", "corrupt")
        tally.loads[outcome] += 1
        (second,) = client.ask({"id": REPO, "cache_dir": root / f"cache-{number}"})
        if outcome == "corrupt" or second.get("captions") != captions[there]:
            tally.corrupt.append(f"round {number}: {there} is there: {first}, then {second}")
        tally.faults += faults.drawn
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_hub() as hub:
        root = Path(folder)
        with hub_client(hub.client_environment(root / "home")) as client:
            tally = run_rounds(hub, client, root, args.rounds, args.seed)
    print(tally)
    return 1 if tally.corrupt else 0


if __name__ == "__main__":
    sys.exit(main())
