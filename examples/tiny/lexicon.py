"""What the sound classes are called: reads phrases/phrases_*.txt to clauses and noun phrases, and inflects verbs."""

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "phrases"
DOUBLED = frozenset((FOLDER / "doubled_consonant.txt").read_text().split())  # verbs such as "run": "running"
VERBS = frozenset((FOLDER / "second_verbs.txt").read_text().split())  # that follow "and" in a verb phrase
IRREGULAR = {"be": "is", "have": "has", "do": "does", "go": "goes"}
PARTICIPLES = {"be": "being", "lie": "lying", "die": "dying", "tie": "tying"}


def third_person(verb: str) -> str:
    """ "buzz" → "buzzes"."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if re.search(r"(s|x|z|ch|sh)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def participle(verb: str) -> str:
    """ "run" → "running"."""
    if verb in PARTICIPLES:
        return PARTICIPLES[verb]
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    return verb + verb[-1] + "ing" if verb in DOUBLED else verb + "ing"


def inflect(phrase: str, how) -> str:
    """The first verb of a verb phrase, and a second verb right after " and " or " or ", inflected."""
    words = phrase.split()
    out, verbs = [], True
    for k, word in enumerate(words):
        out.append(how(word) if (verbs and word in VERBS) or k == 0 else word)
        verbs = word in ("and", "or")
    return " ".join(out)


@dataclass
class Phrases:
    """Of one line: subject–verb pairs and noun phrases."""

    clauses: list[tuple[str, bool, str]] = field(default_factory=list)  # subject, plural, verb phrase
    nouns: list[str] = field(default_factory=list)
    fine: frozenset[str] = frozenset()


@dataclass
class SoundClass:
    name: str
    stems: list[str] = field(default_factory=list)
    lines: list[Phrases] = field(default_factory=list)

    def of(self, fine: str | None) -> Phrases:
        """What may be said of this class, or of its fine class where that has lines of its own."""
        own = [line for line in self.lines if fine in line.fine]
        chosen = own or [line for line in self.lines if not line.fine] or self.lines
        return Phrases([c for line in chosen for c in line.clauses], [n for line in chosen for n in line.nouns])


def _with_article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _macro(kind: str, text: str) -> list[str]:
    """Lines of an instrument ("inst") or a drum, from "the piano; piano"."""
    the, name = (part.strip() for part in text.split(";"))
    plural = name.endswith("s") and name not in ("celesta",)
    one = ("+" + name) if plural else _with_article(name)
    bare = one.lstrip("+")
    if kind == "inst":
        return [
            f"someone; a musician; a person | play {the}; play a melody on {the}; practice {the}; "
            f"play a tune on {the} | {name} music; a melody on {the}; the notes of {bare}; a tune played on {the}; "
            f"someone playing {the}",
            f"{one}; {one} | play; play a melody; play a few notes; play a slow tune; play a scale; sound | "
            f"a short {name} melody; {name} notes; {name} playing; a solo {name} melody",
        ]
    return [
        f"someone; a percussionist; a musician | play {the}; hit {the}; play a rhythm on {the}; tap {the} | "
        f"{name} beats; a rhythm on {the}; {name} hits; the sound of {bare}; {name} playing",
        f"{one} | play; be played; keep the rhythm; be struck |",
    ]


def load(folder: Path = FOLDER) -> dict[str, SoundClass]:
    """Class → its stems and phrases.

    "@ name : stems" begins a class ("@+" adds to one), "<fine, …>" a line of finer classes, "%inst the piano; piano" an
    instrument. A line is "subjects | verb phrases | noun phrases", each separated by ";"; "+" marks a plural.
    """
    classes: dict[str, SoundClass] = {}
    current = None
    for file in sorted(folder.glob("phrases_*.txt")):
        for text in file.read_text(encoding="utf-8").splitlines():
            text = text.strip()
            if not text or text.startswith("#"):
                continue
            if text.startswith("@"):
                name, stems = text.lstrip("@+ ").split(":", 1)
                current = classes.setdefault(name.strip(), SoundClass(name.strip()))
                current.stems += [stem.strip().lower() for stem in stems.split(",") if stem.strip()]
                continue
            if text.startswith("%"):
                kind, rest = text[1:].split(" ", 1)
                lines = _macro(kind, rest)
            else:
                lines = [text]
            for line in lines:
                current.lines.append(_line(line))
    return classes


def _line(text: str) -> Phrases:
    fine = frozenset()
    if text.startswith("<"):
        names, text = text[1:].split(">", 1)
        fine = frozenset(name.strip() for name in names.split(","))
    subjects, verbs, *nouns = (part.strip() for part in text.split("|"))
    clauses = [
        (subject.strip().lstrip("+"), subject.strip().startswith("+"), verb.strip())
        for subject in subjects.split(";")
        for verb in verbs.split(";")
        if subject.strip() and verb.strip()
    ]
    return Phrases(clauses, [n.strip() for n in nouns[0].split(";") if n.strip()] if nouns else [], fine)
