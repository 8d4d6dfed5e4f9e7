"""Captioned recordings in memory, a CLAP that is the same in every process, and embedding in a process of its own."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from datasets import IterableDataset

from diffusion_link_hf.data.caption_builder import FEATURES
from diffusion_link_hf.data.captioned_audio import CaptionedAudio, CaptionedAudioData
from diffusion_link_hf.embeddings.embedding import EmbeddingOptions, embed_data
from support.models import make_clap


def as_data(clips: list[CaptionedAudio], stop_at: int | None = None, part: int = 1) -> CaptionedAudioData:
    """A data set in shards of ``part`` recordings; reading it fails at ``stop_at``, as a connection does."""

    def rows(numbers: list[range]) -> Iterator[dict]:
        for k in chain(*numbers):
            if k == stop_at:
                raise ConnectionError("gone away")
            clip = clips[k]
            yield {"name": clip.name, "captions": list(clip.captions), "audio": {"bytes": clip.audio, "path": None}}

    numbers = [range(k, min(k + part, len(clips))) for k in range(0, len(clips), part)]
    dataset = IterableDataset.from_generator(rows, FEATURES, gen_kwargs={"numbers": numbers})
    fingerprint = hashlib.sha256(repr(clips).encode()).hexdigest()[:16]
    return CaptionedAudioData(dataset, "clips", "train", fingerprint)


def make_clip(k: int, seconds: float = 0.2, captions: int = 1) -> CaptionedAudio:
    """Noise of its own, at 16 kHz so that it has to be resampled."""
    samples = np.random.default_rng(k).uniform(-0.5, 0.5, int(16_000 * seconds))
    file = io.BytesIO()
    sf.write(file, samples, 16_000, format="WAV")
    return CaptionedAudio(f"{k}.wav", tuple(f"caption {c} of {k}" for c in range(captions)), audio=file.getvalue())


def make_clips() -> list[CaptionedAudio]:
    """Short and long ones, with one to three captions; the fifth is no audio, the ninth is cut."""
    clips = [make_clip(k, 25 if k == 3 else 12 if k == 7 else 0.2, 1 + k % 3) for k in range(11)]
    for k, audio in ((5, b"no audio"), (9, clips[9].audio[:-4000])):
        clips[k] = replace(clips[k], audio=audio)
    return clips


def same_clap(seed: int = 0):
    """Equal weights for an equal seed."""
    torch.manual_seed(seed)
    return make_clap()


def embed_here(folder: Path, data: CaptionedAudioData | None = None, **options):
    """`embed_data` with small batches and shards."""
    options = EmbeddingOptions(**{"batch_size": 4, "shard_size": 3, **options})
    return embed_data(data or as_data(make_clips()), same_clap(), folder, options, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, but for the lock of its last process."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".manifest.lock"}


def write_sounds(folder: Path, count: int = 4) -> Path:
    """A folder of recordings of a fifth of a second, with metadata.csv."""
    folder.mkdir(parents=True)
    clips = [make_clip(k) for k in range(count)]
    for clip in clips:
        (folder / clip.name).write_bytes(clip.audio)
    lines = [f"{clip.name},{clip.captions[0]}" for clip in clips]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]) + "\n")
    return folder
