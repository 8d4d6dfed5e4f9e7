"""Makes the bank's captions without a sound: random scenes of one to three events, and their MiniLM embeddings."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from captions import SILENT, SceneEvent, describe
from minilm import MiniLM, embed_to_file

COUNTS = {1: 0.5, 2: 0.42, 3: 0.08}


def random_events(rng: np.random.Generator, classes: dict, probability: np.ndarray) -> tuple[list[SceneEvent], str]:
    n = int(rng.choice(list(COUNTS), p=list(COUNTS.values())))
    names = list(classes)
    events = []
    for k in rng.choice(len(names), n, replace=False, p=probability):
        fine = list(classes[names[k]]["fine"])
        events.append(
            SceneEvent(
                names[k],
                str(rng.choice(fine)) if fine and rng.random() < 0.85 else None,
                str(rng.choice(["normal", "loud", "faint"], p=[0.9, 0.02, 0.08])),
                bool(rng.random() < 0.08),
                int(rng.choice([1, 2, 3, 5], p=[0.75, 0.05, 0.1, 0.1])),
            )
        )
    return events, "single" if n == 1 else str(rng.choice(["overlap", "sequence"], p=[0.6, 0.4]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=Path, default=Path("runs/everyday/ears/classes.json"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/text"))
    parser.add_argument("--captions", type=int, default=49_152)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    classes = {name: row for name, row in json.loads(args.classes.read_text()).items() if name != "silence"}
    weight = np.array([max(row["groups"], 1) ** 0.35 for row in classes.values()])
    file = args.output / "bank.jsonl"
    if not file.is_file():
        rows = []
        for k in range(args.captions):
            if k % 128 == 0:
                rows.append({"caption": str(rng.choice(SILENT)), "events": ["silence"], "relation": "single"})
                continue
            events, relation = random_events(rng, classes, weight / weight.sum())
            rows.append(
                {"caption": describe(events, relation, rng), "events": [e.label for e in events], "relation": relation}
            )
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    embed_to_file(MiniLM(), [row["caption"] for row in rows], args.output / "bank.npy")


if __name__ == "__main__":
    main()
