"""What all captioned data sets share: their features, splits and shards, as a builder of `datasets`."""

import hashlib
import json
import os
import re
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import datasets.data_files
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError, InputError

# Not `datasets.Audio`, which needs torchcodec in all its uses.
FEATURES = datasets.Features(
    {
        "name": datasets.Value("string"),
        "captions": datasets.List(datasets.Value("string")),
        "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    }
)
ROWS_PER_SHARD = 64
SPLIT = re.compile(r"\w+")


def name_files(files: dict[str, list[str]]) -> datasets.data_files.DataFilesDict:
    """``data_files`` of a builder, by split, taken as they are: `datasets` itself would read them as patterns."""
    return datasets.data_files.DataFilesDict(
        {split: datasets.data_files.DataFilesList(paths, [()] * len(paths)) for split, paths in files.items()}
    )


def choose_split(splits: list[str], split: str | None, where: object) -> str:
    """``split``, or the only one where None is given.

    Raises:
        DataError: no such split, or None where there are several.
    """
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        problem = "has several splits" if split is None else f"has no split {split!r}"
        raise DataError(where, problem, f"Name one of {', '.join(splits)}")
    return split


@dataclass
class CaptionedAudioConfig(datasets.BuilderConfig):
    """Configuration of a `CaptionedAudioBuilder`.

    Attributes:
        data_dir: folder that holds the data under its usual names.
        data_files: the files of each split, if they have other names.
        audio: folder of the recordings, where it is not where the data set has it.
        limit: how many recordings of each split to take, from the first; all by default.
    """

    audio: str | None = None
    limit: int | None = None


class CaptionedAudioBuilder(datasets.ArrowBasedBuilder):
    """A data set of recordings with captions; ``as_streaming_dataset(split=…)`` needs no preparation.

    Rows have the `FEATURES`: ``name`` (unique in the split), ``captions`` (at least one, stripped), and ``audio``
    with either ``bytes`` (an encoded file), or ``path``, or neither where the recording is gone. Names and captions of
    a split are read and checked first, and stay in memory; audio does not.
    """

    BUILDER_CONFIG_CLASS = CaptionedAudioConfig
    config: CaptionedAudioConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._clips: dict[str, pa.Table] = {}
        self._left_out: dict[str, list[dict[str, str]]] = {}

    @staticmethod
    @abstractmethod
    def find_files(folder: str) -> dict[str, str]:
        """The caption file of each split in a folder; none where the folder holds data of another kind."""

    @abstractmethod
    def read_clips(self, split: str) -> pa.Table:
        """One row per recording: ``name``, ``captions``, and whatever `shard_clips` needs."""

    @cached_property
    def files(self) -> dict[str, list[str]]:
        """Files of each split.

        Raises:
            DataError: there are none, or a split has a name that `datasets` refuses.
        """
        folder, named = self.config.data_dir or ".", self.config.data_files
        files = {split: [file] for split, file in self.find_files(folder).items()} if named is None else dict(named)
        if not files:
            raise DataError(folder, f"holds no {type(self).__name__} data", "Check data_dir, or name data_files")
        for split in files:
            if not SPLIT.fullmatch(split):
                raise DataError(folder, f"has a split {split!r}", "Rename it: it may hold letters, digits and _")
        return {str(split): list(paths) for split, paths in files.items()}

    @property
    def splits(self) -> list[str]:
        return list(self.files)

    def left_out(self, split: str) -> list[dict[str, str]]:
        """{"audio": name, "reason": text} of the empty captions of a split, once `clips` has read it."""
        return self._left_out.setdefault(split, [])

    def shard_clips(self, split: str, clips: pa.Table) -> dict[str, Any]:
        """Arguments of `_generate_tables`: lists are of one length, with an entry for each shard.

        By default ``clips`` has all of the `FEATURES`.
        """
        size = min(ROWS_PER_SHARD, max(1, len(clips) // ROWS_PER_SHARD))
        starts = range(0, len(clips), size)
        # Not slices of the table: each of them would be pickled, for a worker, with all of it.
        return {"rows": [range(start, min(start + size, len(clips))) for start in starts], "clips": clips}

    def clips(self, split: str) -> pa.Table:
        """What `read_clips` returns, up to the limit; read once.

        Raises:
            InputError: a limit below 1.
            DataError: no such split, or captions that cannot be used.
        """
        limit = self.config.limit
        if limit is not None and limit < 1:
            raise InputError("limit", f"is {limit}", "Take at least one recording, or leave it out")
        choose_split(self.splits, split, self.name)
        if split not in self._clips:
            clips = self.read_clips(split)
            self._clips[split] = clips if limit is None else clips.slice(0, limit)
        return self._clips[split]

    def fingerprint(self, split: str) -> str:
        """Hash of the names and captions, in their order, and of `audio_identity`."""
        digest = hashlib.sha256(self.audio_identity(split).encode())
        for batch in self.clips(split).select(["name", "captions"]).to_batches(max_chunksize=ROWS_PER_SHARD):
            for name, captions in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                digest.update(json.dumps([name, captions]).encode())
        return digest.hexdigest()[:16]

    def caption_file(self, split: str) -> str:
        """Path of the one file of a split.

        Raises:
            DataError: there are several.
        """
        files = self.files[split]
        if len(files) != 1:
            raise DataError(
                f"{self.name}, split {split}", f"has {len(files)} caption files", "Choose one with data_files"
            )
        return os.path.abspath(files[0])

    def audio_identity(self, split: str) -> str:
        """What tells recordings of equal names and captions apart, as far as it can be had without reading them: the
        sizes of their files, -1 for one that is gone.
        """
        paths = pc.struct_field(self.clips(split)["audio"], "path").to_pylist()
        return " ".join(str(os.path.getsize(path) if path and os.path.isfile(path) else -1) for path in paths)

    def as_streaming_dataset(self, split: str | None = None, base_path: str | None = None):
        """As in `datasets`; DataError where there is no such split."""
        if split is not None:
            choose_split(self.splits, str(split), self.name)
        return super().as_streaming_dataset(split, base_path)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs=self.shard_clips(split, self.clips(split)))
            for split in self.splits
        ]

    def _generate_tables(self, rows: list[range], clips: pa.Table):
        for shard, own in enumerate(rows):
            yield shard, clips.slice(own.start, len(own))


def check_folder(folder: str) -> None:
    """Raises DataError if there is no such folder of recordings."""
    if not os.path.isdir(folder):
        raise DataError(folder, "is not a folder", "Set audio to the folder of the recordings")


def with_paths(clips: pa.Table, folder: str) -> pa.Table:
    """Gathered captions as `FEATURES`, for recordings whose names are their files' in ``folder``."""
    check_folder(folder)
    return with_audio_paths(clips, [os.path.join(folder, name) for name in clips["name"].to_pylist()])


def with_audio_paths(clips: pa.Table, paths: list[str | None]) -> pa.Table:
    """Gathered captions as `FEATURES`; None where the recording is gone."""
    files = [pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())]
    return as_rows(clips.select(["name", "captions"]), pa.StructArray.from_arrays(files, ["bytes", "path"]))


def as_rows(clips: pa.Table, audio: pa.StructArray) -> pa.Table:
    """``name``, ``captions`` and their ``audio`` {bytes, path}, with the types of `FEATURES`."""
    return clips.append_column("audio", audio).cast(FEATURES.arrow_schema)
