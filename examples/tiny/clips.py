"""Features of short clips: every training recording in several versions, and pairs of them mixed as waveforms.

A clip is as long as its sound (at most 5 s, pairs 3 s), a third of the work of a ten-second scene. Sounds that follow
one another are put together of them later, as the network sees only 1.6 s.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from scenes import RATE, Bank, Mixer, distort, faded, loudness
from scipy.signal import lfilter
from sfx_features import Extractor

STEP = 8192  # samples
LONGEST, PAIR_SECONDS = 5.0, 3.3
BATCH = 16
PART = 600  # clips in a file
FOLDER = Path("clips")


def single_clip(mixer: Mixer, row: dict, version: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Version 0 is the recording itself, a crop where it is long; the others are augmented."""
    samples = mixer.recording(row, rng) if version else mixer.bank.read(row)
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
    samples = faded(samples, 0.003)
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
        samples = mixer.recording(row, rng)
        if len(samples) < length:
            gap = int(rng.uniform(0, 0.5) * RATE) if rng.random() < 0.5 else 0
            once = np.pad(faded(samples, 0.003), (0, gap))
            samples = np.tile(once, length // len(once) + 2)
        first = int(rng.integers(len(samples) - length + 1))
        samples = samples[first : first + length]
        level = rng.uniform(-4, 4)
        out = out + samples * np.float32(10 ** (level / 20) * 0.1 / loudness(samples))
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
    parser.add_argument("--versions", type=int, default=4, help="of every recording; the first is not augmented")
    parser.add_argument("--pairs", type=int, default=12_000)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    extractor, bank = Extractor(), Bank({"train"})
    mixer = Mixer(bank)
    starts = range(0, len(bank.rows), PART)
    jobs = [
        (f"v{version}-{k // PART:02d}", bank.rows[k : k + PART], version)
        for version in range(args.versions)
        for k in starts
    ]
    jobs += [(f"pairs-{k:02d}", None, 0) for k in range(-(-args.pairs // PART))]
    for number, (name, rows, version) in enumerate(jobs):
        path = FOLDER / f"{name}.npy"
        if path.is_file():
            continue
        rng = np.random.default_rng([11, number])
        if rows is None:
            clips = [pair_clip(mixer, rng) for _ in range(PART)]
        else:
            clips = [single_clip(mixer, row, version, rng) for row in rows]
        write(path, clips, extractor, rng)
        print(f"{name}: {len(clips)} clips", flush=True)


if __name__ == "__main__":
    main()
