"""Mixes scenes and writes the frozen network's time-resolved features of them, shard by shard; goes on where it stopped.

python stage_features.py --split train --shards 24
python stage_features.py --split validation
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from safetensors.torch import load_file
from scenes import RATE, SAMPLES, Bank, Mixer, repeat_pad
from sfx_network import FRAMES_PER_STEP, HOP, LARGEST_VALUE, LOG_SCALE, MEL_BANDS, SfxLogMel, SfxNetwork

BAND_LIMIT = 15_000.0  # Hz; the bank was stored at 32 kHz
SHARD = 400  # scenes
BATCH = 8


def loudest(samples: np.ndarray) -> float:
    """dB relative to full scale: root mean square of the loudest 186-ms step."""
    n = FRAMES_PER_STEP * HOP
    power = (samples[: len(samples) // n * n].reshape(-1, n) ** 2).mean(1).max()
    return float(10 * np.log10(power + 1e-12))


def equalized(spectrogram: torch.Tensor, rng: np.random.Generator, decibel: float = 3.0) -> torch.Tensor:
    """A spectrogram of `SfxLogMel` as if a smooth random equalizer of some dB had been before it."""
    knots = rng.normal(0, decibel, 6)
    gain = torch.from_numpy(10 ** (np.interp(np.linspace(0, 5, MEL_BANDS), np.arange(6), knots) / 10)).float()
    power = (10 ** (LARGEST_VALUE * spectrogram) - 1) / LOG_SCALE
    return torch.log10(1 + LOG_SCALE * power * gain) / LARGEST_VALUE


class Extractor:
    """Samples to features, in 16-bit floats where the processor has them (four times faster here)."""

    def __init__(self, weights: Path):
        self.front_end = SfxLogMel(BAND_LIMIT)
        self.network = SfxNetwork().eval()
        self.network.load_state_dict(load_file(weights))
        self.network = self.network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, samples: list[np.ndarray], rng: np.random.Generator | None = None) -> np.ndarray:
        """Scenes of 441,000 samples → (N, 53, 512) float16."""
        spectrogram = self.front_end(torch.from_numpy(np.stack(samples)))
        if rng is not None:
            spectrogram = torch.stack([equalized(row, rng) if rng.random() < 0.6 else row for row in spectrogram])
        with torch.autocast("cpu", torch.bfloat16):
            return self.network.frame_features(spectrogram).float().numpy().astype(np.float16)


def write_shard(path: Path, scenes, extractor: Extractor, rng: np.random.Generator | None) -> None:
    """``scenes`` yields (samples, description)."""
    features, rows, waiting = [], [], []
    for samples, row in scenes:
        rows.append({**row, "loudest_db": round(loudest(samples), 1)})
        waiting.append(samples)
        if len(waiting) == BATCH:
            features.append(extractor(waiting, rng))
            waiting = []
    if waiting:
        features.append(extractor(waiting, rng))
    with open(path.with_suffix(".jsonl"), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, np.concatenate(features))
    temporary.rename(path)


def read_raw(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    samples = samples if samples.ndim == 1 else samples.mean(1)
    return soxr.resample(samples, rate, RATE)[:SAMPLES]


def single_scenes(rows: list[dict], data: Path, bank: Bank, padded: bool):
    """Each recording as a user would submit it: repeat-padded, or once with silence after it."""
    for row in rows:
        samples = bank.read(row) if row["source"] == "made" else read_raw(data / row["file"])
        if padded:
            samples = repeat_pad(samples)
        else:
            samples = np.pad(samples, (0, SAMPLES - len(samples)))
        yield samples, {"layout": "single", "events": [{key: row[key] for key in ("name", "fine", "file")}],
                        "source": row["source"]}  # fmt: skip


def esc10_pairs(data: Path, fold: str, relation: str, n: int, seed: int = 7):
    """As examples/tiny/scenes.py's judged_scenes mixes them."""
    from vocabulary import ESC10

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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../../shared/data"))
    parser.add_argument("--bank", type=Path, default=Path("work"))
    parser.add_argument("--weights", type=Path, default=Path("sfx_network.safetensors"))
    parser.add_argument("--split", choices=("train", "validation", "all"), default="train")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("scenes"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    extractor = Extractor(args.weights)
    jobs: list[tuple[str, object]] = []
    if args.split == "validation":
        bank = Bank(args.bank, {"validation"})
        rows = [row for row in bank.rows if not row["source"].startswith("gm-")]
        mixer = Mixer(bank, augment=False)

        def pairs(layout: str, seed: int, count: int = 400):
            rng = np.random.default_rng(seed)
            return (mixer.draw(rng, layout) for _ in range(count))

        jobs = [
            ("validation-single", single_scenes(rows, args.data, bank, padded=True)),
            ("validation-esc10-overlap", esc10_pairs(args.data, "4", "overlap", 300)),
            ("validation-esc10-sequence", esc10_pairs(args.data, "4", "sequence", 300)),
            ("validation-once", single_scenes(rows, args.data, bank, padded=False)),
            ("validation-overlap", pairs("overlap", 1)),
            ("validation-sequence", pairs("sequence", 2)),
            ("validation-silence", pairs("silence", 3, 60)),
            ("validation-mixed", (Mixer(bank).draw(rng) for rng in [np.random.default_rng(4)] for _ in range(500))),
        ]
        rng = None
        for name, scenes in jobs:
            if not (args.output / f"{name}.npy").is_file():
                started = time.perf_counter()
                write_shard(args.output / f"{name}.npy", scenes, extractor, None)
                print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        return
    bank = Bank(args.bank, {"train", "validation"} if args.split == "all" else {"train"})
    mixer = Mixer(bank)
    for k in range(args.shards):
        path = args.output / f"{args.split}-{k:03d}.npy"
        if path.is_file():
            continue
        started = time.perf_counter()
        rng = np.random.default_rng([2026, k])
        write_shard(path, (mixer.draw(rng) for _ in range(SHARD)), extractor, rng)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
