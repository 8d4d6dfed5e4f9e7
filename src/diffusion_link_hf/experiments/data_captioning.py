"""Captions of a whole data set by a pipeline: in batches that are kept, in one process or several, re-ranked or not."""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import torch
from tqdm import tqdm

from ..analysis.reranking import best, clap_cosines
from ..data.captioned_audio import CaptionedAudio, CaptionedAudioData
from ..embeddings.embedding import DecodedClip, EmbeddingOptions, ShardedClips, count_shards, decoded
from ..embeddings.recordings import embed_recordings
from ..errors import InputError
from ..pipelines.audio_caption import AudioCaptionPipeline
from .written_captions import Captioned, WrittenCaptions

SHARD_BATCHES = 4  # about how many batches a process takes in one piece


@dataclass(frozen=True)
class CaptioningOptions:
    """How captions of a data set are written.

    Attributes:
        num_beams: 1 for greedy decoding.
        max_new_tokens: of a caption.
        do_sample: whether to sample.
        generation_kwargs: further fields of `transformers.GenerationConfig`, such as ``temperature``.
        rerank: how many captions are written, of which CLAP chooses one; 1 for none to choose from.
        seed: of sampling.
        batch_size: recordings captioned at once.
        num_workers: processes that decode and resample audio; 0 does it in this one.

    Raises:
        InputError: a number out of range.
    """

    num_beams: int = 1
    max_new_tokens: int = 40
    do_sample: bool = False
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    rerank: int = 1
    seed: int = 0
    batch_size: int = 32
    num_workers: int = 0

    def __post_init__(self):
        for name, least in (("rerank", 1), ("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise InputError(name, f"is {getattr(self, name)}", f"Use at least {least}")

    @property
    def generation(self) -> dict[str, Any]:
        """The arguments of `CaptionDecoder.generate`: candidates are beams, unless they are sampled."""
        beams = self.num_beams if self.do_sample else max(self.num_beams, self.rerank)
        return {
            "num_return_sequences": self.rerank,
            "max_new_tokens": self.max_new_tokens,
            "num_beams": beams,
            "do_sample": self.do_sample,
            **self.generation_kwargs,
        }

    @property
    def described(self) -> dict[str, Any]:
        """What reports and cards say of it."""
        sampled = {"do_sample": True, "seed": self.seed} if self.do_sample else {}
        reranked = {"rerank": self.rerank} if self.rerank > 1 else {}
        searched = {"num_beams": self.generation["num_beams"], "max_new_tokens": self.max_new_tokens}
        return {**searched, **sampled, **self.generation_kwargs, **reranked}

    @property
    def conditions(self) -> dict[str, Any]:
        """What captions depend on. The last bits of an embedding depend on its batch."""
        seed = {"seed": self.seed} if self.do_sample else {}
        return {"generation": self.generation, "batch_size": self.batch_size, **seed}


class _Remaining(ShardedClips):
    """Iterates the recordings of some shards, without the first ones of each.

    Args:
        skip: how many, by shard.
    """

    def __init__(self, data: CaptionedAudioData, skip: Mapping[int, int], count: int):
        super().__init__(data, skip, count)
        self.skip = skip

    def __iter__(self) -> Iterator[tuple[int, CaptionedAudio, torch.Tensor | None]]:
        for shard, clips in groupby(super().__iter__(), key=lambda clip: clip[0]):
            yield from islice(clips, self.skip[shard], None)


def shard_count(data: CaptionedAudioData, options: CaptioningOptions) -> int:
    """How many pieces the data set is captioned in."""
    return count_shards(data, SHARD_BATCHES * options.batch_size)


def caption_data(
    pipeline: AudioCaptionPipeline,
    data: CaptionedAudioData,
    written: WrittenCaptions,
    options: CaptioningOptions,
    shards: int,
    process: tuple[int, int] = (0, 1),
    progress: bool = False,
) -> None:
    """Caption what is not captioned yet, and write each batch as it is made.

    Batches have the same recordings however many processes there are, and whether or not a run was interrupted; so
    they get the same captions.

    Args:
        shards: from `shard_count`.
        process: index and number of processes; each takes every so many shards.
        progress: whether to show a progress bar.

    Raises:
        InputError: an option that the decoder refuses.
        DataError: a batch cannot be written.
    """
    size = options.batch_size
    mine = [shard for shard in range(process[0], shards, process[1]) if not written.is_complete(shard)]
    there = {shard: written.batches(shard) for shard in mine}
    skip = {shard: batches * size for shard, batches in there.items()}
    loader = decoded(_Remaining(data, skip, shards), EmbeddingOptions(size, num_workers=options.num_workers))
    clips = tqdm(loader, desc="captioning", unit="clip", initial=sum(skip.values()), disable=not progress)
    for shard, own in groupby(clips, key=lambda clip: clip.shard):
        while batch := list(islice(own, size)):
            written.add(shard, there[shard], caption_batch(pipeline, batch, options, f"{shard} {there[shard]}"))
            there[shard] += 1
    for shard, batches in there.items():
        written.complete(shard, batches)


def caption_batch(
    pipeline: AudioCaptionPipeline, clips: Sequence[DecodedClip], options: CaptioningOptions, place: str
) -> Captioned:
    """One caption of each recording that could be read.

    A recording longer than ten seconds is the renormalized mean of its windows, as in training.

    Args:
        place: of the batch in the data set, from which its randomness follows.
    """
    started = time.monotonic()
    readable = [clip for clip in clips if clip.samples is not None]
    failures = [{"audio": clip.name, "reason": clip.reason} for clip in clips if clip.samples is None]
    if not readable:
        return Captioned([], failures, time.monotonic() - started)
    embeds = embed_recordings((clip.samples.numpy() for clip in readable), pipeline.encode_audio, options.batch_size)
    candidates = pipeline.decode(
        pipeline.bridge(embeds, "audio"), generator=_generator(options.seed, place), **options.generation
    )
    pipeline.maybe_free_model_hooks()
    rows: list[dict[str, Any]] = [
        {"recording": clip.name, "candidate": texts[0], "references": list(clip.captions)}
        for clip, texts in zip(readable, candidates, strict=True)
    ]
    if options.rerank > 1:
        cosines = clap_cosines(embeds, candidates, pipeline.clap)
        for row, texts, own, chosen in zip(rows, candidates, cosines, best(cosines), strict=True):
            row |= {
                "candidate": texts[chosen],
                "candidates": texts,
                "clap_cosines": [round(cosine, 6) for cosine in own],
            }
    return Captioned(rows, failures, time.monotonic() - started)


def _generator(seed: int, place: str) -> torch.Generator:
    """Randomness of a batch: of its own, so that it does not matter what was captioned before."""
    digest = hashlib.sha256(f"{seed} {place}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
