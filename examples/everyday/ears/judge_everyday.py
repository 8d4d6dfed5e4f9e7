"""Judges the whole encoder, as it ships, on unheard origins: by class, by kind, under stress; writes figures and by_class.csv.

python judge_everyday.py --model everyday --output everyday_judged
"""

import argparse
import csv
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from everyday_clap import WINDOW_SAMPLES, EverydayClapEncoder
from named import named_matrix

RATE = 48_000
MUSIC_MADE = ("classical music", "rock music", "jazz music", "folk music", "electronic music", "brass band")
INSTRUMENTS = """accordion|acoustic guitar|agogo|angklung|bagpipes|banjo|bass guitar|bassoon|bongo conga|celesta|cello|church organ|
clarinet|claves|cymbal crash|didgeridoo|distorted guitar|double bass|drum loop|electric guitar|electric organ|electric piano|flute|
french horn|glockenspiel|gong|guiro|hammered dulcimer|harmonica|harp|harpsichord|hi hat|jaw harp|kalimba|khaen mouth organ|kick drum|
koto|maracas shaker|marimba|music box|oboe|ocarina|pan flute|piano|pizzicato strings|rainstick|recorder|ride cymbal|saxophone|
shakuhachi|shamisen|sitar|snare drum|steel drum|string section|synth bass|synth lead|synth pad|tabla|taiko drum|tambourine|theremin|
timbales|timpani|tom drum|triangle|trombone|trumpet|tuba|tubular bells|vibraphone|viola|violin|woodblock|xylophone"""
MUSIC = {*MUSIC_MADE, *INSTRUMENTS.replace("\n", "").split("|"), "singing"}


def window(samples: np.ndarray) -> np.ndarray:
    """A recording at 48 kHz as the package pads it."""
    samples = samples[:WINDOW_SAMPLES]
    out = np.zeros(WINDOW_SAMPLES, np.float32)
    copies = WINDOW_SAMPLES // len(samples)
    out[: copies * len(samples)] = np.tile(samples, copies)
    return out


