"""Decodes all recordings of splits.csv and makes the synthesized ones: one file of 44.1-kHz 16-bit samples."""

import argparse
import csv
import itertools
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from synthesis import RATE as SYNTHESIS_RATE
from synthesis import synthesize
from vocabulary import MADE, SYNTHESIZED

RATE = 44_100  # Hz
SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Please remember to buy some bread and milk on your way home tonight.",
    "Good morning everyone, and welcome to the first lecture of this year.",
    "I think we should leave before the rain starts, or we will be late.",
    "The train to the city departs from platform nine in twelve minutes.",
    "She asked whether anybody had seen her keys since yesterday afternoon.",
    "Turn left at the traffic light, then go straight for two miles.",
    "It was a bright cold day in April, and the clocks were striking.",
)
FLITE = {"kal16": "man", "awb": "man", "rms": "man", "slt": "woman"}
ESPEAK = {"en-us+m3": "man", "en-gb+m7": "man", "en-us": "man", "en-us+f2": "woman", "en-gb+f4": "woman"}
HELD_OUT_VOICES = ("rms", "en-gb+f4")
SHORTEST = 400  # samples


def to_bank(samples: np.ndarray, rate: int) -> np.ndarray:
    """Mono at 44.1 kHz, at most 10 s, peak 0.9, without the silence at either end that is 55 dB below the peak."""
    samples = samples if samples.ndim == 1 else samples.mean(1)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    peak = np.abs(samples).max()
    if peak < 1e-6:
        return np.zeros(0, np.int16)
    heard = np.flatnonzero(np.abs(samples) > peak * 10 ** (-55 / 20))
    samples = samples[max(0, heard[0] - 200) : heard[-1] + 2000][: 10 * RATE]
    return np.round(samples / np.abs(samples).max() * 0.9 * 32767).astype(np.int16)


def speak(program: str, voice: str, sentence: str) -> tuple[np.ndarray, int]:
    """A sentence spoken by flite or espeak-ng, and its sampling rate."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        options = {
            "flite": ["-voice", voice, "-t", sentence, "-o", file.name],
            "espeak-ng": ["-v", voice, "-w", file.name, sentence],
        }
        try:
            subprocess.run([program, *options[program]], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"{program} cannot speak ({error}): apt-get install flite espeak-ng") from error
        return soundfile.read(file.name, dtype="float32")


def made_row(kind: str, name: str, fine: str, group: str, validation: bool) -> dict[str, str]:
    """As the rows of splits.csv."""
    split = "validation" if validation else "train"
    return {"file": f"made/{kind}", "name": name, "fine": fine, "group": group, "source": "made", "split": split}


def made_sounds():
    """Yields (row, samples, rate) of the synthesized recordings; those of validation are other examples."""
    for fine, name in SYNTHESIZED.items():
        for k in range(8):
            row = made_row(f"{fine}-{k}", name, fine, f"made:{fine}:{k}", k >= 6)
            yield row, synthesize(fine, np.random.default_rng([44, k]), 5.0), SYNTHESIS_RATE
    for program, voices in (("flite", FLITE), ("espeak-ng", ESPEAK)):
        for voice, who in voices.items():
            fine = f"synth_speech_{who}"
            for k, sentence in enumerate(SENTENCES[:6]):
                group = f"made:{program}:{voice}"
                row = made_row(f"{program}-{voice}-{k}", MADE[fine], fine, group, voice in HELD_OUT_VOICES)
                yield row, *speak(program, voice, sentence)
    rng = np.random.default_rng(7)
    for k in range(16):
        spectrum = np.fft.rfft(rng.standard_normal(6 * RATE))
        hertz = np.maximum(np.fft.rfftfreq(6 * RATE, 1 / RATE), 20)
        noise = np.fft.irfft(spectrum * hertz ** (-0.25 * (k % 4)))
        row = made_row(f"noise-{k}", MADE["synth_noise"], "synth_noise", f"made:noise:{k}", k >= 12)
        yield row, noise.astype(np.float32), RATE


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of sounds/ and esc10/")
    args = parser.parse_args(argv)
    rows, at = [], 0
    with open("bank.i16", "wb") as out, open("splits.csv", newline="") as index:
        recorded = ((row, *soundfile.read(args.data / row["file"], dtype="float32")) for row in csv.DictReader(index))
        for row, samples, rate in itertools.chain(recorded, made_sounds()):
            samples = to_bank(samples, rate)
            if len(samples) < SHORTEST:
                print(f"{row['file']}: silent, left out")
                continue
            out.write(samples.tobytes())
            rows.append({**row, "start": at, "length": len(samples)})
            at += len(samples)
    Path("bank.json").write_text(json.dumps(rows))
    print(f"{len(rows)} recordings, {at / RATE / 3600:.2f} h")


if __name__ == "__main__":
    main()
