"""The joint space: what the embedding of a caption should be, from its sentence embedding and its events.

512 wide: sentence 256 (MiniLM's embedding, centered, its largest 256 components), first event 122, second event 122
(a fixed code of the class, moved a little by the fine class; in the order in which they are heard or said), relation 3
(single, overlap, sequence), doubt 1 and style 8 (which wording a caption takes); only sounds have these two. The
package's `TagEmbedding` puts sounds there.
"""

import json
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

TEXT = Path("text")
SENTENCE, EVENT, RELATIONS, STYLE = 256, 122, ("single", "overlap", "sequence"), 8
FIRST, SECOND = slice(256, 378), slice(378, 500)
RELATION, DOUBT, STYLES = slice(500, 503), 503, slice(504, 512)
WIDTH = 512
ENERGY = {"sentence": 0.36, "event": 0.25, "relation": 0.06, "style": 0.04}
FINE = 0.6  # how far a fine class moves the code of its class


@cache
def code(label: str, width: int = EVENT) -> np.ndarray:
    """A unit vector that depends on the name alone, so that classes may be added later."""
    vector = np.random.default_rng(zlib.crc32(f"{width} {label}".encode())).standard_normal(width)
    return vector / np.linalg.norm(vector)


@cache
def event_code(label: str, fine: str | None = None) -> np.ndarray:
    """(122,) unit vector of a class, or of one of its fine classes."""
    vector = code(label) + (FINE * code(f"fine {fine}") if fine else 0)
    return vector / np.linalg.norm(vector)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of norm 1; zero rows as they are."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


@cache
def basis() -> tuple[np.ndarray, np.ndarray]:
    """Mean (384,) of the sentences of AudioCaps's training captions; (384, 256) largest components of all captions."""
    path = TEXT / "basis.npz"
    if not path.is_file():
        human = np.load(TEXT / "audiocaps_train.npy").astype(np.float64)
        mean = human.mean(0)
        rows = unit(np.concatenate([human, np.load(TEXT / "made.npy").astype(np.float64)]) - mean)
        values, vectors = np.linalg.eigh(rows.T @ rows)
        print(f"share of the sentences' energy kept: {values[-SENTENCE:].sum() / values.sum():.3f}")
        np.savez(path, mean=mean.astype(np.float32), components=vectors[:, ::-1][:, :SENTENCE].astype(np.float32))
    saved = np.load(path)
    return saved["mean"], saved["components"]


def sentences(minilm: np.ndarray) -> np.ndarray:
    """(N, 384) sentence embeddings → (N, 256) unit rows."""
    mean, components = basis()
    return unit(unit(minilm.astype(np.float64) - mean) @ components)


def structure(events: Sequence[tuple[str, str | None]], relation: str) -> np.ndarray:
    """(256,) the parts for events and relation; zeros where no event is known.

    Args:
        events: (class, fine class or None), as heard or said; only the first two count.
    """
    out = np.zeros(WIDTH)
    for place, (label, fine) in zip((FIRST, SECOND), events, strict=False):
        out[place] = ENERGY["event"] ** 0.5 * event_code(label, fine)
    if events and relation in RELATIONS:
        out[RELATION.start + RELATIONS.index(relation)] = ENERGY["relation"] ** 0.5
    return out


def targets(minilm: np.ndarray, events, relations: Sequence[str]) -> np.ndarray:
    """(N, 512) unit rows, float32.

    Args:
        minilm: (N, 384) sentence embeddings.
        events: of each caption, a list of (class, fine class or None), in order; empty where unknown.
        relations: "single", "overlap", "sequence", or "" where unknown.
    """
    out = np.stack([structure(e, r) for e, r in zip(events, relations, strict=True)])
    out[:, :SENTENCE] = ENERGY["sentence"] ** 0.5 * sentences(minilm)
    return unit(out).astype(np.float32)


def class_sentences(names: Sequence[str]) -> np.ndarray:
    """(C, 256) mean sentence of the made captions of each class alone."""
    rows = [json.loads(line) for line in (TEXT / "made.jsonl").read_text().splitlines()]
    vectors, place = sentences(np.load(TEXT / "made.npy")), {name: k for k, name in enumerate(names)}
    sums = np.zeros((len(names), SENTENCE))
    for row, vector in zip(rows, vectors, strict=True):
        if len(row["events"]) == 1:
            sums[place[row["events"][0][0]]] += vector
    return unit(sums)


def sounds(
    sentence: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    relation: np.ndarray,
    certainty: np.ndarray,
    style: np.ndarray,
) -> np.ndarray:
    """Where sounds lie: as captions of what is heard, but less certain, and with a style.

    Args:
        sentence: (N, 256), of any norm.
        first, second: (N, 122) codes of the events; zeros where there is no second.
        relation: (N, 3) probabilities.
        certainty: (N,), between 0 and 1: the share of the events' length that is left; the rest is doubt.
        style: (N,) whole numbers from 0 to 255.
    """
    out = np.zeros((len(sentence), WIDTH))
    out[:, :SENTENCE] = ENERGY["sentence"] ** 0.5 * unit(sentence)
    out[:, FIRST], out[:, SECOND] = first, second
    out[:, 256:500] *= ENERGY["event"] ** 0.5
    out[:, DOUBT] = np.linalg.norm(out[:, 256:500], axis=1) * np.sqrt(1 - certainty**2)
    out[:, 256:500] *= certainty[:, None]
    out[:, RELATION] = ENERGY["relation"] ** 0.5 * unit(relation)
    out[:, STYLES] = (ENERGY["style"] / STYLE) ** 0.5 * (2 * ((style[:, None] >> np.arange(STYLE)) & 1) - 1)
    return unit(out).astype(np.float32)
