"""Writes classes.json, the sound classes and how many recordings each has, and splits.csv, recordings by origin."""

import argparse
import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path

# Fine classes whose `coarse` class of the index is changed: split where a caption must tell them apart (ESC-10 does),
# merged where one origin alone made a class that nobody could tell from another.
MOVED = {
    "chainsaw": "chainsaw",
    "hand_saw": "hand saw",
    "cough": "cough",
    "person_sneeze": "sneeze",
    "applause": "applause or cheering",
    "crowd_cheering": "applause or cheering",
    "crowd_ooh": "applause or cheering",
    "conversation": "crowd talking",
    "public_place": "crowd talking",
    "restaurant_crowd": "crowd talking",
    "speech_child_or_high_voice": "speech child",
    "speech_short_voice": "speech man",
    "music_orchestral": "classical music",
    "brass_section": "brass band",
    "synth_music": "electronic music",
    "electronic_beat": "electronic music",
    "drum_hit": "tom drum",
    "drum_roll": "snare drum",
    "bow_draw": "bow arrow",
    "card_swipe": "tape or zipper",
    "radio_static": "static noise",
    "vinyl_crackle": "crackling",
    "wooden_frog": "guiro",
    "boing": "ruler twang",
    "guitar_smash": "distorted guitar",
    "spray_can": "fan or air",
    "inhaler_spray": "fan or air",
    "window_slide": "door",
    "umbrella_open": "cloth rustle",
    "climbing_rustle": "cloth rustle",
    "curtain_slide": "cloth rustle",
    "farm_animals": "farm animals",
    "reverse_beeper": "beeps",
    "bicycle_bell": "bell",
    "handbrake": "ratchet",
}
DROPPED = {"children_playing"}  # mostly water, says the teacher

ESC10 = {
    "baby_cry": "baby crying",
    "chainsaw": "chainsaw",
    "clock_tick": "clock",
    "dog_bark": "dog",
    "fire_crackling": "fire",
    "helicopter": "helicopter",
    "person_sneeze": "sneeze",
    "rain": "rain",
    "rooster": "rooster crow",
    "sea_waves": "waves",
}
# The classes that examples/tiny/synthesis.py makes by formula. Few examples of each, so that they do not stand for
# the real ones; they are here because the repository's own sample sounds are such.
SYNTHESIZED = {
    "alarm_beep": "beeps",
    "applause": "applause or cheering",
    "bell": "church bell",
    "bird_chirp": "bird song",
    "cricket": "crickets and insects",
    "engine": "car engine",
    "footsteps": "footsteps",
    "frog": "frog or toad",
    "knocking": "knocking",
    "siren": "siren",
    "telephone": "telephone",
    "thunder": "thunder",
    "typing": "keyboard typing",
    "water_drip": "dripping water",
    "whistle": "whistle",
    "wind": "wind",
}
MADE = {"synth_speech_man": "speech man", "synth_speech_woman": "speech woman", "synth_noise": "static noise"}
SILENCE = "silence"
# Origins that are in the bank and in ESC-10 under its number.
SHARED = ("188033", "4211", "163264", "157149", "134049", "81270")
KINDS = {
    "speech": ("speech man", "speech woman", "speech child"),
    "music": ("classical music", "rock music", "jazz music", "folk music", "electronic music", "brass band"),
}
JUDGED_FOLD = "4"  # of ESC-10


def canonical(row: dict[str, str]) -> str:
    """The class of a row of the bank's index."""
    return MOVED.get(row["class"], row["coarse"])


def recordings(data: Path) -> list[dict[str, str]]:
    """All recordings of the bank and of ESC-10: file (below ``data``), name, fine, group, source."""
    rows = []
    with open(data / "sounds" / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["class"] in DROPPED:
                continue
            rows.append(
                {
                    "file": f"sounds/{row['file']}",
                    "name": canonical(row),
                    "fine": row["class"],
                    "group": row["group"],
                    "source": row["source"],
                }
            )
    with open(data / "esc10" / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            origin = Path(row["file_name"]).stem.split("-")[1]
            rows.append(
                {
                    "file": f"esc10/{row['file_name']}",
                    "name": ESC10[row["label"]],
                    "fine": row["label"],
                    "group": f"fs{origin}",
                    "source": f"esc10-{row['fold']}",
                }
            )
    return rows


def split_by_origin(rows: list[dict[str, str]], share: float = 0.2) -> dict[str, str]:
    """Group → "train" or "validation": about ``share`` of the groups of each class that has three or more.

    ESC-10's judged fold is validation, its other folds are training, and so are origins that the bank shares with them.
    """
    side, classes, groups_of = {}, defaultdict(set), defaultdict(set)
    for row in rows:
        classes[row["group"]].add(row["name"])
        if row["source"].startswith("esc10"):
            side[row["group"]] = "validation" if row["source"] == f"esc10-{JUDGED_FOLD}" else "train"
        elif not row["source"].startswith("gm-"):  # a rendered phrase proves little
            groups_of[row["name"]].add(row["group"])
    taken: dict[str, int] = defaultdict(int)
    wanted = {name: max(1, round(share * len(groups))) if len(groups) >= 3 else 0 for name, groups in groups_of.items()}
    size = defaultdict(int)
    for row in rows:
        size[row["group"]] += 1
    order = sorted(classes, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    for group in order:
        if group in side:
            continue
        if size[group] <= 12 and all(taken[name] < wanted.get(name, 0) for name in classes[group]):
            side[group] = "validation"
            for name in classes[group]:
                taken[name] += 1
        else:
            side[group] = "train"
    return side


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("."))
    args = parser.parse_args(argv)
    rows = recordings(args.data)
    side = split_by_origin(rows)
    classes: dict[str, dict] = {}
    for row in rows:
        entry = classes.setdefault(
            row["name"], {"fine": {}, "groups": set(), "groups_validation": set(), "recordings": 0, "esc10": None}
        )
        entry["fine"][row["fine"]] = entry["fine"].get(row["fine"], 0) + 1
        entry["groups" if side[row["group"]] == "train" else "groups_validation"].add(row["group"])
        entry["recordings"] += 1
        if row["source"].startswith("esc10"):
            entry["esc10"] = row["fine"]
    for made in ({SILENCE: SILENCE}, MADE, SYNTHESIZED):
        for fine, name in made.items():
            classes.setdefault(
                name, {"fine": {}, "groups": set(), "groups_validation": set(), "recordings": 0, "esc10": None}
            ).setdefault("made", []).append(fine)
    out = {}
    for k, name in enumerate(sorted(classes)):
        entry = classes[name]
        out[name] = {
            "index": k,
            "fine": dict(sorted(entry["fine"].items())),
            "recordings": entry["recordings"],
            "groups": len(entry["groups"] | entry["groups_validation"]),
            "groups_train": len(entry["groups"]),
            "groups_validation": len(entry["groups_validation"]),
            "esc10": entry["esc10"],
            "made": entry.get("made", []),
        }
    (args.output / "classes.json").write_text(json.dumps(out, indent=1) + "\n")
    with open(args.output / "splits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "split": side[row["group"]]})
    held = sum(side[row["group"]] == "validation" for row in rows)
    print(f"{len(out)} classes, {len(rows)} recordings of {len(side)} origins, {held} of them held out")


if __name__ == "__main__":
    main()
