"""The data of an experiment: recordings embedded first if need be, and split by recording."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..embeddings.shards import MANIFEST, read_manifest
from ..errors import DataError, InputError
from ..reports.gap import describe_data
from .choices import DataChoice
from .progress import show_bar

VALIDATION_SHARE = 0.1  # of the training recordings, where no pairs to choose on are given


def split_pairs(
    choice: DataChoice, output: str | Path, default_clap: str | None = None, progress: bool = False
) -> tuple[EmbeddingPairs, EmbeddingPairs, dict[str, Any]]:
    """Training and held-out pairs, which share no recording, and what the report says about them.

    Args:
        output: folder; recordings are embedded into a cache below it.
        default_clap: embeds recordings where ``choice.clap`` is None.

    Raises:
        DataError: data that cannot be read, nothing held out, or test data of another width or CLAP.
    """
    embeddings = embedded(choice, output, default_clap, progress)
    pairs, name = _load_pairs(embeddings, choice), data_name(choice.embeddings)
    more = {"split_seed": choice.split_seed, "reversed": choice.reverse, "left_out": left_out(embeddings)}
    if choice.test is not None:
        test = _load_pairs(choice.test, choice)
        check_same_space(pairs, test, data_name(choice.test))
        more["left_out"] += left_out(choice.test)
        more |= {"test": data_name(choice.test), "test_fingerprint": test.fingerprint}
        return pairs, test, describe_data(name, pairs, test, pairs.fingerprint, **more)
    train, held_out = pairs.split(choice.held_out, choice.split_seed)
    if held_out is None:
        raise _nothing_held_out(name, len(pairs.group.unique()))
    more["held_out_share"] = choice.held_out
    return train, held_out, describe_data(name, train, held_out, pairs.fingerprint, **more)


def split_validation(
    choice: DataChoice, train: EmbeddingPairs, validation: str | Path | EmbeddingPairs | EmbeddingCache | None
) -> tuple[EmbeddingPairs, EmbeddingPairs, dict[str, Any]]:
    """Training and validation pairs that share no recording, and what the report says about the latter.

    Args:
        train: from `split_pairs`.
        validation: pairs to choose on; by default a tenth of the recordings of ``train``.

    Raises:
        DataError: nothing left to choose on, or pairs of another width or CLAP.
    """
    if validation is None:
        train, held = train.split(VALIDATION_SHARE, choice.split_seed)
        if held is None:
            raise _nothing_held_out(train.name, len(train.group.unique()))
        name = f"{VALIDATION_SHARE:.0%} of the training data"
    else:
        held, name = _load_pairs(validation, replace(choice, limit=None)), data_name(validation)
        check_same_space(train, held, name)
    facts = {"name": name, "rows": len(held.target), "recordings": len(held.group.unique())}
    return train, held, {**facts, "fingerprint": held.fingerprint}


def split_cache(choice: DataChoice, needs_audio: bool = True) -> tuple[EmbeddingCache, EmbeddingCache]:
    """Training and held-out caches, which share no recording.

    Args:
        needs_audio: whether something is to be learned from audio.

    Raises:
        DataError: a cache that cannot be read, no pairs to train on, nothing held out, or test data of another width
            or CLAP, or with recordings of the training data.
    """
    cache = _load_cache(choice.embeddings, choice)
    if choice.test is None:
        train, test = cache.split(choice.held_out, choice.split_seed)
        if test is None:
            raise _nothing_held_out(data_name(choice.embeddings), len(cache.audio))
    else:
        train, test = cache, _load_cache(choice.test, choice)
        name = data_name(choice.test)
        check_same_space(EmbeddingPairs.from_cache(train), EmbeddingPairs.from_cache(test), name)
        seen = {row.tobytes() for row in train.audio.numpy()}
        shared = sum(row.tobytes() in seen for row in test.audio.numpy())
        if shared:
            raise DataError(name, f"shares {shared} recordings with the training data", "Test on other recordings")
    if needs_audio and not (train.caption_audio >= 0).any():
        raise DataError(
            data_name(choice.embeddings),
            "has no audio with captions to train on",
            "Use the mode zeroshot with the method none, or a cache with audio",
        )
    return train, test


def check_same_space(train: EmbeddingPairs, test: EmbeddingPairs, name: str) -> None:
    """Raises DataError for test embeddings of another width, or of another CLAP as far as both are known."""
    if train.embedding_dim != test.embedding_dim:
        raise DataError(
            name,
            f"is {test.embedding_dim} wide, the training data {train.embedding_dim}",
            "Embed both with one encoder",
        )
    if None not in (train.clap, test.clap) and train.clap != test.clap:
        raise DataError(
            name, f"was made by CLAP {test.clap}, the training data by {train.clap}", "Embed both with one encoder"
        )


def embedded(
    choice: DataChoice, output: str | Path, default_clap: str | None = None, progress: bool = False
) -> str | Path | EmbeddingPairs:
    """The embeddings of ``choice``: themselves, or the cache below ``output`` that is made of its recordings here.

    An interrupted embedding goes on where it was stopped.

    Args:
        default_clap: embeds recordings where ``choice.clap`` is None.

    Raises:
        DiffusionLinkError: nothing there, recordings without a CLAP to embed them, or either cannot be read.
    """
    data = choice.embeddings
    in_memory = isinstance(data, (EmbeddingPairs, EmbeddingCache))
    if in_memory or Path(data).suffix == ".safetensors" or (Path(data) / MANIFEST).is_file():
        if choice.clap is not None or choice.split is not None:
            raise InputError("clap or split", f"is given, but {data_name(data)} holds embeddings", "Leave it out")
        return EmbeddingPairs.from_cache(data) if isinstance(data, EmbeddingCache) else data
    if choice.clap is None and choice.clap_revision is not None:
        raise InputError("clap_revision", f"is {choice.clap_revision!r}, but no CLAP is named", "Give clap as well")
    clap = choice.clap or default_clap
    if clap is None and not Path(data).exists():
        raise DataError(
            data, "no such file or folder", "Check the path. A data set on the Hub also needs a CLAP (clap=NAME)"
        )
    if clap is None:
        raise DataError(
            data,
            "holds neither an embedding cache nor a file of pairs",
            "Name a CLAP to embed recordings (clap=NAME)",
        )

    from ..data.captioned_audio import open_data
    from ..embeddings.embedding import embed_data
    from ..models.clap import ClapEncoder

    recordings = open_data(data, split=choice.split)
    cache = Path(output) / "embeddings" / f"{Path(data).name}-{recordings.split}"
    encoder = ClapEncoder.from_pretrained(clap, choice.clap_revision)
    embed_data(recordings, encoder, cache, progress=show_bar(progress))
    return cache


def left_out(embeddings: str | Path | EmbeddingPairs | EmbeddingCache) -> list[dict[str, str]]:
    """{"audio", "reason"} of the recordings that could not be embedded, as the cache's manifest has them."""
    if isinstance(embeddings, EmbeddingCache):
        return list(embeddings.manifest.get("failures", ()))
    if isinstance(embeddings, EmbeddingPairs) or not Path(embeddings).is_dir():
        return []
    return list(read_manifest(Path(embeddings)).get("failures", ()))


