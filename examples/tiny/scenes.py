"""Mixes ten-second scenes of the bank's recordings as waveforms, with what is heard in them and when."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr
from scipy.signal import fftconvolve, lfilter

RATE = 44_100  # Hz
SECONDS = 10
SAMPLES = SECONDS * RATE
LAYOUTS = {"single": 0.46, "overlap": 0.29, "sequence": 0.16, "three": 0.07, "silence": 0.02}
SPEEDS = (0.86, 0.92, 1.0, 1.0, 1.0, 1.08, 1.16)


class Bank:
    """The recordings of one split, drawn by class (the square root of its origins), origin, then recording."""

    def __init__(self, splits: set[str], exponent: float = 0.5):
        self.samples = np.memmap("bank.i16", np.int16, "r")
        self.rows = [row for row in json.loads(Path("bank.json").read_text()) if row["split"] in splits]
        self.tree: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            self.tree[row["name"]][row["group"]].append(row)
        self.names = sorted(self.tree)
        weight = np.array([sum(0.25 if row_made(group) else 1.0 for group in self.tree[name]) for name in self.names])
        weight = np.maximum(weight, 1.0) ** exponent
        self.probability = weight / weight.sum()

    def read(self, row: dict) -> np.ndarray:
        """(n,) float32, peak 0.9."""
        return self.samples[row["start"] : row["start"] + row["length"]].astype(np.float32) / 32768

    def draw(self, rng: np.random.Generator, name: str | None = None, but: set[str] = frozenset()) -> dict:
        while name is None or name in but:
            name = self.names[rng.choice(len(self.names), p=self.probability)]
        groups = list(self.tree[name])
        weight = np.array([0.25 if row_made(group) else 1.0 for group in groups])
        rows = self.tree[name][groups[rng.choice(len(groups), p=weight / weight.sum())]]
        return rows[rng.integers(len(rows))]


def row_made(group: str) -> bool:
    return group.startswith("made:")


def repeat_pad(samples: np.ndarray, length: int = SAMPLES) -> np.ndarray:
    """As the package pads a short recording: whole copies one after the other, then zeros."""
    out = np.zeros(length, np.float32)
    samples = samples[:length]
    copies = length // len(samples)
    out[: copies * len(samples)] = np.tile(samples, copies)
    return out


def faded(samples: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    n = min(len(samples) // 2, int(seconds * RATE))
    samples = samples.copy()
    if n:
        ramp = np.linspace(0, 1, n, dtype=np.float32)
        samples[:n] *= ramp
        samples[-n:] *= ramp[::-1]
    return samples


def loudness(samples: np.ndarray) -> float:
    """Root mean square of the loudest half of 50-ms pieces: that of the sound, not of its pauses."""
    n = 2205
    if len(samples) < n:
        return float(np.sqrt((samples**2).mean()) + 1e-9)
    pieces = np.sort((samples[: len(samples) // n * n].reshape(-1, n) ** 2).mean(1))
    return float(np.sqrt(pieces[len(pieces) // 2 :].mean()) + 1e-9)


class Mixer:
    """Random scenes.

    Args:
        augment: False leaves speed, noise, distance and distortion out.
    """

    def __init__(self, bank: Bank, augment: bool = True):
        self.bank, self.augment = bank, augment

    def recording(self, row: dict, rng: np.random.Generator) -> np.ndarray:
        samples = self.bank.read(row)
        if self.augment:
            speed = SPEEDS[rng.integers(len(SPEEDS))]
            if speed != 1.0:
                samples = soxr.resample(samples, RATE * speed, RATE, quality="LQ")
            if len(samples) > 3 * RATE and rng.random() < 0.5:  # a crop
                length = int(len(samples) * rng.uniform(0.3, 0.9))
                first = int(rng.integers(len(samples) - length + 1))
                samples = samples[first : first + length]
            if rng.random() < 0.15:  # a room
                n = int(rng.uniform(0.1, 0.7) * RATE)
                impulse = rng.standard_normal(n).astype(np.float32) * np.exp(-6 * np.arange(n, dtype=np.float32) / n)
                tail = fftconvolve(samples, impulse / np.sqrt((impulse**2).sum()))[: len(samples) + n // 2]
                tail[: len(samples)] += samples * rng.uniform(0.5, 3)
                samples = tail.astype(np.float32)
        return samples

    def _fill(self, row: dict, length: int, how: str, rng: np.random.Generator) -> tuple[np.ndarray, float, float, int]:
        """One event in ``length`` samples: (samples, start and end of it in seconds, bouts)."""
        samples = self.recording(row, rng)
        out = np.zeros(length, np.float32)
        if how == "repeat":
            return repeat_pad(samples, length), 0.0, length / RATE, 1
        if how == "once":  # with silence before and after
            samples = faded(samples[:length], 0.003)
            first = int(rng.integers(length - len(samples) + 1))
            out[first : first + len(samples)] = samples
            return out, first / RATE, (first + len(samples)) / RATE, 1
        if how == "bouts":
            bouts, at, ends, begun = 0, rng.uniform(0, 0.1) * length, 0, None
            wanted, gap = int(rng.integers(2, 9)), rng.uniform(0.05, 1.5)
            others = self.bank.tree[row["name"]][row["group"]]
            while bouts < wanted and at < length - 0.1 * RATE:
                bout = faded(samples[: int(rng.uniform(0.8, 3.0) * RATE)], 0.003)[: length - int(at)]
                out[int(at) : int(at) + len(bout)] += bout * rng.uniform(0.7, 1)
                begun = at / RATE if begun is None else begun
                ends, bouts = (at + len(bout)) / RATE, bouts + 1
                at += len(bout) + gap * rng.uniform(0.6, 1.4) * RATE
                if rng.random() < 0.5:
                    samples = self.recording(others[rng.integers(len(others))], rng)
            return out, begun, ends, bouts
        # looped: as long as needed, from a random place
        looped = np.tile(faded(samples, 0.02), length // len(samples) + 2)
        first = int(rng.integers(len(samples)))
        return looped[first : first + length], 0.0, length / RATE, 1

    def _how(self, row: dict, length: int, alone: bool, rng: np.random.Generator) -> str:
        seconds = row["length"] / RATE
        ways = ["repeat", "once", "bouts", "looped"]
        if seconds > 4:
            weight = [0.45, 0.25, 0.0, 0.3]
        elif seconds > 1:
            weight = [0.3, 0.25, 0.3, 0.15]
        else:
            weight = [0.3, 0.25, 0.4, 0.05]
        return str(rng.choice(ways, p=weight))

    def draw(self, rng: np.random.Generator, layout: str | None = None) -> tuple[np.ndarray, dict]:
        """A scene, (441000,) float32, and its layout and events: class, recording, times and level of each."""
        layout = layout or str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
        if layout == "silence":
            return silence(rng), {"layout": "silence", "events": [], "peak_db": None}
        count = {"single": 1, "overlap": 2, "sequence": 2, "three": 3}[layout]
        ordered = layout == "sequence" or (layout == "three" and rng.random() < 0.5)
        out, events, names = np.zeros(SAMPLES, np.float32), [], set()
        bounds = np.linspace(0, SAMPLES, count + 1)
        if ordered:
            bounds[1:-1] += rng.uniform(-1.5, 1.5, count - 1) * RATE
        for k in range(count):
            row = self.bank.draw(rng, but=names)
            names.add(row["name"])
            first, last = (int(bounds[k]), int(bounds[k + 1])) if ordered else (0, SAMPLES)
            samples, start, end, bouts = self._fill(
                row, last - first, self._how(row, last - first, count == 1, rng), rng
            )
            distant = bool(self.augment and rng.random() < 0.12)
            if distant:
                samples = lfilter([0.25], [1, -0.75], samples).astype(np.float32)
            level = rng.uniform(-11, -4) if distant else rng.uniform(-5, 5)
            if count > 1 or rng.random() < 0.5:
                samples = samples * np.float32(10 ** (level / 20) * 0.1 / loudness(samples))
            out[first:last] += samples
            events.append(
                {
                    "name": row["name"],
                    "fine": row["fine"],
                    "file": row["file"],
                    "start": round(start + first / RATE, 2),
                    "end": round(end + first / RATE, 2),
                    "level": round(float(level), 1),
                    "bouts": bouts,
                    "distant": distant,
                }
            )
        out /= np.abs(out).max() + 1e-9
        if self.augment:
            out = distort(out, rng)
        if not ordered:
            events.sort(key=lambda event: event["start"])
            # Sounds with a silence between them follow one another after all.
            ordered = count > 1 and all(a["end"] < b["start"] for a, b in pairwise(events))
        return out, {"layout": "single" if count == 1 else "sequence" if ordered else "overlap", "events": events}


def noise(rng: np.random.Generator, length: int = SAMPLES) -> np.ndarray:
    """Noise of unit deviation, between white and brown."""
    white = rng.standard_normal(length).astype(np.float32)
    pole = rng.choice([0.0, 0.5, 0.9, 0.98])
    out = lfilter([1], [1, -pole], white).astype(np.float32)
    return out / out.std()


def silence(rng: np.random.Generator) -> np.ndarray:
    """Nothing to hear: zeros, rounding noise, or a faint hiss or hum. Not normalized."""
    kind = rng.integers(4)
    if kind == 0:
        return np.zeros(SAMPLES, np.float32)
    if kind == 1:
        return (rng.integers(-1, 2, SAMPLES) / 32768).astype(np.float32)
    level = 10 ** (rng.uniform(-95, -62) / 20)
    if kind == 2:
        return noise(rng) * np.float32(level)
    hum = np.sin(2 * np.pi * rng.choice([50, 60, 100, 120]) * np.arange(SAMPLES) / RATE).astype(np.float32)
    return (hum + 0.3 * noise(rng)) * np.float32(level)


def distort(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What microphones and telephones do: noise, clipping, 8-kHz sampling. Peak 1 in, peak about 1 out."""
    if rng.random() < 0.35:
        samples = samples + noise(rng) * np.float32(10 ** (rng.uniform(-80, -38) / 20))
    if rng.random() < 0.08:  # a noisy place
        samples = samples + noise(rng) * np.float32(loudness(samples) * 10 ** (rng.uniform(-22, -8) / 20))
    if rng.random() < 0.06:
        samples = np.clip(samples, -(c := rng.uniform(0.15, 0.6)), c)
    if rng.random() < 0.08:
        narrow = float(rng.choice([8_000, 11_025, 16_000]))
        low = soxr.resample(samples, RATE, narrow, quality="LQ")
        samples = soxr.resample(low, narrow, RATE, quality="LQ")[:SAMPLES]
        samples = np.pad(samples, (0, SAMPLES - len(samples)))
    return samples.astype(np.float32)
