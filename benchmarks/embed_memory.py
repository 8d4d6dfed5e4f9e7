"""Embeds a long stream of synthetic ten-second recordings and prints the peak memory of every thousand (Linux)."""

import argparse
import io
import itertools
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from datasets import IterableDataset

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.data.caption_builder import FEATURES
from diffusion_link_hf.data.captioned_audio import CaptionedAudioData
from diffusion_link_hf.embeddings.embedding import EmbeddingOptions, embed_data
from diffusion_link_hf.loading import default_pipeline_folder

RATE = 44_100  # Hz, so that every recording is resampled
SECONDS = 10
PART = 8  # recordings in a shard of the data; --every must be more, as the first part is read twice


class SyntheticClips:
    """Recordings of noise, made when they are asked for, each with its own caption.

    Attributes:
        peaks: MiB of this process and of its workers, for each full ``every`` recordings so far.
    """

    def __init__(self, every: int):
        self.every = every
        self.peaks: list[tuple[float, float]] = []
        self.noise = np.random.default_rng(0).uniform(-0.3, 0.3, RATE * SECONDS).astype(np.float32)
        self.begun = time.perf_counter()

    def data(self, count: int) -> CaptionedAudioData:
        """The first ``count`` of them."""
        rows = {"numbers": [range(k, min(k + PART, count)) for k in range(0, count, PART)]}
        dataset = IterableDataset.from_generator(self.rows, FEATURES, gen_kwargs=rows)
        return CaptionedAudioData(dataset, "synthetic", "train", "0")

    def rows(self, numbers: list[range]) -> Iterator[dict]:
        for k in itertools.chain(*numbers):
            file = io.BytesIO()
            sf.write(file, np.roll(self.noise, 997 * k), RATE, format="WAV", subtype="PCM_16")
            audio = {"bytes": file.getvalue(), "path": None}
            yield {"name": f"{k:06d}.wav", "captions": [f"noise of the kind {k}"], "audio": audio}
            if (k + 1) % self.every == 0:
                self.report(k + 1)

    def report(self, count: int) -> None:
        self.peaks.append(take_peak())
        now = time.perf_counter()
        own, workers = self.peaks[-1]
        speed = self.every / (now - self.begun)
        print(f"{count:8} recordings {own:8.0f} MiB {workers:8.0f} MiB {speed:8.1f} clips/s", flush=True)
        self.begun = now


def take_peak() -> tuple[float, float]:
    """MiB that this process, and its workers together, held at most since the last call."""
    workers = [_peak(child.pid) for child in multiprocessing.active_children()]
    return _peak("self"), sum(workers)


def _peak(process: int | str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak begins anew
    return int(peak.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=1_000)
    parser.add_argument("--clap", default=default_pipeline_folder() / "clap")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clips, clap = SyntheticClips(args.every), ClapEncoder.from_pretrained(args.clap)
    options = EmbeddingOptions(args.batch_size, args.shard_size, num_workers=args.num_workers)
    print(f"{'':8}            {'main':>8}     {'workers':>8}")
    with tempfile.TemporaryDirectory() as folder:
        take_peak()
        embed_data(clips.data(args.recordings), clap, folder, options, progress=False)
    if len(clips.peaks) > 1:
        first, last = (sum(clips.peaks[k]) for k in (0, -1))
        print(f"last {args.every} against the first {args.every}: {100 * (last / first - 1):+.1f} %")


if __name__ == "__main__":
    main()
