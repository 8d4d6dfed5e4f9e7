"""Judges captions of unheard origins (caption_unheard.py): events, speech, music, silence, words, classes, confusions.

    python judge.py

Writes judged.json and by_class.csv. *Exact* means that a caption names the scene's events and no other; *named*, that
it holds a word of the event's list (fair_words.py).
"""

import argparse
import csv
import json
import re
from collections import Counter
from pathlib import Path

import fair_words
import numpy as np
from music import ENSEMBLES, MUSIC
from named import event_words

MUSICAL = re.compile(r"music|song|melod|tune|band\b|orchestra|rhythm|chord|\bplay", re.IGNORECASE)


def share(right: list[bool]) -> dict[str, float]:
    """The share of a list that is true, its standard error, and the length."""
    mean = float(np.mean(right)) if right else 0.0
    return {
        "share": round(mean, 4),
        "error": round((mean * (1 - mean) / max(1, len(right))) ** 0.5, 4),
        "n": len(right),
    }


def said(row: dict) -> str:
    """The caption as the pipeline gives it, hedging aside."""
    return "Silence" if row["silent"] else row["caption"]


def exact(row: dict) -> bool:
    return event_words().named(said(row)) == ({event["name"] for event in row["events"]} or {"silence"})


def named(row: dict) -> bool:
    return all(fair_words.names(said(row), event["name"]) for event in row["events"])


def says_speech(row: dict) -> bool:
    """Whether a caption names some kind of speech."""
    return any(x.startswith("speech") or x in ("crowd talking", "whispering") for x in event_words().named(said(row)))


def says_music(row: dict) -> bool:
    """Whether a caption names an ensemble, an instrument or singing, or speaks of music."""
    return bool(event_words().named(said(row)) & MUSIC) or bool(MUSICAL.search(said(row)))


def origin(row: dict) -> str:
    source = row.get("source", "bank")
    return "ESC-10" if source.startswith("esc10") else "made" if source == "made" else "bank"


def judge(sets: dict[str, list[dict]]) -> dict[str, dict]:
    """Figure → share, standard error and number."""
    single = sets["single"]
    bank = [row for row in single if origin(row) == "bank"]
    speech = [row for row in single if row["events"][0]["name"].startswith("speech")]
    music = [row for row in single if row["events"][0]["name"] in MUSIC]
    ensembles = [row for row in music if row["events"][0]["name"] in ENSEMBLES]
    result = {
        "bank, single: named": share([named(row) for row in bank]),
        "bank, single: exact": share([exact(row) for row in bank]),
        "ESC-10, single: exact": share([exact(row) for row in single if origin(row) == "ESC-10"]),
        "ESC-10, sequence: exact": share([exact(row) for row in sets["esc10-sequence"]]),
        "ESC-10, overlap: exact": share([exact(row) for row in sets["esc10-overlap"]]),
        "bank, sequence: exact": share([exact(row) for row in sets["sequence"]]),
        "bank, overlap: exact": share([exact(row) for row in sets["overlap"]]),
        "speech said to be speech": share([says_speech(row) for row in speech]),
        "others said to be speech": share([says_speech(row) for row in single if row not in speech]),
        "music said to be music": share([says_music(row) for row in ensembles]),
        "music, instruments and singing said to be such": share([says_music(row) for row in music]),
        "others said to be music": share([says_music(row) for row in single if row not in music]),
        "silence said to be silence": share([exact(row) for row in sets["silence"]]),
    }
    by_class = Counter(row["events"][0]["name"] for row in bank)
    means = [np.mean([named(row) for row in bank if row["events"][0]["name"] == name]) for name in by_class]
    result["bank, single: named, mean over classes"] = {"share": round(float(np.mean(means)), 4), "n": len(means)}
    return result


def wording(sets: dict[str, list[dict]], count: int = 1000) -> dict[str, object]:
    """Of captions of various scenes."""
    captions = [said(row) for name, rows in sorted(sets.items()) if name != "silence" for row in rows]
    captions = [captions[k] for k in np.random.default_rng(2).permutation(len(captions))[:count]]
    words = [word for caption in captions for word in re.findall(r"[a-z']+", caption.lower())]
    (commonest, often), *_ = Counter(captions).most_common(1)
    return {
        "captions": len(captions),
        "different captions": len(set(captions)),
        "different words": len(set(words)),
        "words a caption": round(len(words) / len(captions), 1),
        "commonest caption": commonest,
        "its share": round(often / len(captions), 4),
    }


def write_classes(rows: list[dict], path: Path) -> None:
    """A line for each class: recordings, how many captions name it, what others name instead."""
    own: dict[str, list[dict]] = {}
    for row in rows:
        own.setdefault(row["events"][0]["name"], []).append(row)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "recordings", "named", "named instead"])
        for name, group in sorted(own.items()):
            wrong = Counter(label for row in group if not named(row) for label in event_words().named(said(row)))
            instead = "; ".join(f"{label} {n}" if n > 1 else label for label, n in wrong.most_common())
            writer.writerow([name, len(group), sum(map(named, group)), instead])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captioned", type=Path, default=Path("captioned"))
    args = parser.parse_args(argv)
    sets = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in args.captioned.glob("*.jsonl")
    }
    result = judge(sets)
    for name, row in result.items():
        print(f"{name:42} {row['share']:.3f} ± {row.get('error', 0):.3f} (n {row['n']})")
    words = wording(sets)
    print(json.dumps(words, indent=1))
    heard = [row for row in sets["single"] if origin(row) != "made"]
    write_classes(heard, Path("by_class.csv"))
    Path("judged.json").write_text(json.dumps({"figures": result, "wording": words}, indent=1) + "\n")


if __name__ == "__main__":
    main()
