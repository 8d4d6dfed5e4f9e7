"""Writes varied captions of a scene from its labels: what is heard, in which order, how often, how far, how loud."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from caption_frames import DISTANT, FRAMES, LOUDNESS, MANY, OFTEN, OVERLAP, SEQUENCE, SILENT, TWICE
from phrases import PHRASES


@dataclass(frozen=True)
class SceneEvent:
    """One event: class, fine class, loudness ("normal", "loud", "faint"), distance, and bouts separated by pauses."""

    label: str
    fine: str | None = None
    loudness: str = "normal"
    distant: bool = False
    bouts: int = 1


@cache
def _phrases() -> dict[str, list[dict]]:
    return json.loads(PHRASES.read_text(encoding="utf-8"))


class Style:
    """In place of a random generator: a number from 0 to 255 that chooses the wording, the same for like sounds.

    Its lower five bits choose among the phrases of a class, the upper three among the frames.
    """

    def __init__(self, style: int):
        self.phrase, self.frame, self.drawn = style % 32, style // 32, 0

    def integers(self, n: int) -> int:
        self.drawn += 1
        return int(((self.phrase * (1, 7, 11, 13)[self.drawn % 4] + 0.5) % 32) / 32 * n)

    def framed(self, relation: str) -> str:
        """A frame: for single events half of them bare noun phrases, whose wording varies most."""
        if relation == "single":
            bare = ("{P}", "{G}", "{C}", "{N}", "{N}", "{N}", "{N}")
            rare = (
                "The sound of {N}",
                "{N} can be heard",
                "{C} can be heard",
                "{P} nearby",
                "{N} is audible",
                "The sound of {C}",
            )
            return bare[self.frame] if self.frame < 7 else rare[self.phrase % len(rare)]
        frames = {"overlap": OVERLAP, "sequence": SEQUENCE}[relation]
        return frames[(self.frame * 4 + self.phrase % 4) % len(frames)][1]

    def random(self) -> float:
        return 1.0

    def permutation(self, n: int) -> np.ndarray:
        return np.arange(n)


def fine_or_none(label: str, fine: str | None) -> str | None:
    """The fine class if captions have words for it."""
    return fine if fine and any(fine in line["fine"] for line in _phrases().get(label, ())) else None


@cache
def _inventory(label: str, fine: str | None) -> tuple[tuple, tuple]:
    """(clauses as (present, progressive, participle), noun phrases) of a class, or of its fine class."""
    lines = _phrases()[label]
    own = [line for line in lines if fine in line["fine"]]
    chosen = own or [line for line in lines if not line["fine"]] or lines
    clauses = [tuple(clause) for line in chosen for clause in line["clauses"]]
    nouns = [noun for line in chosen for noun in line["nouns"]]
    return tuple(clauses), tuple(nouns)


def _choose(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def _framed(rng: np.random.Generator, frames) -> str:
    weights = np.array([weight for weight, _ in frames])
    return frames[int(rng.choice(len(frames), p=weights / weights.sum()))][1]


def _forms(event: SceneEvent, rng: np.random.Generator) -> dict[str, str]:
    clauses, nouns = _inventory(event.label, event.fine)
    present, progressive, part = _choose(rng, clauses) if clauses else (None, None, None)
    noun = _choose(rng, nouns) if nouns else part
    manners = []
    if event.loudness in LOUDNESS and rng.random() < 0.5:
        manners.append(_choose(rng, LOUDNESS[event.loudness]))
    if event.bouts > 1 and rng.random() < 0.5:
        manners.append(_choose(rng, TWICE if event.bouts == 2 else OFTEN if event.bouts < 5 else MANY))
    distant = event.distant and rng.random() < 0.8
    if distant:
        manners.append(_choose(rng, DISTANT))
    manner = " ".join(["", *manners[:2]])
    present = present or f"{noun} {_choose(rng, ('can be heard', 'sounds'))}"
    return {
        "P": present + manner,
        "G": (progressive or present) + manner,
        "C": (part or noun) + manner,
        "N": noun + (" in the distance" if distant else ""),
    }


def describe(events: Sequence[SceneEvent], relation: str, rng: np.random.Generator) -> str:
    """One caption, such as "A dog barks twice while rain patters on a window".

    Args:
        events: in order of their first sound; none, or one named "silence", for silence.
        relation: "single", "overlap" or "sequence".
        rng: chooses among the paraphrases.
    """
    events = [event for event in events if event.label != "silence"]
    if not events:
        return _choose(rng, SILENT)
    kept = []
    for event in events:  # an event that returns is named once
        if all(event.label != other.label for other in kept):
            kept.append(event)
    events = kept[:3] if not isinstance(rng, Style) else kept[:2]
    if len(events) == 1:
        relation = "single"
    elif relation not in ("overlap", "sequence"):
        relation = "overlap"
    if relation == "overlap":
        events = [events[i] for i in rng.permutation(len(events))]
    parts = {}
    for k, event in enumerate(events):
        for kind, text in _forms(event, rng).items():
            parts[f"{kind}{k}"] = text
            if k == 0:
                parts[kind] = text
    frame = rng.framed(relation) if isinstance(rng, Style) else _framed(rng, FRAMES[relation, len(events)])
    caption = frame.format(**parts)
    return caption[0].upper() + caption[1:]


def of_labels(row: dict) -> tuple[list[SceneEvent], str]:
    """Events and relation of a row of the ears' scenes (labels.jsonl)."""
    events = []
    for event in row["events"]:
        level = event.get("level") or 0.0
        quiet = row.get("loudest_db") is not None and row["loudest_db"] < -38
        loudness = "faint" if quiet or level < -12 else "normal"
        events.append(
            SceneEvent(
                event.get("name") or event["label"],
                event.get("fine"),
                loudness,
                bool(event.get("distant")),
                int(event.get("bouts") or 1),
            )
        )
    relation = {"three": "overlap", "silence": "single"}.get(row["layout"], row["layout"])
    if len(events) == 3 and row["layout"] == "three":
        starts = sorted((e.get("start", 0), e.get("end", 10)) for e in row["events"])
        apart = all(b[0] >= a[1] - 0.5 for a, b in pairwise(starts))
        relation = "sequence" if apart else "overlap"
    return events, relation
