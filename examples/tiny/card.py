"""Writes the card of the pipeline, README.md, and ATTRIBUTION.txt, from what the stages of the build measured.

python card.py --data DATA     # in the folder of the build
"""

import argparse
import csv
import json
from collections import Counter
from datetime import date
from pathlib import Path

from calibrate import is_right, load
from judge import named, origin

HEAD = """---
license: apache-2.0
language: en
library_name: diffusion-link-hf
pipeline_tag: audio-to-text
tags: [audio-captioning, clap, diffusion-link, everyday-sounds]
---

# Diffusion-Link tiny

The embedded pipeline of diffusion-link-hf: it captions ten-second windows of sound in English, with a score, on a CPU.
It has names for {classes} kinds of sound, says *silence* for silence, and hedges where it does not know.

```python
from diffusion_link_hf import AudioCaptionPipeline

output = AudioCaptionPipeline.from_pretrained("tiny")("my_dog.ogg")
output.captions, output.scores
```

{megabytes} MB of 16-bit weights:

- Ears: aiSFX's convolutional network, pretrained by others. Small networks on it tag sounds over time and find a
  second sound beside the first. They decide on one event or two and place them in a joint space of 512 dimensions.
- A text tower of 2.5 M parameters, distilled from MiniLM to the same space.
- No bridge: its link is the identity. Sounds are placed where their captions lie, with their doubt, which captions
  do not have.
- A projector and a LLaMA of 4.6 M parameters, trained on captions and on places of sounds that nobody made.
- A calibrated score of each caption.

## How good it is

Measured on recordings of origins that no training heard: a fifth of the bank's origins, and fold 4 of ESC-10. The
choice of the recipe was made by looking at these same recordings, so differences of two points are noise.
*Named*: the caption holds a word of the event's list (`examples/tiny/fair_words.py`). *Exact*: it names the events
that are there and no other (`examples/tiny/phrases.py`). ± is one standard error.

"""
TRAINED_ON = """
## Trained on

- {bank} recordings of the sound bank in the folders that `examples/tiny/README.md` describes (CC BY 3.0 and 4.0, CC0,
  MIT, BSD, Apache-2.0, public domain), and {esc10} of ESC-10, folds {folds} (K. J. Piczak; CC BY and CC0).
- {made} sounds made by formula or spoken by espeak-ng and flite.
- 49,838 captions of AudioCaps's training split (MIT), and captions made by grammar. No audio of AudioCaps.
- Pretrained: the network of aisfx 0.1.2, © 2022 A. B. Ma and A. Lerch, CC BY 4.0, changed by folding its batch norms
  into the convolutions; as a teacher of the text tower all-MiniLM-L6-v2 (Apache-2.0).

[ATTRIBUTION.txt](ATTRIBUTION.txt) has all authors. {held_out} recordings of unheard origins were kept for the figures
above, and are in no training of these weights.
"""
LIMITS = """
## Limits

- Two sounds at once are named far less often than one, see the table. Of three, it names two at most.
- Classes of few origins are guesses. The table below says how often each was named; most have one to five recordings.
- Rare instruments are taken for each other, and machines for other machines.
- A window has one caption; what happens when within ten seconds is said as "then" at best.
- Spoken words are not transcribed. Speakers are a man, a woman or a child by pitch, and that is often wrong.
- The labels of the bank come from file names, not from listening.
"""
NOT_ONE_RUN = """
These weights were not made by one run of it, and no run of it from end to end has been timed. The stages up to the CLAP
are those of the command but for the text tower. That and the writer were trained in several steps, from weights for an
earlier layout of the joint space, while other work ran on the same two cores. The minutes that went into the parts:
clips 5, training scenes 4, taggers 2, pair taggers 21, made captions 4, text tower 26, CLAP 3, writer 66 beside what
the earlier layout took. The command trains text tower and writer from scratch instead.
"""
ATTRIBUTION = """Recordings and weights that the pipeline "tiny" was made from

1. aisfx 0.1.2, (c) 2022 A. B. Ma and A. Lerch, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/):
   weights of the audio network. Change: batch norms folded into the convolutions, stored in 16 bits.
2. all-MiniLM-L6-v2, Apache-2.0: teacher of the text tower; none of its weights are here.
3. AudioCaps, captions of the training split, MIT; its license is at the end.
4. Recordings of the sound bank, as listed next. They are not here, only weights trained on them.
5. ESC-10, as listed after that.

"""


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def percent(row: dict) -> str:
    error = f" ± {100 * row['error']:.1f}" if "error" in row else ""
    return f"{100 * row['share']:.1f}{error} %"


