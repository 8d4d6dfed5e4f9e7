"""Ten-second scenes mixed from recordings and synthesized sounds, as mel power (training) or samples (judging)."""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from captions import Relation, SceneEvent
from events import EVENTS, LABELS
from synthesis import SYNTHESIZERS, synthesize
from tqdm import tqdm

from diffusion_link_hf.audio import SAMPLING_RATE, WINDOW_SAMPLES, load_audio, split_windows
from diffusion_link_hf.models.log_mel import ClapLogMel

FRAMES = 1001
SPEEDS = (0.84, 0.89, 0.945, 1.0, 1.06, 1.12, 1.19)
EXAMPLES_PER_CLASS = 24  # synthesized examples of each class; a recorded class has 24 recordings in three folds
EVENT_COUNTS = {1: 0.45, 2: 0.45, 3: 0.10}
TYPICAL_LEVEL = -8.0  # dB, mean mel power of the recordings
SHARE_OVERLAPPED = 0.6  # of scenes of several events; they are the harder ones
SHARE_RECORDED = 0.78  # of events; the recorded classes are harder, because they are real


@dataclass
class Recordings:
    """Samples at 48 kHz by class: ``by_label[label]`` is a list of (n,) float32 arrays."""

    by_label: dict[str, list[np.ndarray]]
    names: dict[str, list[str]] = field(default_factory=dict)


