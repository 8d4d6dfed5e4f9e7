"""What human captions name: events and their relation, by the word lists."""

import re
from functools import cache
from pathlib import Path

from event_words import EventWords

HERE = Path(__file__).resolve().parent
ORDER = re.compile(r"\b(then|followed|before|afterwards?|finally|next|later)\b", re.I)
REVERSED = re.compile(r"\b(after|once|when)\b", re.I)


@cache
def table() -> EventWords:
    return EventWords.load(HERE / "event_words.json")


def events_of(caption: str) -> tuple[list[str], str]:
    """(classes in the order that they are heard, relation); order is unsure where a caption says "after"."""
    events = list(dict.fromkeys(label for _, label in table().places(caption)))
    if not events:
        return [], ""
    if len(events) == 1:
        return events, "single"
    if ORDER.search(caption) and not REVERSED.search(caption):
        return events, "sequence"
    return events, "overlap"
