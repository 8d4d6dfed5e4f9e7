"""Makes captions without a sound: random scenes of one or two events in every wording, and their MiniLM embeddings."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from caption_frames import SILENT
from captions import SceneEvent, Style, describe, fine_or_none
from minilm import TEXT, MiniLM, embed_to_file

SHARES = {"single": 0.5, "overlap": 0.25, "sequence": 0.25}
SILENT_EVERY = 128  # captions


def random_events(rng: np.random.Generator, classes: dict, relation: str) -> list[SceneEvent]:
    """One event or two; all classes alike, fine ones where captions have words for them."""
    names = list(classes)
    out = []
    for k in rng.choice(len(names), 1 if relation == "single" else 2, replace=False):
        fine = [f for f in classes[names[k]]["fine"] if fine_or_none(names[k], f)]
        out.append(SceneEvent(names[k], str(rng.choice(fine)) if fine and rng.random() < 0.7 else None))
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=28_672)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng, rows = np.random.default_rng(args.seed), []
    classes = {name: row for name, row in json.loads(Path("classes.json").read_text()).items() if name != "silence"}
    for k in range(args.captions):
        if k % SILENT_EVERY == 0:
            rows.append({"caption": str(rng.choice(SILENT)), "events": [["silence", None]], "relation": "single"})
            continue
        relation = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        events = random_events(rng, classes, relation)
        caption = describe(events, relation, Style(int(rng.integers(256))))
        rows.append({"caption": caption, "events": [[e.label, e.fine] for e in events], "relation": relation})
    (TEXT / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed_to_file(MiniLM(), [row["caption"] for row in rows], TEXT / "made.npy")
    print(f"{len({row['caption'] for row in rows})} different captions of {len(rows)}")


if __name__ == "__main__":
    main()
