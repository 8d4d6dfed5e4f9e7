"""Varied captions of a scene: how many events, in which order, overlapping or not, how often, how loud and how far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from events import EVENTS, LABELS

Relation = Literal["single", "overlap", "sequence"]


@dataclass(frozen=True)
class SceneEvent:
    """One event of a scene: its class, how it is heard, and in how many bouts separated by pauses."""

    label: str
    loudness: Literal["normal", "loud", "faint"] = "normal"
    distant: bool = False
    bouts: int = 1


_LOUDNESS = {"loud": ("loudly", "very loudly", "at full volume"), "faint": ("softly", "quietly", "faintly")}
_DISTANT = ("in the distance", "far away", "somewhere far off")
_BOUTS = {2: ("twice", "two times", "and then once more"), 3: ("again and again", "repeatedly", "several times")}

_ONE = ("{f}", "{f}", "{p}", "the sound of {p}", "{p} can be heard", "only {p}")
_OVERLAP = (
    "{f0} while {f1}", "{f0} as {f1}", "{p0} with {p1} in the background", "{p0} and {p1} at the same time",
    "{f0} over the sound of {p1}", "{p0} together with {p1}", "{f0} and {f1}", "{p0} mixed with {p1}",
)  # fmt: skip
_SEQUENCE = (
    "{f0}, then {f1}", "{p0} followed by {p1}", "{f0} before {f1}", "first {p0}, then {p1}", "{f1} after {p0}",
    "{p0}, and afterwards {p1}", "after {p0}, {f1}", "{f0} and then {f1}",
)  # fmt: skip
_THREE_OVERLAP = (
    "{f0} while {f1} and {f2}",
    "{p0}, {p1} and {p2} at the same time",
    "{p0} with {p1} and {p2} in the background",
)
_THREE_SEQUENCE = (
    "{f0}, then {f1}, and finally {f2}",
    "{p0} followed by {p1} and {p2}",
    "first {p0}, then {p1}, then {p2}",
)


def _choose(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def _clauses(event: SceneEvent, rng: np.random.Generator) -> tuple[str, str]:
    """(finite clause, noun phrase) of one event, with at most two of its manners said."""
    finite, phrase = _choose(rng, EVENTS[event.label].phrases)
    manners = []
    if event.loudness in _LOUDNESS:
        manners.append(_choose(rng, _LOUDNESS[event.loudness]))
    if event.distant:
        manners.append(_choose(rng, _DISTANT))
    if event.bouts > 1:
        manners.append(_choose(rng, _BOUTS[min(event.bouts, 3)]))
    rng.shuffle(manners)
    manner = " ".join(["", *manners[:2]])
    return finite + manner, phrase + manner


def describe(events: Sequence[SceneEvent], relation: Relation, rng: np.random.Generator) -> str:
    """One caption, such as "A dog barks twice while rain falls in the distance".

    Args:
        events: 1 to 3 events, in the order of their first sound.
        relation: whether they overlap or follow one another; "single" for one event.
        rng: chooses among the paraphrases.
    """
    if not 1 <= len(events) <= 3 or (relation == "single") != (len(events) == 1):
        raise ValueError(
            f"{len(events)} events with relation {relation!r}: one event is 'single', two or three are not"
        )
    events = list(events)
    if relation == "overlap":
        rng.shuffle(events)
    frames = {
        ("single", 1): _ONE,
        ("overlap", 2): _OVERLAP,
        ("sequence", 2): _SEQUENCE,
        ("overlap", 3): _THREE_OVERLAP,
        ("sequence", 3): _THREE_SEQUENCE,
    }[relation, len(events)]
    clauses = [_clauses(event, rng) for event in events]
    words = {f"f{i}": c[0] for i, c in enumerate(clauses)} | {f"p{i}": c[1] for i, c in enumerate(clauses)}
    caption = _choose(rng, frames).format(f=clauses[0][0], p=clauses[0][1], **words)
    return caption[0].upper() + caption[1:]


def random_caption(rng: np.random.Generator) -> str:
    """A caption of one to three random events, with manners as often as scenes have them: text without a sound."""
    n = int(rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1]))
    events = [
        SceneEvent(
            str(label),
            str(rng.choice(["normal", "loud", "faint"], p=[0.84, 0.08, 0.08])),
            bool(rng.random() < 0.1),
            int(rng.choice([1, 2, 3], p=[0.84, 0.08, 0.08])),
        )
        for label in rng.choice(LABELS, n, replace=False)
    ]
    return describe(events, "single" if n == 1 else str(rng.choice(["overlap", "sequence"])), rng)
