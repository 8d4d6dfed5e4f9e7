"""Features of short clips: every recording in several augmented versions, and pairs of them mixed as waveforms.

    python stage_clips.py --split train --versions 4 --overlaps 6000

A clip is as long as its sound (at most 5 s, pairs 3 s), a third of the work of a ten-second scene: sounds that follow
one another can be put together of them later, as the network sees only 1.6 s. Goes on where it stopped.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scenes import RATE, Bank, Mixer, _faded, _loudness, distort
from scipy.signal import lfilter
from stage_features import Extractor

STEP = 8192  # samples
LONGEST, PAIR_SECONDS = 5.0, 3.3
BATCH = 16


def single_clip(mixer: Mixer, row: dict, version: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Version 0 is the recording itself, a crop where it is long; the others are augmented."""
    samples = mixer._recording(row, rng) if version else mixer.bank.read(row)
    longest = int(LONGEST * RATE)
    if len(samples) > longest:
        first = int(rng.integers(len(samples) - longest + 1))
        samples = samples[first : first + longest]
    if len(samples) < 3 * RATE and rng.random() < 0.5:  # again, with or without a pause
        gap = int(rng.uniform(0, 0.6) * RATE) if rng.random() < 0.6 else 0
        copies = int(min(8, 1 + longest // (len(samples) + gap)))
        copies = int(rng.integers(1, copies + 1))
        samples = np.tile(np.pad(samples, (0, gap)), copies)[:longest]
    if rng.random() < 0.4:
        samples = np.pad(samples, (int(rng.uniform(0, 0.8) * RATE), int(rng.uniform(0, 0.8) * RATE)))
    samples = _faded(samples, 0.003)
    distant = bool(version and rng.random() < 0.12)
    if distant:
        samples = lfilter([0.25], [1, -0.75], samples).astype(np.float32)
    samples = samples / (np.abs(samples).max() + 1e-9)
    if version:
        samples = distort_any(samples, rng)
    return samples, {"events": [{"name": row["name"], "fine": row["fine"], "file": row["file"], "distant": distant}]}


def distort_any(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`scenes.distort` for any length."""
    length = len(samples)
    out = distort(np.pad(samples, (0, max(0, 441_000 - length))), rng)[:length]
    return out / (np.abs(out).max() + 1e-9)


def pair_clip(mixer: Mixer, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Two sounds at once, each heard for most of the clip."""
    length, names, out, events = int(PAIR_SECONDS * RATE), set(), 0.0, []
    for _ in range(2):
        row = mixer.bank.draw(rng, but=names)
        names.add(row["name"])
        samples = mixer._recording(row, rng)
        if len(samples) < length:
            gap = int(rng.uniform(0, 0.5) * RATE) if rng.random() < 0.5 else 0
            once = np.pad(_faded(samples, 0.003), (0, gap))
            samples = np.tile(once, length // len(once) + 2)
        first = int(rng.integers(len(samples) - length + 1))
        samples = samples[first : first + length]
        level = rng.uniform(-4, 4)
        out = out + samples * np.float32(10 ** (level / 20) * 0.1 / _loudness(samples))
        events.append({"name": row["name"], "fine": row["fine"], "file": row["file"], "level": round(level, 1)})
    out = out / (np.abs(out).max() + 1e-9)
    return distort_any(out, rng), {"events": events}


def write(path: Path, clips, extractor: Extractor, rng: np.random.Generator) -> None:
    clips = sorted(clips, key=lambda clip: len(clip[0]))
    features, rows = [], []
    for first in range(0, len(clips), BATCH):
        part = clips[first : first + BATCH]
        length = -(-max(len(samples) for samples, _ in part) // STEP) * STEP
        some = extractor([np.pad(samples, (0, length - len(samples))) for samples, _ in part], rng)
        for block, (samples, row) in zip(some, part, strict=True):
            steps = min(len(block), max(1, -(-len(samples) // STEP)))
            rows.append({**row, "steps": steps})
            features.append(block[:steps])
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, np.concatenate(features))
    temporary.rename(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, default=Path("work"))
    parser.add_argument("--weights", type=Path, default=Path("sfx_network.safetensors"))
    parser.add_argument("--split", choices=("train", "validation"), default="train")
    parser.add_argument("--versions", type=int, default=4)
    parser.add_argument("--overlaps", type=int, default=6000)
    parser.add_argument("--output", type=Path, default=Path("clips"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    extractor = Extractor(args.weights)
    bank = Bank(args.bank, {args.split})
    mixer = Mixer(bank)
    part = 600
    jobs = []
    for version in range(args.versions):
        for k in range(0, len(bank.rows), part):
            jobs.append((f"{args.split}-v{version}-{k // part:02d}", "single", version, bank.rows[k : k + part]))
    for k in range(args.overlaps // part):
        jobs.append((f"{args.split}-pairs-{k:02d}", "pair", None, None))
    jobs.sort(key=lambda job: (job[2] or 0) if job[1] == "single" else 0.5)  # pairs come after the first version
    for number, (name, kind, version, rows) in enumerate(jobs):
        path = args.output / f"{name}.npy"
        if path.is_file():
            continue
        started, rng = time.perf_counter(), np.random.default_rng([11, number, len(name)])
        if kind == "single":
            clips = [single_clip(mixer, row, version, rng) for row in rows]
        else:
            clips = [pair_clip(mixer, rng) for _ in range(part)]
        write(path, clips, extractor, rng)
        print(f"{name}: {time.perf_counter() - started:.0f} s, {time.process_time():.0f} s of work so far", flush=True)


if __name__ == "__main__":
    main()