def load_recordings(folder: Path, folds: set[int]) -> Recordings:
    """Recordings of ``folder/index.csv`` (file_name, label, fold) in the given folds."""
    by_label: dict[str, list[np.ndarray]] = {}
    names: dict[str, list[str]] = {}
    with open(folder / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["label"] not in EVENTS:
                raise ValueError(
                    f"{folder / 'index.csv'}: unknown label {row['label']!r}; known are {', '.join(EVENTS)}"
                )
            if int(row["fold"]) in folds:
                by_label.setdefault(row["label"], []).append(load_audio(folder / row["file_name"]))
                names.setdefault(row["label"], []).append(row["file_name"])
    return Recordings(by_label, names)


def synthesized(seed: int, per_class: int = EXAMPLES_PER_CLASS) -> Recordings:
    """``per_class`` examples of every synthesized class."""
    rng = np.random.default_rng(seed)
    return Recordings({label: [synthesize(label, rng) for _ in range(per_class)] for label in SYNTHESIZERS})


def _looped_power(front_end: ClapLogMel, samples: np.ndarray) -> np.ndarray:
    """(n // hop, 64) mel power of endlessly repeated ``samples``: tiling it gives the click where two copies meet.

    A recording shorter than a window is repeat-padded when it is captioned. A click that training never had is taken
    for an event: captions said "… and then a person sneezes".
    """
    frames, margin = len(samples) // front_end.hop_length, 3  # 3 hops > half an FFT window
    period = samples[: frames * front_end.hop_length]
    looped = np.pad(period, margin * front_end.hop_length, mode="wrap")
    return front_end.mel_power(torch.from_numpy(looped)[None])[0, margin : margin + frames].numpy()


class MelBank:
    """Mel power of every recording at every speed, computed once, so that a scene is a few additions.

    Powers of unrelated sounds add (their cross terms average out over a mel band), which is why mixing may be done
    after the filter bank: 32 scenes in tens of milliseconds instead of seconds.
    """

    def __init__(self, recordings: Recordings, speeds=SPEEDS, front_end: ClapLogMel | None = None):
        import soxr

        front_end = front_end or ClapLogMel()
        self.labels = sorted(recordings.by_label)
        self.items: dict[str, list[list[np.ndarray]]] = {}
        for label in tqdm(self.labels, desc="mel bank", unit="class"):
            self.items[label] = []
            for samples in recordings.by_label[label]:
                versions = []
                for speed in speeds:
                    at_speed = soxr.resample(samples, SAMPLING_RATE * speed, SAMPLING_RATE) if speed != 1 else samples
                    power = _looped_power(front_end, at_speed)
                    # Equal energy for all, or a quiet recording would be labeled where nobody can hear it.
                    versions.append(power / max(1e-9, float(power.mean())))
                self.items[label].append(versions)

    def draw(self, label: str, rng: np.random.Generator) -> np.ndarray:
        """Mel power (T, 64), mean 1, of a random recording of ``label`` at a random speed."""
        versions = self.items[label][rng.integers(len(self.items[label]))]
        return versions[rng.integers(len(versions))]


@dataclass(frozen=True)
class Scene:
    """What is in a scene, for its captions and tags. Events are in the order of their first sound."""

    events: tuple[SceneEvent, ...]
    relation: Relation

    @property
    def tags(self) -> np.ndarray:
        """(len(LABELS),) float32, 1 where the class occurs."""
        present = {event.label for event in self.events}
        return np.array([label in present for label in LABELS], dtype=np.float32)

    @property
    def meaning(self) -> tuple:
        """Scenes with equal meaning may exchange captions: what, in which order if it matters, and how it is heard."""
        events = self.events if self.relation == "sequence" else sorted(self.events, key=repr)
        return (self.relation, *events)


def _equalizer(rng: np.random.Generator, decibel: float = 2.0) -> np.ndarray:
    """(64,) power gains: a smooth random curve over the mel bands."""
    knots = rng.normal(0, decibel, 6)
    return 10 ** (np.interp(np.linspace(0, 5, 64), np.arange(6), knots) / 10)


_DISTANCE = 10 ** (-np.linspace(2, 18, 64) / 10)  # far sounds lose their treble
# dB between events of equal energy
_GAIN = {"loud": (4, 8), "normal": (-4, 4), "faint": (-11, -6), "distant": (-10, -4)}


def _warped(mel: np.ndarray, rng: np.random.Generator, bands: float = 1.5, stretch: float = 0.1) -> np.ndarray:
    """(T, 64) power moved by up to ``bands`` mel bands and played up to a tenth slower or faster, each alone."""
    if rng.random() < 0.6:
        shift = rng.uniform(-bands, bands)
        whole = int(np.floor(shift))
        part = np.float32(shift - whole)
        padded = np.pad(mel, ((0, 0), (4, 4)), mode="edge")
        mel = (1 - part) * padded[:, 4 - whole : 68 - whole] + part * padded[:, 3 - whole : 67 - whole]
    if rng.random() < 0.6:
        frames = int(len(mel) * np.exp(rng.uniform(-stretch, stretch)))
        mel = mel[np.linspace(0, len(mel) - 1, frames).round().astype(int)]
    return mel


def _trimmed(mel: np.ndarray) -> np.ndarray:
    """Without the frames at either end that are 50 dB below the loudest; at least 0.4 s."""
    energy = mel.sum(1)
    heard = np.flatnonzero(energy > energy.max() * 1e-5)
    return mel[heard[0] : max(heard[-1] + 1, heard[0] + 40)]


def _place(mel: np.ndarray, start: int, stop: int, bouts: int, rng: np.random.Generator) -> np.ndarray:
    """(1001, 64) power with ``mel`` in frames start…stop: repeated to fill them, or in several bouts with pauses."""
    out = np.zeros((FRAMES, 64), dtype=np.float32)
    length = stop - start
    if bouts == 1:
        filled = np.concatenate([mel] * (length // len(mel) + 1))[:length]
        if rng.random() < 0.35:
            filled = np.roll(filled, rng.integers(length), axis=0)
        out[start:stop] = filled
        return out
    slot = length // bouts
    sounding = max(40, int(slot * rng.uniform(0.45, 0.65)))
    # The loudest stretch of the recording is the bout, so that each of them really holds the sound.
    energy = np.convolve(mel.sum(1), np.ones(min(sounding, len(mel))), "valid")
    bout = mel[int(energy.argmax()) :][:sounding]
    for k in range(bouts):
        at = start + k * slot + int(rng.integers(max(1, slot - len(bout))))
        out[at : min(stop, at + len(bout))] += bout[: max(0, min(stop, at + len(bout)) - at)]
    return out


class SceneMixer:
    """Draws random scenes from a mel bank: mel power with moderate augmentation, and what is in them."""

    def __init__(
        self,
        bank: MelBank,
        counts: dict[int, float] = EVENT_COUNTS,
        share_recorded: float = SHARE_RECORDED,
        share_overlapped: float = SHARE_OVERLAPPED,
    ):
        self.bank = bank
        self.counts = counts
        self.share_recorded = share_recorded
        self.share_overlapped = share_overlapped
        self.synthesized = [label for label in bank.labels if label in SYNTHESIZERS]
        self.recorded = [label for label in bank.labels if label not in SYNTHESIZERS]

    def _labels(self, n: int, rng: np.random.Generator) -> list[str]:
        labels: list[str] = []
        while len(labels) < n:
            recorded = not self.synthesized or (self.recorded and rng.random() < self.share_recorded)
            label = str(rng.choice(self.recorded if recorded else self.synthesized))
            if label not in labels:
                labels.append(label)
        return labels

    def _event(self, label: str, alone: bool, rng: np.random.Generator) -> SceneEvent:
        distant = rng.random() < 0.1
        loudness = "normal"
        if not distant:
            loudness = str(rng.choice(["normal", "loud", "faint"], p=[0.84, 0.08, 0.08]))
        bouts = int(rng.choice([1, 2, 3], p=[0.84, 0.08, 0.08])) if alone or rng.random() < 0.5 else 1
        return SceneEvent(label, loudness, distant, bouts)

    def _recording(self, label: str, rng: np.random.Generator) -> np.ndarray:
        """(T, 64) mel power of a recording, some of them trimmed, followed by silence, cropped, or two at once."""
        mel = _warped(self.bank.draw(label, rng), rng)
        # Three of four sneezes of ESC-10, and few other sounds, were filled up to 5 s with digital silence. Silence
        # cut off here and added there is no longer what a sneeze is known by.
        if rng.random() < 0.5:
            mel = _trimmed(mel)
        if rng.random() < 0.25:
            mel = np.pad(mel, ((0, int(rng.integers(20, 300))), (0, 0)))
        if rng.random() < 0.3 and len(mel) > 300:
            first = int(rng.integers(len(mel) // 4))
            mel = mel[first : first + int(len(mel) * 0.75)]
        if rng.random() < 0.4:  # two recordings of one class together are one more recording of it
            other = _warped(self.bank.draw(label, rng), rng)
            length = min(len(mel), len(other))
            mel = mel[:length] + other[:length] * np.float32(10 ** (rng.uniform(-8, 0) / 10))
        return mel

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, Scene]:
        """One scene: mel power (1001, 64) float32 and its content."""
        n = int(rng.choice(list(self.counts), p=list(self.counts.values())))
        events = [self._event(label, n == 1, rng) for label in self._labels(n, rng)]
        relation: Relation = "single" if n == 1 else "overlap" if rng.random() < self.share_overlapped else "sequence"
        bounds = np.linspace(0, FRAMES, n + 1).astype(int)
        if relation == "sequence":
            bounds[1:-1] += rng.integers(-60, 61, n - 1)
        power = np.zeros((FRAMES, 64), dtype=np.float32)
        master = rng.normal(TYPICAL_LEVEL, 8)
        for k, event in enumerate(events):
            start, stop = (bounds[k], bounds[k + 1]) if relation == "sequence" else (0, FRAMES)
            if rng.random() < 0.2:  # a gap before or after
                gap = int(rng.integers((stop - start) // 3))
                start, stop = (start + gap, stop) if rng.random() < 0.5 else (start, stop - gap)
            mel = self._recording(event.label, rng)
            gain = rng.uniform(*_GAIN["distant" if event.distant else event.loudness])
            eq = _equalizer(rng) * (_DISTANCE if event.distant else 1.0)
            power += _place(mel * (eq * 10 ** ((gain + master) / 10)).astype(np.float32), start, stop, event.bouts, rng)
        if rng.random() < 0.5:  # a noise floor, as every microphone has
            level = 10 ** rng.uniform(-10, -3)
            power += (level * rng.chisquare(8, (FRAMES, 64)) / 8).astype(np.float32)
        if rng.random() < 0.25:  # a noisy place
            level = power.mean() * 10 ** (rng.uniform(-35, -12) / 10)
            slope = 10 ** (np.linspace(0, rng.uniform(-15, 5), 64) / 10)
            power += (level * slope * rng.chisquare(4, (FRAMES, 64)) / 4).astype(np.float32)
        if rng.random() < 0.5:
            t, f = int(rng.integers(FRAMES - 60)), int(rng.integers(58))
            power[t : t + int(rng.integers(10, 60))] *= 1e-3
            power[:, f : f + int(rng.integers(1, 6))] *= 1e-2
        return power, Scene(tuple(events), relation)

    def batch(self, n: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[Scene]]:
        """``n`` scenes: log-mel (n, 1, 1001, 64) float32 dB, and their contents."""
        drawn = [self.draw(rng) for _ in range(n)]
        power = torch.from_numpy(np.stack([power for power, _ in drawn]))
        return (10 * power.clamp_min(1e-10).log10())[:, None], [scene for _, scene in drawn]


def judged_scenes(
    recordings: Recordings, relation: Relation, n: int, seed: int
) -> list[tuple[np.ndarray, frozenset[str]]]:
    """Test scenes made of samples: (480000,) float32 windows and the set of events in each.

    "single" is every recording just as a user would submit it, repeat-padded (``n`` is ignored). "overlap" adds two
    recordings of different classes at levels within ±3 dB of equal energy; "sequence" puts one after the other.
    """
    rng = np.random.default_rng(seed)
    if relation == "single":
        return [
            (split_windows(samples)[0].samples, frozenset([label]))
            for label, items in sorted(recordings.by_label.items())
            for samples in items
        ]
    scenes = []
    labels = sorted(recordings.by_label)
    while len(scenes) < n:
        pair = [str(label) for label in rng.choice(labels, 2, replace=False)]
        first, second = (recordings.by_label[label][rng.integers(len(recordings.by_label[label]))] for label in pair)
        if relation == "sequence":
            mixed = np.concatenate([first, second])
        else:
            length = min(len(first), len(second))
            first, second = first[:length], second[:length]
            balance = np.sqrt((first**2).mean() / max(1e-12, (second**2).mean())) * 10 ** (rng.uniform(-3, 3) / 20)
            mixed = first + second * np.float32(balance)
        mixed = mixed / max(1.0, float(np.abs(mixed).max()))
        window = split_windows(mixed.astype(np.float32))[0].samples
        if len(window) != WINDOW_SAMPLES:
            raise AssertionError(f"a window of {len(window)} samples")
        scenes.append((window, frozenset(pair)))
    return scenes
