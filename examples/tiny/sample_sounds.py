"""Writes the sample sounds of the repository: eight synthesized sounds as Ogg Vorbis, named after what is heard.

    python examples/tiny/sample_sounds.py

speech.ogg is spoken by espeak-ng (Debian's package); where that is not installed, the file stays as it is.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import soundfile
import soxr
from bank import speak
from synthesis import RATE, synthesize

SECONDS = 10
SOUNDS = {  # file → class of synthesis.py
    "bell": "bell",
    "keyboard_typing": "typing",
    "knocking": "knocking",
    "siren": "siren",
    "telephone": "telephone",
    "thunder": "thunder",
    "whistle": "whistle",
}
VOICE, SENTENCE = "en-us+f3", "Every sound has a name. This program looks for it, and says so when it is not sure."


def sound(label: str, rng: np.random.Generator) -> np.ndarray:
    """(480000,) float32 at 48 kHz, peak at most 0.9."""
    samples = synthesize(label, rng, SECONDS)
    return (samples * 0.9 / max(0.9, float(np.abs(samples).max()))).astype(np.float32)


def speech() -> np.ndarray:
    """(n,) float32 at 48 kHz, a synthetic voice."""
    samples, rate = speak("espeak-ng", VOICE, SENTENCE)
    return soxr.resample(0.9 * samples / np.abs(samples).max(), rate, RATE)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "sounds")
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    # A generator per sound: adding one leaves the others as they are.
    made = {name: sound(label, np.random.default_rng([args.seed, k])) for k, (name, label) in enumerate(SOUNDS.items())}
    if shutil.which("espeak-ng"):
        made["speech"] = speech()
    else:
        print("speech.ogg: left as it is, espeak-ng is not installed")
    for name, samples in made.items():
        path = args.output / f"{name}.ogg"
        soundfile.write(path, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.6)


if __name__ == "__main__":
    main()
