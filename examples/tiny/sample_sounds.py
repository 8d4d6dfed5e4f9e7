"""Writes the sample sounds of the repository: eight synthesized scenes as Ogg Vorbis, named after what is heard."""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from synthesis import RATE, synthesize

SECONDS = 10
# (how the events are arranged, their classes): single events, overlapping pairs, and sequences
SCENES = (
    ("single", ("bell",)),
    ("single", ("siren",)),
    ("single", ("knocking",)),
    ("single", ("bird_chirp",)),
    ("overlap", ("wind", "footsteps")),
    ("overlap", ("thunder", "frog")),
    ("sequence", ("telephone", "applause")),
    ("sequence", ("whistle", "engine")),
)
JOINTS = {"single": "", "overlap": "_while_", "sequence": "_then_"}


def scene(arrangement: str, labels: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """(480000,) float32 at 48 kHz, peak at most 0.9; overlapping events have equal energy."""
    if arrangement == "sequence":
        mixed = np.concatenate([synthesize(label, rng, SECONDS / len(labels)) for label in labels])
    else:
        parts = [synthesize(label, rng, SECONDS) for label in labels]
        mixed = sum(part / np.sqrt((part**2).mean()) for part in parts)
    return (mixed * 0.9 / max(0.9, float(np.abs(mixed).max()))).astype(np.float32)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "sounds")
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for k, (arrangement, labels) in enumerate(SCENES):
        path = args.output / f"{JOINTS[arrangement].join(labels)}.ogg"
        # A generator per scene: adding one leaves the others as they are.
        samples = scene(arrangement, labels, np.random.default_rng([args.seed, k]))
        soundfile.write(path, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.6)


if __name__ == "__main__":
    main()
