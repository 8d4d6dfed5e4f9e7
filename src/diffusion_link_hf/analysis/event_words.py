"""Events that captions name, by a table of word stems: is a caption right about what there is to hear?"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError

FORM = 'It holds {"label": ["stem", …], …}: each label with the stems of the words that name it'
# What makes several events a sequence, if every reference has such a word.
ORDER_WORDS = re.compile(r"\b(?:then|followed|before|after|afterwards?|finally|first|next|later)\b", re.IGNORECASE)
KINDS = ("one event", "several at once", "several in sequence")


class EventWords:
    """Which events a caption names.

    A stem names its event where a word begins with it, in whatever case. It may hold several words ("siren wails"), and
    a "$" at its end asks for the end of the word ("car$" is not in "carpet"). Where stems overlap, the longest one at
    the leftmost place counts and takes its words: "clap of thunder" is no applause.

    Args:
        words: label → its stems.
        name: how errors call the table.

    Raises:
        DataError: a table of another form, or a stem of two labels.

    Examples:
        >>> words = EventWords({"dog": ["dog", "bark"], "car": ["car$"]})
        >>> sorted(words.named("A dog barks on a carpet"))
        ['dog']
    """

    def __init__(self, words: Mapping[str, Sequence[str]], name: str = "events"):
        if not isinstance(words, Mapping) or not words:
            raise DataError(name, f"holds a {type(words).__name__} of no events", FORM)
        self.labels = tuple(words)
        self._label_of: dict[str, str] = {}
        for label, stems in words.items():
            if isinstance(stems, str) or not isinstance(stems, Sequence) or not stems:
                raise DataError(f"{name}: {label}", f"is {stems!r}", FORM)
            for stem in stems:
                self._add(label, stem, name)
        longest_first = sorted(self._label_of, key=lambda stem: (-len(stem.rstrip("$")), stem))
        self._pattern = re.compile("|".join(f"({_pattern(stem)})" for stem in longest_first))
        self._labels = [self._label_of[stem] for stem in longest_first]

    def _add(self, label: str, stem: str, name: str) -> None:
        if not isinstance(stem, str) or not stem.rstrip("$").strip():
            raise DataError(f"{name}: {label}", f"has the stem {stem!r}", FORM)
        owner = self._label_of.setdefault(stem.lower(), label)
        if owner != label:
            raise DataError(f"{name}: {label}", f"shares the stem {stem!r} with {owner}", "A stem names one event")

    @classmethod
    def load(cls, path: str | Path) -> "EventWords":
        """Read the table from a JSON file.

        Raises:
            DataError: missing, no JSON, or of another form.
        """
        try:
            words = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(path, f"cannot be read ({error})", FORM) from error
        return cls(words, str(path))

    def named(self, caption: str) -> frozenset[str]:
        """Labels of all events that ``caption`` names."""
        found = self._pattern.finditer(caption.lower())
        return frozenset(self._labels[match.lastindex - 1] for match in found)

    def of_references(self, references: Sequence[str]) -> frozenset[str]:
        """Labels of all events that any of a recording's references names."""
        return frozenset().union(*map(self.named, references))


def kind(events: frozenset[str], references: Sequence[str]) -> str:
    """One of `KINDS`: by the number of events, and by whether every reference tells their order."""
    if len(events) == 1:
        return KINDS[0]
    return KINDS[2] if all(map(ORDER_WORDS.search, references)) else KINDS[1]


def _pattern(stem: str) -> str:
    end = r"\b" if stem.endswith("$") else ""
    return rf"\b{re.escape(stem.rstrip('$'))}{end}"
