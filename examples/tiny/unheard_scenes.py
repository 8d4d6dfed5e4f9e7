"""Scenes of unheard origins, which everything is judged on: waveforms, and the network's features of them."""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from scenes import RATE, SAMPLES, Bank, Mixer, repeat_pad
from sfx_features import Extractor, write_shard
from vocabulary import ESC10, JUDGED_FOLD

FOLDER = Path("unheard")
ESC10_SCENES, BANK_SCENES, SILENT_SCENES = 300, 400, 60
Scenes = Iterator[tuple[np.ndarray, dict]]  # (441000,) float32 at 44.1 kHz, and what is in it


def read_raw(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    samples = samples if samples.ndim == 1 else samples.mean(1)
    return soxr.resample(samples, rate, RATE)[:SAMPLES]


def single_scenes(rows: list[dict], data: Path, bank: Bank, padded: bool):
    """Each recording as a user would submit it: repeat-padded, or once with silence after it."""
    for row in rows:
        samples = bank.read(row) if row["source"] == "made" else read_raw(data / row["file"])
        samples = repeat_pad(samples) if padded else np.pad(samples, (0, SAMPLES - len(samples)))
        event = {key: row[key] for key in ("name", "fine", "file", "group")}
        yield samples, {"layout": "single", "events": [event], "source": row["source"]}


def esc10_pairs(data: Path, fold: str, relation: str, n: int, seed: int = 7):
    """Recordings of two classes of a fold, mixed with about equal energy or one after the other."""
    recordings: dict[str, list[tuple[str, np.ndarray]]] = {}
    with open(data / "esc10" / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["fold"] == fold:
                samples = read_raw(data / "esc10" / row["file_name"])
                recordings.setdefault(row["label"], []).append((row["file_name"], samples))
    rng, labels = np.random.default_rng(seed), sorted(recordings)
    for _ in range(n):
        pair = [str(label) for label in rng.choice(labels, 2, replace=False)]
        drawn = [recordings[label][rng.integers(len(recordings[label]))] for label in pair]
        first, second = (samples for _, samples in drawn)
        if relation == "sequence":
            mixed = np.concatenate([first, second])
        else:
            length = min(len(first), len(second))
            first, second = first[:length], second[:length]
            balance = np.sqrt((first**2).mean() / max(1e-12, (second**2).mean())) * 10 ** (rng.uniform(-3, 3) / 20)
            mixed = first + second * np.float32(balance)
        mixed = mixed / max(1.0, float(np.abs(mixed).max()))
        events = [
            {"name": ESC10[label], "fine": label, "file": name} for label, (name, _) in zip(pair, drawn, strict=True)
        ]
        yield repeat_pad(mixed.astype(np.float32)), {"layout": relation, "events": events, "source": "esc10"}


def unheard_scenes(data: Path) -> dict[str, Scenes]:
    """Name → scenes, made anew when they are iterated over; always the same ones."""
    bank = Bank({"validation"})
    rows = [row for row in bank.rows if not row["source"].startswith("gm-")]  # a rendered phrase proves little
    mixer = Mixer(bank, augment=False)

    def mixed(layout: str, seed: int, count: int) -> Scenes:
        rng = np.random.default_rng(seed)
        return (mixer.draw(rng, layout) for _ in range(count))

    return {
        "single": single_scenes(rows, data, bank, padded=True),
        "esc10-overlap": esc10_pairs(data, JUDGED_FOLD, "overlap", ESC10_SCENES),
        "esc10-sequence": esc10_pairs(data, JUDGED_FOLD, "sequence", ESC10_SCENES),
        "once": single_scenes(rows, data, bank, padded=False),
        "overlap": mixed("overlap", 1, BANK_SCENES),
        "sequence": mixed("sequence", 2, BANK_SCENES),
        "silence": mixed("silence", 3, SILENT_SCENES),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds/ and esc10/")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    extractor = Extractor()
    for name, scenes in unheard_scenes(args.data).items():
        if not (FOLDER / f"{name}.npy").is_file():
            write_shard(FOLDER / f"{name}.npy", scenes, extractor, None)
            print(name, flush=True)


if __name__ == "__main__":
    main()