def figures(judged: dict, calibration: dict) -> str:
    rows = [[name, percent(row), row["n"]] for name, row in judged["figures"].items()]
    words, single, pairs = judged["wording"], calibration["single"], calibration["pairs"]
    return (
        table(["", "share", "n"], rows)
        + """
Scores are a logistic regression on four features of the captioner itself, fitted on captions of single sounds. Here
each score is of a regression that saw other origins, five folds:

"""
        + table(
            [
                "captions of",
                "right",
                "calibration error",
                "with score ≥ 0.8",
                "of these right",
                "called unknown",
                "of these right",
            ],
            [
                [
                    name,
                    *(
                        f"{100 * row['right']:.1f} %",
                        f"{row['calibration_error']:.3f}",
                        f"{100 * row['share_sure']:.1f} %",
                    ),
                ]
                + [f"{100 * row[key]:.1f} %" for key in ("right_if_sure", "share_unknown", "right_if_unknown")]
                for name, row in (("single sounds", single), ("two sounds of the bank", pairs))
            ],
        )
        + "\n*Right* here: the caption names something and nothing that is not there. "
        + f"Of {words['captions']:,} captions of these scenes {words['different captions']:,} differ, in "
        + f"{words['different words']:,} different words, {words['words a caption']} a caption; the commonest, "
        + f"“{words['commonest caption']}”, is {100 * words['its share']:.1f} %.\n"
    )


def failures(rows: list[dict], count: int = 10) -> str:
    """Wrong captions of single recordings, drawn without choosing."""
    wrong = [row for row in rows if not named(row) and origin(row) == "bank"]
    step = max(1, len(wrong) // count)
    chosen = sorted(wrong, key=lambda row: row["caption"])[::step][:count]
    return "\n## Failures\n\nNot chosen: every so many-th of the wrong captions.\n\n" + table(
        ["sound", "caption"], [[row["events"][0]["name"], row["caption"]] for row in chosen]
    )


def classes(counts: dict[str, dict], path: Path) -> str:
    """How often each class was named, the most frequent confusions first."""
    with open(path, newline="", encoding="utf-8") as file:
        found = {row["class"]: row for row in csv.DictReader(file)}
    mistaken = Counter()
    for name, row in found.items():
        for part in filter(None, row["named instead"].split("; ")):
            label, _, number = part.rpartition(" ")
            mistaken[name, label if number.isdigit() else part] += int(number) if number.isdigit() else 1
    common = [f"{a} as {b} ({n})" for (a, b), n in mistaken.most_common(12)]
    lines = [[name, row["recordings"], row["named"], row["named instead"]] for name, row in found.items()]
    others = sorted(set(counts) - set(found))
    return (
        f"\n## The sounds it knows\n\nMost frequent confusions: {', '.join(common)}.\n\n"
        + table(["sound", "unheard recordings", "named", "named instead"], lines)
        + f"\nWithout unheard recordings, so never measured: {', '.join(others)}.\n"
    )


def times(seconds: dict[str, int]) -> str:
    text = """
## Make it again

```bash
python examples/tiny/build.py --data DATA --output runs/tiny
```
"""
    if not seconds:
        return text + NOT_ONE_RUN
    slowest = ", ".join(f"{name} {round(s / 60)}" for name, s in seconds.items() if s >= 90)
    return (
        text
        + f"\nThese weights took {sum(seconds.values()) / 60:.0f} minutes on two shared cores; in minutes: {slowest}.\n"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds/, esc10/ and audiocaps/")
    parser.add_argument("--model", type=Path, default=Path("pipeline"), help="pipeline folder")
    args = parser.parse_args(argv)
    judged, calibration, counts, seconds = (
        json.loads(path.read_text()) if path.is_file() else {}
        for path in map(Path, ("judged.json", "calibration.json", "classes.json", "seconds.json"))
    )
    with open("splits.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    heard = Counter("esc10" if row["source"].startswith("esc10") else "bank" for row in rows if row["split"] == "train")
    made = [
        row for row in json.loads(Path("bank.json").read_text()) if row["source"] == "made" and row["split"] == "train"
    ]
    folds = sorted({row["source"][-1] for row in rows if row["source"].startswith("esc10") and row["split"] == "train"})
    held_out = sum(row["split"] == "validation" for row in rows)
    size = sum(path.stat().st_size for path in args.model.rglob("*.safetensors")) / 1e6
    single = load(("single",))
    card = (
        HEAD.format(classes=len(counts) - 1, megabytes=f"{size:.1f}")
        + figures(judged, calibration)
        + TRAINED_ON.format(
            bank=f"{heard['bank']:,}", esc10=heard["esc10"], made=len(made), held_out=held_out, folds=", ".join(folds)
        )
        + LIMITS
        + failures(single)
        + classes(counts, Path("by_class.csv"))
        + times(seconds)
        + f"\nMeasured on {date.today()} on two cores without a GPU (Python 3.11, torch 2.13).\n"
    )
    (args.model / "README.md").write_text(card, encoding="utf-8")
    parts = [
        args.data / "sounds" / "ATTRIBUTION.txt",
        args.data / "esc10" / "ATTRIBUTION.txt",
        args.data / "audiocaps" / "LICENSE",
    ]
    text = ATTRIBUTION + "\n\n".join(part.read_text(encoding="utf-8").strip() for part in parts) + "\n"
    (args.model / "ATTRIBUTION.txt").write_text(text, encoding="utf-8")
    print(f"card of {len(card.splitlines())} lines; {sum(map(is_right, single))} of {len(single)} single sounds right")


if __name__ == "__main__":
    main()
