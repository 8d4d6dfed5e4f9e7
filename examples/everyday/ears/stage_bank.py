"""Decodes all recordings of splits.csv, and makes the synthesised ones, into one file of 44.1-kHz 16-bit samples.

python stage_bank.py --data ../../shared/data --synthesis ../../base/examples/tiny --output work
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from vocabulary import MADE, SYNTHESISED

RATE = 44_100
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


def speak(program: str, voice: str, sentence: str, tools: Path) -> tuple[np.ndarray, int] | None:
    """A sentence by flite or espeak-ng, unpacked from Debian's packages below ``tools``; None where it cannot run."""
    libraries = tools / "usr" / "lib" / "x86_64-linux-gnu"
    paths = (libraries, libraries / "pulseaudio", tools / "lib" / "x86_64-linux-gnu")
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = [str(tools / "usr" / "bin" / program)]
        if program == "flite":
            command += ["-voice", voice, "-t", sentence, "-o", file.name]
        else:
            command += [f"--path={libraries}", "-v", voice, "-w", file.name, sentence]
        try:
            subprocess.run(command, check=True, env=environment, capture_output=True)
            return soundfile.read(file.name, dtype="float32")
        except Exception as error:
            print(f"{program} {voice}: {error}")
            return None


def made_sounds(synthesis: Path, tools: Path):
    """Yields (row, samples, rate) of the synthesised recordings; those of validation are other examples."""
    sys.path.insert(0, str(synthesis))
    from synthesis import RATE as SYNTHESIS_RATE
    from synthesis import synthesise

    for fine, name in SYNTHESISED.items():
        for k in range(8):
            split = "validation" if k >= 6 else "train"
            row = {"file": f"made/{fine}-{k}", "name": name, "fine": fine, "group": f"made:{fine}:{k}",
                   "source": "made", "split": split}  # fmt: skip
            yield row, synthesise(fine, np.random.default_rng([44, k]), 5.0), SYNTHESIS_RATE
    for program, voices in (("flite", FLITE), ("espeak-ng", ESPEAK)):
        for voice, who in voices.items():
            fine = f"synth_speech_{who}"
            for k, sentence in enumerate(SENTENCES[:6]):
                spoken = speak(program, voice, sentence, tools)
                if spoken is not None:
                    # one voice of each program is held out
                    split = "validation" if voice in ("rms", "en-gb+f4") else "train"
                    yield {"file": f"made/{program}-{voice}-{k}", "name": MADE[fine], "fine": fine,
                           "group": f"made:{program}:{voice}", "source": "made", "split": split}, *spoken  # fmt: skip
    rng = np.random.default_rng(7)
    for k in range(16):
        spectrum = np.fft.rfft(rng.standard_normal(6 * RATE))
        hertz = np.maximum(np.fft.rfftfreq(6 * RATE, 1 / RATE), 20)
        noise = np.fft.irfft(spectrum * hertz ** (-0.25 * (k % 4)))
        yield {"file": f"made/noise-{k}", "name": MADE["synth_noise"], "fine": "synth_noise", "group": f"made:noise:{k}",
               "source": "made", "split": "validation" if k >= 12 else "train"}, noise.astype(np.float32), RATE  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../../shared/data"))
    parser.add_argument("--synthesis", type=Path, default=Path("../../base/examples/tiny"))
    parser.add_argument(
        "--tools",
        type=lambda p: Path(p).resolve(),
        default=Path("deb/root").resolve(),
        help="unpacked flite and espeak-ng",
    )
    parser.add_argument("--output", type=Path, default=Path("work"))
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if (args.output / "bank.json").is_file():
        print("done before")
        return
    rows, at = [], 0
    with open(args.output / "bank.i16", "wb") as out, open("splits.csv", newline="") as index:
        recorded = ((row, *soundfile.read(args.data / row["file"], dtype="float32")) for row in csv.DictReader(index))
        for source in (recorded, made_sounds(args.synthesis, args.tools)):
            for row, samples, rate in source:
                samples = to_bank(samples, rate)
                if len(samples) < 400:
                    print(f"{row['file']}: silent, left out")
                    continue
                out.write(samples.tobytes())
                rows.append({**row, "start": at, "length": len(samples)})
                at += len(samples)
    (args.output / "bank.json").write_text(json.dumps(rows))
    print(f"{len(rows)} recordings, {at / RATE / 3600:.2f} h")


if __name__ == "__main__":
    main()
