"""Writes event_words.json, class → word stems, and phrases.json, the phrases of each class that name it and no other.

python phrases.py --output runs/tiny
"""

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import lexicon
from named import WORDS, EventWords

PHRASES = Path("phrases.json")
COMMON = frozenset(["the", "and", "its", "with", "into", "over", "from", "that", "under", "back", "down", "out", "off"])
LONGEST = 8  # words of a stretch


def stems_of(classes: dict[str, lexicon.SoundClass]) -> dict[str, list[str]]:
    """Class → its stems; one that two classes claim is the first one's."""
    owner: dict[str, str] = {}
    for name, sound in classes.items():
        for stem in sound.stems:
            owner.setdefault(stem, name)
    return {name: [s for s in dict.fromkeys(sound.stems) if owner[s] == name] for name, sound in classes.items()}


def stretch_of(phrase: str, name: str, words: EventWords) -> str | None:
    """The words from the first stem to the last of a phrase that names other classes, too; or None."""
    text, places = phrase.lower(), words.places(phrase)
    if name not in {label for _, label in places}:
        return None
    start, (last, label) = places[0][0], places[-1]
    end = re.compile(r"[\w'-]+").match(text, last).end()
    stems = [stem for stem, _, own in words.buckets[text[last:][:2]] if own == label and text.startswith(stem, last)]
    stretch = text[start : max(end, last + max(map(len, stems), default=0))]
    return stretch if len(stretch.split()) <= LONGEST else None


def stretches(classes: dict[str, lexicon.SoundClass], words: EventWords) -> dict[str, list[str]]:
    """Class → stretches such as "cobra hisses", which would name a second class by their verb."""
    owner: dict[str, str] = {}
    added: dict[str, set[str]] = {name: set() for name in classes}
    for name, sound in classes.items():
        for line in sound.lines:
            clauses = [form for clause in line.clauses if not repeats(clause[0], clause[2]) for form in forms(*clause)]
            for text in (*line.nouns, *clauses):
                stretch = stretch_of(text, name, words) if words.named(text) - {name} else None
                if stretch and owner.setdefault(stretch, name) == name:
                    added[name].add(stretch)
    return {name: sorted(own) for name, own in added.items()}


def repeats(subject: str, verb: str) -> bool:
    """Whether the verb phrase says the subject's noun again: "a door opens a door"."""

    def stems(text: str) -> set[str]:
        return {word[:5] for word in re.findall(r"[a-z]+", text) if len(word) > 2 and word not in COMMON}

    return bool(stems(subject) & stems(verb))


def forms(subject: str, plural: bool, verb: str) -> tuple[str, str, str]:
    """A clause in the present, in the progressive, and as a participle phrase."""
    if not plural:
        present = lexicon.inflect(verb, lexicon.third_person)
    else:
        present = "are " + verb[3:] if verb.startswith("be ") else verb
    going = lexicon.inflect(verb, lexicon.participle)
    return f"{subject} {present}", f"{subject} {'are' if plural else 'is'} {going}", f"{subject} {going}"


def event_words() -> dict[str, list[str]]:
    """Class → stems and stretches, as `diffusion-link evaluate --events` takes them."""
    classes = lexicon.load()
    words = stems_of(classes)
    owner = {stem: name for name, stems in words.items() for stem in stems}
    for name, own in stretches(classes, EventWords(words)).items():
        words[name] += [stretch for stretch in own if owner.setdefault(stretch, name) == name]
    return words


def phrases(words: EventWords) -> dict[str, list[dict]]:
    """Class → lines of finer classes, clauses in their three forms, and noun phrases."""
    result = {}
    for name, sound in lexicon.load().items():
        lines = []
        for line in sound.lines:
            clauses = [forms(*clause) for clause in line.clauses if not repeats(clause[0], clause[2])]
            clauses = [own for own in clauses if name == "silence" or all(words.named(form) == {name} for form in own)]
            nouns = [noun for noun in line.nouns if words.named(noun) == {name}]
            if clauses or nouns:
                lines.append({"fine": sorted(line.fine), "clauses": clauses, "nouns": nouns})
        result[name] = lines
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("."), help="folder, made if absent")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    words = event_words()
    (args.output / WORDS).write_text(json.dumps(words, indent=1) + "\n")
    found = phrases(EventWords(words))
    (args.output / PHRASES).write_text(json.dumps(found, indent=0) + "\n")
    counts = Counter({name: sum(len(x["clauses"]) + len(x["nouns"]) for x in lines) for name, lines in found.items()})
    fewest = min(counts, key=counts.get)
    print(f"{len(counts)} classes, {counts.total()} phrases; fewest {counts[fewest]} ({fewest})")


if __name__ == "__main__":
    main()