def stressed(samples: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """A window, worse."""
    if how == "telephone (8 kHz)":
        low = soxr.resample(samples, RATE, 8000)
        return window(soxr.resample(low, 8000, RATE).astype(np.float32))
    if how == "clipped (a tenth of the peak)":
        limit = np.abs(samples).max() / 10
        return np.clip(samples, -limit, limit)
    if how == "noise (10 dB below)":
        return samples + (rng.standard_normal(len(samples)) * samples.std() * 10**-0.5).astype(np.float32)
    if how == "very quiet (peak -50 dB, 16 bits)":
        quiet = samples / (np.abs(samples).max() + 1e-9) * 10**-2.5
        return (np.round(quiet * 32768) / 32768).astype(np.float32)
    if how == "after 7 s of silence":
        return np.concatenate([np.zeros(7 * RATE, np.float32), samples[: 3 * RATE]])
    return samples


def line(right: np.ndarray) -> dict[str, float]:
    share = float(np.mean(right))
    return {"share": round(share, 4), "se": round((share * (1 - share) / len(right)) ** 0.5, 4), "n": len(right)}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(sum(abs(confidence[place == b].sum() - right[place == b].sum()) for b in range(bins)) / len(right))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("everyday"))
    parser.add_argument("--data", type=Path, default=Path("../../shared/data"))
    parser.add_argument("--pen", type=Path, default=Path("../pen"))
    parser.add_argument("--stress", type=int, default=150, help="recordings under each stress")
    parser.add_argument("--output", type=Path, default=Path("everyday_judged"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.output.mkdir(exist_ok=True)
    encoder = EverydayClapEncoder.from_pretrained(args.model)
    tags, rng = encoder.tags, np.random.default_rng(0)
    index = {name: k for k, name in enumerate(tags)}
    named = named_matrix(args.pen, tags)
    with open("splits.csv", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["split"] == "validation" and not row["source"].startswith("gm-")
        ]
    windows, started = [], time.perf_counter()
    for row in rows:
        samples, rate = soundfile.read(args.data / row["file"], dtype="float32")
        samples = samples if samples.ndim == 1 else samples.mean(1)
        windows.append(window(soxr.resample(samples, rate, RATE).astype(np.float32)))
    heard = [encoder.hear(torch.from_numpy(one)[None]) for one in windows]
    print(f"{len(rows)} recordings in {time.perf_counter() - started:.0f} s", flush=True)
    scores = torch.cat([one["scores"] for one in heard]).numpy()
    # What the embedding says: the nearest codes of classes.
    events = torch.nn.functional.normalize(torch.cat([one["embeds"] for one in heard])[:, 384:480], dim=-1)
    by_code = (events @ encoder.model.space.codes.T).argmax(1).numpy()
    truth = np.array([index[row["name"]] for row in rows])
    esc = np.array([row["source"].startswith("esc10") for row in rows])
    ranked = (-scores).argsort(1)
    right, top5 = ranked[:, 0] == truth, (ranked[:, :5] == truth[:, None]).any(1)
    speech = np.array([row["name"].startswith("speech") for row in rows])
    made = np.array([row["name"] in MUSIC_MADE for row in rows])
    music = np.array([row["name"] in MUSIC for row in rows])
    guess = [tags[k] for k in ranked[:, 0]]
    as_speech = np.array([name.startswith("speech") for name in guess])
    as_music = np.array([name in MUSIC for name in guess])
    result = {
        "bank, first tag right": line(right[~esc]), "bank, among five": line(top5[~esc]),
        "bank, named by words": line(named[ranked[:, 0], truth][~esc] >= 0.5),
        "bank, by the embedding": line((by_code == truth)[~esc]),
        "ESC-10 fold 4, first tag right": line(right[esc]), "ESC-10 fold 4, by the embedding": line((by_code == truth)[esc]),
        "speech as speech": line(as_speech[speech]), "music and instruments as such": line(as_music[music]),
        "others taken for speech": line(as_speech[~speech & ~esc]),
        "bank, mean over classes": {"share": round(float(np.mean([right[truth == k].mean() for k in set(truth[~esc])])), 4),
                                    "n": len(set(truth[~esc]))},
        "calibration error of the first tag's score": {"share": round(calibration_error(scores.max(1), right), 4), "n": len(right)},
    }  # fmt: skip
    if made.any():
        result["music (ensembles) as music"] = line(as_music[made])
    pick = rng.permutation(len(rows))[: args.stress]
    result["stress: none"] = line(right[pick])
    for how in (
        "telephone (8 kHz)",
        "clipped (a tenth of the peak)",
        "noise (10 dB below)",
        "very quiet (peak -50 dB, 16 bits)",
        "after 7 s of silence",
    ):
        worse = [
            encoder.tag_scores(torch.from_numpy(stressed(windows[k], how, rng).astype(np.float32))[None])[0]
            for k in pick
        ]
        result[f"stress: {how}"] = line(torch.stack(worse).argmax(1).numpy() == truth[pick])
        print(how, result[f"stress: {how}"], flush=True)
    (args.output / "figures.json").write_text(json.dumps(result, indent=1) + "\n")
    table = defaultdict(list)
    for k, row in enumerate(rows):
        table[row["name"]].append((bool(right[k]), bool(top5[k]), guess[k]))
    with open(args.output / "by_class.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "recordings", "first", "among five", "mistaken for"])
        for name, own in sorted(table.items()):
            wrong = [taken for good, _, taken in own if not good]
            writer.writerow(
                [
                    name,
                    len(own),
                    sum(good for good, _, _ in own),
                    sum(five for _, five, _ in own),
                    "; ".join(sorted(set(wrong))),
                ]
            )
    for key, row in result.items():
        print(f"{key:45} {row['share']:.3f} ± {row.get('se', 0):.3f} (n {row['n']})")


if __name__ == "__main__":
    main()
