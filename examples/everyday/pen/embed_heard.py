"""Gives embedded scenes their captions: several made from the labels, and human ones that name the same events."""

import argparse
import json
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import text_data
from captions import describe, of_labels


def human_captions() -> dict[tuple, list[str]]:
    """(events sorted, relation) → human captions that name exactly these."""
    train = text_data.load("train", bank=False)
    found = defaultdict(list)
    for text, events, relation in zip(train.texts, train.events, train.relations):
        if 1 <= len(events) <= 3:
            key = tuple(events) if relation == "sequence" else tuple(sorted(events))
            found[key, relation].append(text)
    return found


def styles(audio: np.ndarray, keys: list[str], bits: int, seed: int = 0) -> np.ndarray:
    """(N,) whole numbers below 2**bits: in which way a scene differs from the others of its events.

    A caption whose wording follows it, instead of chance, can be learned: greedy captions of different recordings of
    one event then differ, too.
    """
    planes = np.random.default_rng(seed).standard_normal((audio.shape[1], bits))
    values = audio @ planes
    rows_of = defaultdict(list)
    for k, key in enumerate(keys):
        rows_of[key].append(k)
    out = np.zeros(len(audio), int)
    middle = np.median(values, 0)
    for rows in rows_of.values():
        centre = np.median(values[rows], 0) if len(rows) >= 8 else middle
        out[rows] = (values[rows] > centre) @ (1 << np.arange(bits))
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="+", help="with labels.jsonl; captions.jsonl is written beside it")
    parser.add_argument("--made", type=int, default=4)
    parser.add_argument("--human", type=int, default=3, help="at most")
    parser.add_argument("--style-bits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng, people = np.random.default_rng(args.seed), human_captions()
    for folder in args.folder:
        lines, matched = [], 0
        labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
        audio = np.load(folder / "audio.npy").astype(np.float32)
        keys = [" ".join(sorted({event["name"] for event in row["events"]})) for row in labels]
        for row, key, style in zip(labels, keys, styles(audio, keys, args.style_bits)):
            events, relation = of_labels(row)
            fixed = np.random.default_rng(zlib.crc32(f"{key} {style}".encode()))
            chosen_made = describe(events, relation, fixed)
            made = [describe(events, relation, rng) for _ in range(args.made)]
            names = list(dict.fromkeys(event.label for event in events))
            relation = "single" if len(names) == 1 else relation
            key = tuple(names) if relation == "sequence" else tuple(sorted(names))
            own = people.get((key, relation), [])
            chosen = [own[i] for i in rng.choice(len(own), min(len(own), args.human), replace=False)] if own else []
            matched += bool(chosen)
            styled = [chosen_made] + ([own[zlib.crc32(f"{key} {style}".encode()) % len(own)]] if own else [])
            lines.append(
                json.dumps({"captions": made + chosen, "styled": styled, "events": names, "relation": relation})
            )
        (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
        print(folder, len(lines), "scenes,", matched, "with human captions")


if __name__ == "__main__":
    main()