def data_name(data: str | Path | EmbeddingPairs | EmbeddingCache) -> str:
    """How reports and errors call the data; no folder of the machine is in it."""
    if isinstance(data, EmbeddingPairs):
        return data.name
    return "embedding cache" if isinstance(data, EmbeddingCache) else Path(data).name


def _load_pairs(data: str | Path | EmbeddingPairs | EmbeddingCache, choice: DataChoice) -> EmbeddingPairs:
    """The pairs in the direction and number of ``choice``."""
    if isinstance(data, EmbeddingCache):
        pairs = EmbeddingPairs.from_cache(data)
    else:
        pairs = data if isinstance(data, EmbeddingPairs) else EmbeddingPairs.load(data)
    if choice.reverse:
        pairs = pairs.reversed()
    if choice.limit is None:
        return pairs
    items = pairs.group.unique()
    return pairs.select(torch.isin(pairs.group, items[_chosen(len(items), choice)]))


def _load_cache(data: str | Path | EmbeddingCache, choice: DataChoice) -> EmbeddingCache:
    """The cache, or ``choice.limit`` of its recordings with their captions."""
    cache = data if isinstance(data, EmbeddingCache) else EmbeddingCache.load(data)
    if choice.limit is None:
        return cache
    captions = torch.isin(cache.caption_audio, _chosen(len(cache.audio), choice))
    return cache.select(captions.nonzero()[:, 0]) if captions.any() else cache


def _chosen(items: int, choice: DataChoice) -> torch.Tensor:
    """(limit,) indices of ``items``."""
    return torch.randperm(items, generator=torch.Generator().manual_seed(choice.split_seed))[: choice.limit]


def _nothing_held_out(name: str, recordings: int) -> DataError:
    return DataError(
        name, f"has {recordings} recordings, so none can be held out", "Use more data, or a larger held_out"
    )
