"""Writes varied captions of a scene from its labels: what is heard, in which order, how often, how far, how loud."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class SceneEvent:
    """One event: class, fine class, loudness ("normal", "loud", "faint"), distance, and bouts separated by pauses."""

    label: str
    fine: str | None = None
    loudness: str = "normal"
    distant: bool = False
    bouts: int = 1


LOUDNESS = {"loud": ("loudly", "very loudly", "at high volume", "noisily"),
            "faint": ("softly", "faintly", "quietly", "very quietly", "at low volume")}  # fmt: skip
DISTANT = ("in the distance", "far away", "off in the distance", "somewhere far off", "from a distance", "farther away")
TWICE = ("twice", "two times", "and then once more", "once and then again")
OFTEN = (
    "several times",
    "repeatedly",
    "again and again",
    "over and over",
    "multiple times",
    "a few times",
    "on and off",
)
MANY = ("repeatedly", "many times", "over and over", "in quick succession", "again and again", "several times in a row")
HEARD = ("can be heard", "is heard", "is audible", "sounds")

# P present clause, G progressive clause, C participle phrase, N noun phrase. Weights in front.
SINGLE = (
    (6, "{P}"), (5, "{G}"), (5, "{C}"), (5, "{N}"), (1, "The sound of {N}"), (1, "The sound of {C}"),
    (0.7, "{N} can be heard"), (0.4, "{N} is heard"), (0.3, "Only {N}"), (0.4, "{C} can be heard"), (0.3, "{C}, nothing else"),
    (0.3, "There is the sound of {N}"), (0.3, "{N} and nothing else"), (0.3, "Close by, {P}"), (0.3, "{P} nearby"),
)  # fmt: skip
OVERLAP = (
    (3, "{P0} while {P1}"), (2.5, "{P0} as {P1}"), (2, "{P0} and {P1}"), (1.5, "{C0} while {P1}"), (2, "{C0} as {P1}"),
    (2, "{C0} with {N1} in the background"), (1.5, "{P0} with {N1} in the background"), (1.5, "{C0} and {C1}"),
    (1.5, "{G0} while {G1}"), (1, "{G0} as {G1}"), (1.5, "{G0} and {G1}"), (1, "{N0} and {N1}"), (1, "{N0} with {N1}"),
    (1, "{P0} over {N1}"), (1, "{C0} over {N1}"), (1, "{N0} along with {N1}"), (0.8, "{C0} along with {C1}"),
    (0.8, "{N0} together with {N1}"), (0.8, "{N0} mixed with {N1}"), (0.8, "{N0} and {N1} at the same time"),
    (0.8, "{P0} and {P1} at the same time"), (0.8, "{P0}, and {P1}"), (0.8, "{C0} with {C1}"), (0.7, "As {P0}, {P1}"),
    (0.7, "While {P0}, {P1}"), (0.7, "{P0} during {N1}"), (0.6, "{N0} over {N1}"), (0.6, "{G0} with {N1} behind it"),
    (0.6, "{P0} amid {N1}"), (0.5, "With {N0} in the background, {P1}"), (0.5, "In the background of {N0}, {P1}"),
    (0.5, "{N0} accompanied by {N1}"), (0.5, "{P0}, {N1} behind it"), (0.5, "{C0} amid {N1}"), (0.5, "{N0}, and {P1}"),
)  # fmt: skip
SEQUENCE = (
    (2.5, "{C0} followed by {N1}"), (2.5, "{N0} followed by {N1}"), (2, "{P0} followed by {N1}"), (2, "{P0}, then {P1}"),
    (2, "{P0} and then {P1}"), (1.5, "{P0} then {P1}"), (1.5, "{C0} followed by {C1}"), (1.5, "{C0} and then {C1}"),
    (1.5, "{P0}, followed by {N1}"), (1.2, "{C0}, then {N1}"), (1.2, "{N0} and then {N1}"), (1, "{N0}, then {N1}"),
    (1, "{P0} before {P1}"), (1, "{C0} before {P1}"), (1, "{P1} after {N0}"), (1, "After {N0}, {P1}"),
    (0.8, "{P1} after {P0}"), (0.8, "After {P0}, {P1}"), (0.8, "First {P0}, then {P1}"), (0.8, "First {N0}, then {N1}"),
    (0.8, "{G0}, and then {P1}"), (0.8, "{G0} followed by {C1}"), (0.8, "{N0}, and afterwards {N1}"),
    (0.7, "{P0}, and afterwards {P1}"), (0.7, "{N0}, after which {P1}"), (0.7, "{P0}; later {P1}"),
    (0.7, "{P0} and shortly after that {P1}"), (0.6, "{C0} before {N1}"), (0.6, "{N0}, followed by {C1}"),
    (0.6, "{N1} after {N0}"), (0.5, "{N0}, then finally {N1}"), (0.5, "{P0}, and next {P1}"), (0.5, "Once {P0}, {P1}"),
)  # fmt: skip
THREE_OVERLAP = (
    (1, "{P0} while {P1} and {P2}"), (1, "{P0} and {P1} with {N2} in the background"), (1, "{N0}, {N1} and {N2}"),
    (1, "{P0}, {P1}, and {P2}"), (1, "{C0} with {N1} and {N2} in the background"), (1, "{P0} as {P1} and {P2}"),
    (1, "{C0}, {C1} and {C2}"), (1, "{N0} together with {N1} and {N2}"), (1, "{P0} over {N1} and {N2}"),
    (1, "{G0} while {G1}, along with {N2}"), (0.7, "{N0} and {N1} as {P2}"), (0.7, "{P0} amid {N1} and {N2}"),
)  # fmt: skip
THREE_SEQUENCE = (
    (1, "{P0}, then {P1}, and finally {P2}"), (1, "{N0} followed by {N1} and then {N2}"), (1, "{C0} followed by {N1} and {N2}"),
    (1, "{P0}, followed by {N1}, then {N2}"), (1, "{P0} and then {P1} before {P2}"), (1, "First {N0}, then {N1}, then {N2}"),
    (1, "{C0}, then {C1}, then {C2}"), (1, "{P0}, then {P1}, then {P2}"), (0.7, "After {N0}, {P1}, and then {P2}"),
)  # fmt: skip
FRAMES = {("single", 1): SINGLE, ("overlap", 2): OVERLAP, ("sequence", 2): SEQUENCE,
          ("overlap", 3): THREE_OVERLAP, ("sequence", 3): THREE_SEQUENCE}  # fmt: skip
SILENT = (
    "Silence", "Complete silence", "It is silent", "Nothing can be heard", "There is silence", "No sound can be heard",
    "Total silence", "Nothing but silence", "The recording is silent", "Silence, nothing to hear", "Dead silence",
    "No sound at all", "It is completely silent", "Only silence", "There is no sound", "A silent recording",
)  # fmt: skip


@cache
def _phrases() -> dict[str, list[dict]]:
    return json.loads((HERE / "phrases.json").read_text(encoding="utf-8"))


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
    return {"P": present + manner, "G": (progressive or present) + manner, "C": (part or noun) + manner,
            "N": noun + (" in the distance" if distant else "")}  # fmt: skip


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
    events = kept[:3]
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
    caption = _framed(rng, FRAMES[relation, len(events)]).format(**parts)
    return caption[0].upper() + caption[1:]


def of_labels(row: dict) -> tuple[list[SceneEvent], str]:
    """Events and relation of a row of the ears' scenes (labels.jsonl)."""
    events = []
    for event in row["events"]:
        level = event.get("level") or 0.0
        quiet = row.get("loudest_db") is not None and row["loudest_db"] < -38
        loudness = "faint" if quiet or level < -12 else "normal"
        events.append(SceneEvent(event.get("name") or event["label"], event.get("fine"), loudness,
                                 bool(event.get("distant")), int(event.get("bouts") or 1)))  # fmt: skip
    relation = {"three": "overlap", "silence": "single"}.get(row["layout"], row["layout"])
    if len(events) == 3 and row["layout"] == "three":
        starts = sorted((e.get("start", 0), e.get("end", 10)) for e in row["events"])
        apart = all(b[0] >= a[1] - 0.5 for a, b in zip(starts, starts[1:]))
        relation = "sequence" if apart else "overlap"
    return events, relation
