"""The captions that text tower and decoder learn from, human and made, with their places in the joint space."""

import json
from dataclasses import dataclass
from pathlib import Path

import joint_space
import numpy as np
from minilm import TEXT, audiocaps
from named import events_of


@dataclass
class Captions:
    """Captions, their targets (N, 512) and targets without the part of known events."""

    texts: list[str]
    targets: np.ndarray
    plain: np.ndarray
    events: list[list[str]]
    relations: list[str]
    is_human: np.ndarray


def load(split: str, data: Path, made: bool = True) -> Captions:
    """Human captions of an AudioCaps split, "train" or "val"; with ``made``, made ones too, 2 % of them for "val"."""
    texts = [row["caption"].strip().rstrip(".") for row in audiocaps(data, split)]
    texts = [text[:1].upper() + text[1:] for text in texts]
    named = [events_of(caption) for caption in texts]
    minilm = np.load(TEXT / f"audiocaps_{split}.npy")
    # Of three, there is no place for the third.
    events: list = [[(label, None) for label in own] if len(own) < 3 else [] for own, _ in named]
    relations = [relation if own else "" for own, (_, relation) in zip(events, named, strict=True)]
    count = len(texts)
    if made:
        rows = [json.loads(line) for line in (TEXT / "made.jsonl").read_text().splitlines()]
        cut = len(rows) // 50
        part = slice(0, cut) if split == "val" else slice(cut, None)
        texts += [row["caption"] for row in rows[part]]
        events += [[tuple(event) for event in row["events"]] for row in rows[part]]
        relations += [row["relation"] for row in rows[part]]
        minilm = np.concatenate([minilm, np.load(TEXT / "made.npy")[part]])
    full = joint_space.targets(minilm, events, relations)
    plain = joint_space.targets(minilm, [[]] * len(texts), [""] * len(texts))
    return Captions(texts, full, plain, events, relations, np.arange(len(texts)) < count)


def balanced_rows(captions: Captions, rng: np.random.Generator, count: int, share_human: float) -> np.ndarray:
    """Indices of a batch with about ``share_human`` human captions."""
    people, made = captions.is_human.nonzero()[0], (~captions.is_human).nonzero()[0]
    if not len(made):
        return rng.choice(people, count)
    n = int(rng.binomial(count, share_human))
    return np.concatenate([rng.choice(people, n), rng.choice(made, count - n)])
