"""The joint space: what the embedding of a caption should be, from its sentence embedding, its events and their order."""

import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SENTENCE, EVENTS, ORDER, RELATIONS = 384, 96, 29, ("single", "overlap", "sequence")
WIDTH = SENTENCE + EVENTS + ORDER + len(RELATIONS)
ENERGY = {"sentence": 0.55, "events": 0.30, "order": 0.10, "relation": 0.05}


@cache
def code(label: str, width: int) -> np.ndarray:
    """A unit vector that depends on the name alone, so that classes may be added later."""
    vector = np.random.default_rng(zlib.crc32(f"{width} {label}".encode())).standard_normal(width)
    return vector / np.linalg.norm(vector)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def sentence_mean(text: Path = HERE / "text") -> np.ndarray:
    """(384,) mean of the MiniLM embeddings of the AudioCaps training captions."""
    path = text / "mean.npy"
    if not path.is_file():
        np.save(path, np.load(text / "audiocaps_train.npy").astype(np.float64).mean(0).astype(np.float32))
    return np.load(path)


def structure(events: Sequence[str], relation: str) -> np.ndarray:
    """(128,) the parts for events, order and relation; zeros where no event is known."""
    out = np.zeros(EVENTS + ORDER + len(RELATIONS))
    if not events:
        return out
    out[:EVENTS] = ENERGY["events"] ** 0.5 * _unit(sum(code(label, EVENTS) for label in set(events)))
    if relation == "sequence" and events[0] != events[-1]:
        out[EVENTS : EVENTS + ORDER] = ENERGY["order"] ** 0.5 * _unit(code(events[0], ORDER) - code(events[-1], ORDER))
    if relation in RELATIONS:
        out[EVENTS + ORDER + RELATIONS.index(relation)] = ENERGY["relation"] ** 0.5
    return out


def targets(minilm: np.ndarray, events: Sequence[Sequence[str]], relations: Sequence[str]) -> np.ndarray:
    """(N, 512) unit rows, float32.

    Args:
        minilm: (N, 384) sentence embeddings.
        events: of each caption, in order of onset; empty where unknown.
        relations: "single", "overlap", "sequence", or "" where unknown.
    """
    sentence = ENERGY["sentence"] ** 0.5 * _unit(minilm.astype(np.float64) - sentence_mean())
    rest = np.stack([structure(e, r) for e, r in zip(events, relations, strict=True)])
    return _unit(np.concatenate([sentence, rest], axis=1)).astype(np.float32)
