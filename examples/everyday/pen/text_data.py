"""The captions that words and pen learn from, human and made, with their places in the joint space."""

import json
from dataclasses import dataclass
from pathlib import Path

import human
import numpy as np
import space
from minilm import audiocaps


@dataclass
class Captions:
    """Captions, their targets (N, 512) and targets without the part of known events."""

    texts: list[str]
    targets: np.ndarray
    plain: np.ndarray
    events: list[list[str]]
    relations: list[str]
    is_human: np.ndarray


def load(split: str, data: Path = Path("data/audiocaps"), text: Path = Path("runs/everyday/pen/text"),
         bank: bool = True) -> Captions:  # fmt: skip
    """Human captions of an AudioCaps split; with ``bank``, those of the bank too (its first 2 % for "val")."""
    texts = [row["caption"].strip().rstrip(".") for row in audiocaps(data, split)]
    texts = [text[:1].upper() + text[1:] for text in texts]
    named = [human.events_of(caption) for caption in texts]
    minilm = np.load(text / f"audiocaps_{split}.npy")
    events, relations = [e for e, _ in named], [r for _, r in named]
    count = len(texts)
    if bank:
        rows = [json.loads(line) for line in (text / "bank.jsonl").read_text().splitlines()]
        vectors = np.load(text / "bank.npy")
        cut = len(rows) // 50
        part = slice(0, cut) if split == "val" else slice(cut, None)
        texts += [row["caption"] for row in rows[part]]
        events += [row["events"] for row in rows[part]]
        relations += [row["relation"] for row in rows[part]]
        minilm = np.concatenate([minilm, vectors[part]])
    none = [[]] * len(texts)
    return Captions(
        texts, space.targets(minilm, events, relations), space.targets(minilm, none, [""] * len(texts)),
        events, relations, np.arange(len(texts)) < count,
    )  # fmt: skip


def balanced_rows(captions: Captions, rng: np.random.Generator, count: int, share_human: float) -> np.ndarray:
    """Indices of a batch with about ``share_human`` human captions."""
    people, made = captions.is_human.nonzero()[0], (~captions.is_human).nonzero()[0]
    if not len(made):
        return rng.choice(people, count)
    n = int(rng.binomial(count, share_human))
    return np.concatenate([rng.choice(people, n), rng.choice(made, count - n)])
