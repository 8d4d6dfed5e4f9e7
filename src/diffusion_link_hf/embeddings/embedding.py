"""Embeds captioned recordings shard by shard into an embedding cache; started again, it goes on where it was."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from diffusers.utils import logging
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.captioned_audio import CaptionedAudio, CaptionedAudioData, open_data
from ..errors import AudioError, DataError, InputError, ModelFolderError
from ..files import make_writable
from ..models.clap import ClapEncoder
from ..models.log_mel import FRONT_END_VERSION
from ..tensors import check_device
from .cache import about_clap, clap_fingerprint
from .recordings import embed_recordings
from .shards import (
    LOCK,
    MANIFEST,
    Identity,
    Shard,
    complete_shards,
    is_intact,
    read_manifest,
    refuse_foreign,
    remove_leftovers,
    write_manifest,
    write_shard,
)

logger = logging.get_logger(__name__)

DEFAULT_CLAP = "laion/larger_clap_general"
UNLIKE_TEXTS = (
    "A dog barks",
    "Rain falls on a roof",
    "A man gives a speech",
    "A motorcycle engine idles",
    "A piano plays a slow melody",
    "Glass shatters on the floor",
)
# Above it, texts are taken to have collapsed: larger_clap_music has 0.9993, larger_clap_general 0.29 (mteb issue 5069).
COLLAPSED = 0.98


@dataclass(frozen=True)
class EmbeddingOptions:
    """How a data set is embedded.

    The first three belong to the cache, since the last bits of an embedding depend on its batch; the others may change
    between an interrupted run and its continuation.

    Attributes:
        batch_size: windows of ten seconds, or captions, at once.
        shard_size: about how many recordings a shard has, which is what an interruption costs at most.
        dtype: CLAP computes in; embeddings are stored in float32.
        num_workers: processes that decode and resample; 0 does it in this one.
        process_index, num_processes: this process embeds the shards k with k % num_processes == process_index.
    """

    batch_size: int = 32
    shard_size: int = 512
    dtype: torch.dtype = torch.float32
    num_workers: int = 0
    process_index: int = 0
    num_processes: int = 1

    def __post_init__(self):
        at_least = {"batch_size": 1, "shard_size": 1, "num_workers": 0, "process_index": 0, "num_processes": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise InputError(name, f"is {getattr(self, name)}", f"Use at least {least}")
        if self.process_index >= self.num_processes:
            raise InputError("process_index", f"is {self.process_index} of {self.num_processes}", "Count from 0")


def embed(
    data: str | os.PathLike | CaptionedAudioData,
    output: str | os.PathLike,
    clap: str | os.PathLike | ClapEncoder = DEFAULT_CLAP,
    *,
    split: str | None = None,
    audio: str | os.PathLike | None = None,
    revision: str | None = None,
    limit: int | None = None,
    clap_revision: str | None = None,
    token: str | bool | None = None,
    batch_size: int = 32,
    shard_size: int = 512,
    num_workers: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> dict[str, Any] | None:
    r"""Embed captioned recordings with a frozen CLAP, into the cache that training reads.

    The cache is written shard by shard. Stopped at any moment, the same call goes on where it was and ends with the
    same bytes. In several processes (``accelerate launch``) each embeds its share of the shards. A recording longer
    than ten seconds is the renormalized mean of its windows; one that cannot be read is left out, and the manifest
    says why.

    Args:
        data: a folder, a file or a Hub id, as `open_data` takes it, or what that returned.
        output: folder of the cache, made where it is missing.
        clap: folder or Hub id of a CLAP or of a pipeline, such as "tiny"; or a `ClapEncoder` in float32, whose weights
            are brought to ``dtype``.
        split, audio, revision, limit: of the data, as `open_data`; only where ``data`` is a path or a Hub id.
        clap_revision: branch, tag or commit of a CLAP on the Hub.
        token: for the Hub, by default the one that is logged in.
        batch_size: windows of ten seconds, or captions, computed at once. It belongs to the cache, as do the next two:
            the last bits of an embedding depend on its batch.
        shard_size: about how many recordings a shard has, which is what an interruption costs at most.
        dtype: that CLAP computes in; embeddings are stored in float32.
        num_workers: processes that decode and resample audio; 0 does it in this one.
        device: "cpu", "cuda" …; by default that of a given `ClapEncoder`, otherwise what Accelerate chooses.
        progress: whether to show a progress bar.

    Returns:
        The cache's manifest: ``recordings`` and ``captions`` (numbers), ``failures`` ({"audio", "reason"} each), the
        same of empty captions as ``captions_left_out``,
        ``embedding_dim``, what made the cache, and its shards. None where other processes are still at work; the last
        of them gets it.

    Raises:
        DataError: the data cannot be used, hold no readable recording, or ``output`` cannot be written or holds
            another cache.
        ModelFolderError, HubAccessError: the CLAP or the data cannot be had; or the CLAP has no tokenizer.
        InputError: an option out of range, a device that is not there, or embeddings that overflow in ``dtype``.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import soundfile
        >>> from diffusion_link_hf import EmbeddingCache, embed
        >>> folder = Path(tempfile.mkdtemp())
        >>> soundfile.write(folder / "rain.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 48_000), 48_000)
        >>> _ = (folder / "metadata.csv").write_text("file_name,caption\nrain.wav,Rain is falling\n")
        >>> manifest = embed(folder, folder / "cache", "tiny", device="cpu")
        >>> manifest["recordings"], manifest["captions"]
        (1, 1)
        >>> EmbeddingCache.load(folder / "cache").audio.shape
        torch.Size([1, 512])
    """
    state = PartialState(cpu=str(device) == "cpu")
    loaded = isinstance(clap, ClapEncoder)
    device = check_device(device if device is not None else clap.device if loaded else state.device)
    options = EmbeddingOptions(batch_size, shard_size, dtype, num_workers, state.process_index, state.num_processes)
    make_writable(Path(output))
    if isinstance(data, (str, os.PathLike)):
        data = open_data(data, split=split, audio=audio, revision=revision, limit=limit, token=token)
    elif (split, audio, revision, limit) != (None,) * 4:
        raise InputError(
            "split, audio, revision or limit", "cannot be given with an opened data set", "Give it to open_data instead"
        )
    if not loaded:
        clap = ClapEncoder.from_pretrained(clap, clap_revision, token)
    return embed_data(data, clap.to(device), output, options, progress and state.is_local_main_process)


def embed_data(
    data: CaptionedAudioData,
    clap: ClapEncoder,
    output: str | Path,
    options: EmbeddingOptions = EmbeddingOptions(),
    progress: bool = True,
) -> dict[str, Any] | None:
    """`embed` of what is opened, loaded and on its device, as one of ``options.num_processes`` processes.

    Only one shard and the recordings being decoded are in memory.

    The bytes written are a function of the data, the CLAP and the cache's part of the options: neither interruptions
    nor the numbers of workers and processes change them. Other batch or shard sizes change embeddings by the rounding
    of matrix products, less than 1e-5 in float32.

    Args:
        clap: on the device that is to embed, in float32; its weights are brought to ``options.dtype``.
        progress: whether to show a progress bar.

    Returns:
        The manifest, or None where other processes still have shards to embed; the last of them gets it.

    Raises:
        ModelFolderError: a CLAP without a tokenizer, which could embed the recordings but not their captions.
        InputError: embeddings that are NaN or infinite in ``options.dtype``.
        DataError: the folder holds another cache, or cannot be written; or there is no recording that can be read.
    """
    if clap.tokenizer is None:
        raise ModelFolderError(
            "CLAP", "has no tokenizer, so it cannot embed captions", "Add tokenizer.json to its folder"
        )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    count = count_shards(data, options.shard_size)
    identity = cache_identity(data, clap, options, count)
    if (finished := _finished(folder, identity)) is not None:
        return finished
    warn_of_collapse(clap)
    done = complete_shards(folder, identity)
    mine = range(options.process_index, count, options.num_processes)
    missing = [shard for shard in mine if shard not in done]
    clap.to(options.dtype)
    bar = tqdm(
        decoded(ShardedClips(data, missing, count), options),
        desc="embedding",
        unit="clip",
        initial=sum(done[shard].recordings + len(done[shard].failures) for shard in mine if shard in done),
        disable=not progress,
    )
    for shard, clips in groupby(bar, key=lambda clip: clip.shard):
        write_shard(folder, shard, embed_shard(clips, clap, options.batch_size), identity)
        missing.remove(shard)
    for shard in missing:  # there was no recording in them
        write_shard(folder, shard, embed_shard([], clap, options.batch_size), identity)
    return _finish(
        folder, count, identity, {**identity, **about_clap(clap), "captions_left_out": data.left_out}, data.name
    )


def cache_identity(data: CaptionedAudioData, clap: ClapEncoder, options: EmbeddingOptions, shards: int) -> Identity:
    """What the bytes of a cache follow from; ``clap`` before its weights are rounded to ``options.dtype``."""
    return {
        "clap": clap_fingerprint(clap),
        "front_end_version": FRONT_END_VERSION,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "batch_size": options.batch_size,
        "shard_size": options.shard_size,
        "shard_count": shards,
        "dtype": str(options.dtype).removeprefix("torch."),
        "device": clap.device.type,
    }


def count_shards(data: CaptionedAudioData, shard_size: int) -> int:
    """How many shards the cache has: whole shards of the data in each, together some ``shard_size`` recordings.

    The data's shards (row groups of Parquet files, pieces of a table) are taken to be as long as the first one. Their
    borders are kept so that a process reads what it embeds, and nothing else.
    """
    own = data.dataset.num_shards
    if own == 1:
        return 1
    first = sum(1 for _ in data.shard(0, own))
    return min(own, max(1, math.ceil(own * first / shard_size)))


def text_spread(clap: ClapEncoder) -> float:
    """Mean cosine between the embeddings of sentences about different sounds: some 0.2 to 0.5, or 1 if it collapsed."""
    embeds = clap.encode_text(UNLIKE_TEXTS)
    cosines = embeds @ embeds.T
    count = len(embeds)
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def warn_of_collapse(clap: ClapEncoder) -> None:
    """Warns of a text tower that maps unlike texts to one place, as that of ``laion/larger_clap_music`` does."""
    cosine = text_spread(clap)
    if cosine > COLLAPSED:
        logger.warning(
            "The texts of this CLAP (%s) hardly differ: sentences about different sounds have a mean cosine of %.4f. "
            "Its text tower seems to be collapsed, and nothing can be learned from such embeddings. Use another CLAP",
            clap.source.id if clap.source else "of a folder",
            cosine,
        )


class ShardedClips:
    """Iterates the recordings of some shards: ``(shard, CaptionedAudio, its audio as (b,) bytes or None)``.

    Encoded audio goes to the workers as a tensor, that is in shared memory: were this process killed while it writes
    a megabyte into a worker's pipe, that worker would wait for the rest forever.

    Args:
        shards: their numbers.
        count: of all shards of the cache.
    """

    def __init__(self, data: CaptionedAudioData, shards: Iterable[int], count: int):
        self.data, self.shards, self.count = data, list(shards), count

    def __iter__(self) -> Iterator[tuple[int, CaptionedAudio, torch.Tensor | None]]:
        for shard in self.shards:
            for recording in self.data.shard(shard, self.count):
                audio = torch.frombuffer(bytearray(recording.audio), dtype=torch.uint8) if recording.audio else None
                yield shard, replace(recording, audio=None) if recording.audio else recording, audio


class DecodedClip(NamedTuple):
    """A recording as a worker hands it over: ``samples`` (n,) float32 at 48 kHz, or the reason why there are none."""

    shard: int
    name: str
    captions: tuple[str, ...]
    samples: torch.Tensor | None
    reason: str | None


class ClipDecoder(Dataset):
    """Decodes what `ShardedClips` names."""

    def __getitem__(self, key: tuple[int, CaptionedAudio, torch.Tensor | None]) -> DecodedClip:
        shard, recording, audio = key
        if audio is not None:
            recording = replace(recording, audio=audio.numpy().tobytes())
        try:
            samples, reason = torch.from_numpy(recording.load()), None
        except AudioError as error:
            samples, reason = None, str(error)
        return DecodedClip(shard, recording.name, recording.captions, samples, reason)


def decoded(clips: ShardedClips, options: EmbeddingOptions) -> DataLoader:
    """Iterates `DecodedClip`s in the order of ``clips``; as many as fill a batch are decoded ahead."""
    ahead = max(2, math.ceil(options.batch_size / options.num_workers)) if options.num_workers else None
    return DataLoader(
        ClipDecoder(),
        sampler=clips,
        batch_size=None,
        num_workers=options.num_workers,
        prefetch_factor=ahead,
        collate_fn=_as_it_is,
    )


def _as_it_is(clip: DecodedClip) -> DecodedClip:
    return clip


def embed_shard(clips: Iterable[DecodedClip], clap: ClapEncoder, batch_size: int) -> Shard:
    """Embed decoded recordings and their captions.

    Raises:
        InputError: an embedding is NaN or infinite.
    """
    names, captions, owners, failures = [], [], [], []

    def readable() -> Iterator[np.ndarray]:
        for clip in clips:
            if clip.samples is None:
                failures.append({"audio": clip.name, "reason": clip.reason})
                continue
            captions.extend(clip.captions)
            owners.extend([len(names)] * len(clip.captions))
            names.append(clip.name)
            yield clip.samples.numpy()

    audio = embed_recordings(readable(), lambda windows: clap.encode_audio(windows).cpu(), batch_size)
    if audio is None:
        audio = torch.zeros(0, clap.embedding_dim)
    text = clap.encode_text(captions, batch_size).cpu()
    for rows, what in ((audio, names), (text, captions)):
        bad = (~torch.isfinite(rows).all(1)).nonzero()
        if len(bad):
            raise InputError(
                what[int(bad[0])], f"has an embedding with NaN or infinity in {clap.dtype}", "Use float32 or bfloat16"
            )
    return Shard(audio, text, torch.tensor(owners, dtype=torch.long), captions, names, failures)


def _finished(folder: Path, identity: Identity) -> dict[str, Any] | None:
    """The manifest of what is there already; a whole cache with a damaged shard loses its manifest, to be mended."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    refuse_foreign(folder, manifest, identity)
    if is_intact(folder, manifest):
        return manifest
    (folder / MANIFEST).unlink(missing_ok=True)
    return None


def _finish(folder: Path, count: int, identity: Identity, about: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The manifest, if this process was the last one."""
    from huggingface_hub.utils import WeakFileLock

    with WeakFileLock(folder / LOCK):  # two processes may be the last one
        shards = complete_shards(folder, identity)
        if not shards.keys() >= set(range(count)):
            return None
        remove_leftovers(folder)
        shards = [shards[k] for k in range(count)]
        failures = [failure for shard in shards for failure in shard.failures]
        if not any(shard.recordings for shard in shards):
            remedy = f"See the first: {failures[0]['reason']}" if failures else "Check the data and the split"
            raise DataError(name, f"holds no recording that can be read ({len(failures)} failed)", remedy)
        return write_manifest(folder, shards, about)
