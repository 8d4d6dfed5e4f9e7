"""Makes event_words.json (class → word stems) and the phrases that name exactly their class; prints what is dropped."""

import json
import re
import sys
from collections import Counter
from pathlib import Path

import lexicon


class EventWords:
    """As the package's `analysis.event_words.EventWords`, but by look-up: fast for thousands of stems."""

    def __init__(self, words):
        self.buckets = {}
        for label, stems in words.items():
            for stem in stems:
                text = stem.rstrip("$").lower()
                self.buckets.setdefault(text[:2], []).append((text, stem.endswith("$"), label))
        for bucket in self.buckets.values():
            bucket.sort(key=lambda entry: (-len(entry[0]), entry[0]))
        self.cache = {}

    @classmethod
    def load(cls, path):
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def named(self, caption: str) -> frozenset[str]:
        return frozenset(label for _, label in self.places(caption))

    def places(self, caption: str) -> list[tuple[int, str]]:
        """(position, label) in order."""
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


HERE = Path(__file__).resolve().parent
AGENTS = re.compile(r"^(someone|a person|a man|a woman|a child|people|somebody)$")
COMMON = set(
    [
        "the",
        "and",
        "its",
        "with",
        "into",
        "over",
        "from",
        "that",
        "under",
        "back",
        "down",
        "out",
        "off",
        "their",
        "his",
        "her",
        "a",
        "an",
        "of",
        "in",
        "on",
        "to",
        "at",
        "up",
        "as",
        "it",
    ]
)


def words_table(classes) -> EventWords:
    seen, table = {}, {}
    for name, sound in classes.items():
        stems = []
        for stem in dict.fromkeys(sound.stems):
            if stem in seen and seen[stem] != name:
                print(f"stem {stem!r} of {name} is {seen[stem]}'s already", file=sys.stderr)
                continue
            seen[stem] = name
            stems.append(stem)
        table[name] = stems
    (HERE / "event_words.json").write_text(json.dumps(table, indent=1) + "\n")
    return EventWords(table)


def composite(phrase: str, name: str, table: EventWords) -> str | None:
    """The stretch of words from the first to the last stem in a phrase that names other classes, too, or None."""
    places = table.places(phrase)
    if name not in {label for _, label in places}:
        return None
    start = places[0][0]
    end = re.compile(r"[\w'-]+").match(phrase.lower(), places[-1][0]).end()
    last = max(
        (
            len(stem)
            for stem, _, label in table.buckets[phrase.lower()[places[-1][0] :][:2]]
            if label == places[-1][1] and phrase.lower().startswith(stem, places[-1][0])
        ),
        default=0,
    )
    end = max(end, places[-1][0] + last)
    stretch = phrase.lower()[start:end]
    return stretch if len(stretch.split()) <= 8 else None


def add_composites(classes, table: EventWords) -> dict[str, list[str]]:
    """Class → stretches such as "cobra hisses", which would name a second class by their verb."""
    owner, added = {}, {}
    for name, sound in classes.items():
        for line in sound.lines:
            texts = list(line.nouns)
            for clause in line.clauses:
                if not repeats(clause[0], clause[2]):
                    texts += clause_forms(*clause).values()
            for text in texts:
                if table.named(text) - {name}:
                    stretch = composite(text, name, table)
                    if stretch and owner.setdefault(stretch, name) == name:
                        added.setdefault(name, set()).add(stretch)
    return {name: sorted(stretches) for name, stretches in added.items()}


def repeats(subject: str, verb: str) -> bool:
    """Whether the verb phrase says the subject's noun again: "a door opens a door"."""
    said = {word[:5] for word in re.findall(r"[a-z]+", subject) if len(word) > 2 and word not in COMMON}
    return any(word[:5] in said for word in re.findall(r"[a-z]+", verb) if len(word) > 2 and word not in COMMON)


def clause_forms(subject: str, plural: bool, verb: str) -> dict[str, str]:
    """The forms of one clause: present, progressive, participle phrase."""
    present = verb if plural and not verb.startswith("be ") else lexicon.inflect(verb, lexicon.third_person)
    if plural and verb.startswith("be "):
        present = "are " + verb[3:]
    going = lexicon.inflect(verb, lexicon.participle)
    return {
        "present": f"{subject} {present}",
        "progressive": f"{subject} {'are' if plural else 'is'} {going}",
        "participle": f"{subject} {going}",
    }


def main() -> None:
    classes = lexicon.load()
    table = words_table(classes)
    words = json.loads((HERE / "event_words.json").read_text())
    owners = {stem: name for name, stems in words.items() for stem in stems}
    for name, stretches in add_composites(classes, table).items():
        words[name] += [stretch for stretch in stretches if owners.setdefault(stretch, name) == name]
    (HERE / "event_words.json").write_text(json.dumps(words, indent=1) + "\n")
    table = EventWords(words)
    dropped, kept, result = Counter(), Counter(), {}
    examples = {}
    for name, sound in classes.items():
        lines = []
        for line in sound.lines:
            clauses = []
            for subject, plural, verb in line.clauses:
                if repeats(subject, verb):
                    continue
                forms = clause_forms(subject, plural, verb)
                if name == "silence" or all(table.named(form) == {name} for form in forms.values()):
                    clauses.append((forms["present"], forms["progressive"], forms["participle"]))
                else:
                    dropped[name] += 1
                    examples.setdefault(name, []).append((forms["present"], sorted(table.named(forms["present"]))))
            nouns = [noun for noun in line.nouns if table.named(noun) == {name}]
            for noun in set(line.nouns) - set(nouns):
                dropped[name] += 1
                examples.setdefault(name, []).append((noun, sorted(table.named(noun))))
            if clauses or nouns:
                lines.append({"fine": sorted(line.fine), "clauses": clauses, "nouns": nouns})
                kept[name] += len(clauses) + len(nouns)
        result[name] = lines
    (HERE / "phrases.json").write_text(json.dumps(result, indent=0) + "\n")
    for name, count in dropped.most_common():
        print(f"{name}: {count} dropped, {kept[name]} kept: {examples[name][:4]}")
    few = {name: kept[name] for name in classes if kept[name] < 8}
    print("few:", few, "mean", sum(kept.values()) / len(kept), "total", sum(kept.values()))


if __name__ == "__main__":
    main()
