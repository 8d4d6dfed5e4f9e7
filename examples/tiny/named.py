"""Events that captions name, and in which order, by the word lists that phrases.py writes."""

import json
import re
from functools import cache
from pathlib import Path

WORDS = Path("event_words.json")
ORDER = re.compile(r"\b(then|followed|before|afterwards?|finally|next|later)\b", re.IGNORECASE)
REVERSED = re.compile(r"\b(after|once|when)\b", re.IGNORECASE)


class EventWords:
    """As the package's `analysis.event_words.EventWords`, but by look-up: fast for thousands of stems, and with places.

    Args:
        words: class → stems; one that ends with "$" is a whole word.
    """

    def __init__(self, words: dict[str, list[str]]):
        self.buckets: dict[str, list[tuple[str, bool, str]]] = {}
        for label, stems in words.items():
            for stem in stems:
                text = stem.rstrip("$").lower()
                self.buckets.setdefault(text[:2], []).append((text, stem.endswith("$"), label))
        for bucket in self.buckets.values():
            bucket.sort(key=lambda entry: (-len(entry[0]), entry[0]))

    def named(self, caption: str) -> frozenset[str]:
        """The classes that a caption names."""
        return frozenset(label for _, label in self.places(caption))

    def places(self, caption: str) -> list[tuple[int, str]]:
        """(position, class) in order; the longest stem takes its words."""
        text, at, found = caption.lower(), 0, []
        for start in (match.start() for match in re.finditer(r"\b\w", text)):
            if start < at:
                continue
            for stem, ends, label in self.buckets.get(text[start : start + 2], ()):
                end = start + len(stem)
                if text.startswith(stem, start) and not (ends and end < len(text) and text[end].isalnum()):
                    found.append((start, label))
                    at = end
                    break
        return found


@cache
def event_words(path: Path = WORDS) -> EventWords:
    """The table of a build's folder."""
    return EventWords(json.loads(path.read_text(encoding="utf-8")))


def events_of(caption: str) -> tuple[list[str], str]:
    """(classes in the order that they are heard, relation); order is unsure where a caption says "after"."""
    events = list(dict.fromkeys(label for _, label in event_words().places(caption)))
    if not events:
        return [], ""
    if len(events) == 1:
        return events, "single"
    if ORDER.search(caption) and not REVERSED.search(caption):
        return events, "sequence"
    return events, "overlap"
