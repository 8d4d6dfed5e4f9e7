"""Captioned recordings from anywhere, one after the other: own folders, AudioCaps, Clotho, Parquet on the Hub."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..audio import load_audio
from ..errors import AudioNotFoundError, DataError, InputError, listed

if TYPE_CHECKING:
    from datasets import IterableDataset

    from .caption_builder import CaptionedAudioBuilder

KINDS = (
    "a folder with metadata.csv or metadata.jsonl (file_name, caption), the CSV files of AudioCaps or Clotho, "
    "Parquet files with audio and captions, or the Hub id of such a repository"
)


@dataclass(frozen=True)
class CaptionedAudio:
    """One recording and what is said of it.

    Attributes:
        name: unique in its data set: a file name, or a YouTube id and start.
        captions: at least one, stripped.
        path: of its file; whether it is there and can be read shows when it is loaded.
        audio: its encoded file, in place of a path. Neither is given where the recording is gone.

    Raises:
        InputError: no caption, an empty one, or both a path and audio.
    """

    name: str
    captions: tuple[str, ...]
    path: Path | None = None
    audio: bytes | None = None

    def __post_init__(self):
        if not self.captions or not all(caption and caption == caption.strip() for caption in self.captions):
            raise InputError(
                self.name, f"has the captions {self.captions!r}", "Give at least one, without spaces at its ends"
            )
        if self.path is not None and self.audio is not None:
            raise InputError(self.name, "has both a path and audio", "Give one of them")

    def load(self) -> np.ndarray:
        """Decode it, as `load_audio` does.

        Returns:
            (n,) float32 mono at 48 kHz.

        Raises:
            AudioNotFoundError: the recording is gone, or its file is.
            AudioError: it cannot be read; the subclass says why.
        """
        source = self.path if self.audio is None else self.audio
        if source is None:
            raise AudioNotFoundError(
                self.name, "its recording is missing, only captions are there", "Fetch it, or leave it out"
            )
        return load_audio(source, name=self.name)


class CaptionedAudioData:
    """The recordings of one split, streamed; can be iterated over again and again, in the same order.

    Attributes:
        name: for reports: the folder's or file's name, or ``owner/name@commit``.
        split: its split.
        fingerprint: hash of the names, captions and sizes of the recordings, or of the commit of a Hub repository for
            the latter. Shards have the whole's.
        left_out: {"audio": name, "reason": text} of its empty captions, which no recording has.
        dataset: the rows as a `datasets.IterableDataset` (`caption_builder.FEATURES`), with its ``state_dict``.
    """

    def __init__(
        self,
        dataset: "IterableDataset",
        name: str,
        split: str,
        fingerprint: str,
        left_out: Sequence[dict[str, str]] = (),
        is_shard: bool = False,
    ):
        self.dataset = dataset
        self.name = name
        self.split = split
        self.fingerprint = fingerprint
        self.left_out = list(left_out)
        self._is_shard = is_shard

    def __iter__(self) -> Iterator[CaptionedAudio]:
        for row in self.dataset:
            audio = row["audio"] or {}
            path = audio.get("path")
            yield CaptionedAudio(row["name"], tuple(row["captions"]), Path(path) if path else None, audio.get("bytes"))

    def shard(self, index: int, count: int) -> "CaptionedAudioData":
        """Part ``index`` of ``count``: each recording is in exactly one of them, in the order of the whole.

        A process then reads its own files or row groups only, in one stretch, where there are at least ``count``.

        Raises:
            InputError: no such part, or this is a part already.
        """
        if self._is_shard:
            raise InputError(
                "shard", "cannot be taken of a data set that is a shard itself", "Call shard on the whole data set"
            )
        if not 0 <= index < count:
            raise InputError("shard", f"is {index} of {count}", "Count from 0")
        if count <= self.dataset.num_shards:
            part = self.dataset.shard(num_shards=count, index=index)
        else:
            from datasets.distributed import split_dataset_by_node

            part = split_dataset_by_node(self.dataset, rank=index, world_size=count)
        return CaptionedAudioData(part, self.name, self.split, self.fingerprint, self.left_out, is_shard=True)


def open_data(
    data: str | Path,
    *,
    split: str | None = None,
    audio: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    limit: int | None = None,
    config: str | None = None,
) -> CaptionedAudioData:
    """Captioned recordings, of the kind that ``data`` turns out to be.

    Args:
        data: one of, and in this order,

            - a folder with metadata.csv or metadata.jsonl, or with one such folder for each split (`AudioFolder`);
            - a folder with ``clotho_captions_<split>.csv`` (`Clotho`);
            - a folder with ``train.csv``, ``val.csv`` or ``test.csv`` of AudioCaps (`AudioCaps`);
            - a folder with Parquet files (`CaptionedParquet`);
            - one of those files itself;
            - the Hub id ``owner/name`` of a data set of Parquet files.
        split: needed where there are several.
        audio: folder of the recordings, where it is not the one of the captions.
        revision: branch, tag or commit of a Hub id.
        token: for the Hub, by default the one that is logged in.
        limit: take only the first recordings.
        config: configuration of a Parquet repository that has several.

    Raises:
        DataError: not such data, a split or column that is missing, no caption at all, a name given twice. An empty
            caption is left out, and listed in `CaptionedAudioData.left_out`.
        HubAccessError: the repository cannot be reached; the client's error is chained.
        InputError: an argument that does not go with the kind of data, or a limit below 1.
    """
    from .captioned_parquet import CaptionedParquet
    from .hub_audio import hub_files

    place = os.fspath(data)
    if not os.path.exists(place):
        kind = CaptionedParquet
        name, files = hub_files(place, revision, token, config)
    elif revision is not None:
        raise InputError("revision", f"is {revision!r}, but {place} is not a Hub id", "Leave it out")
    else:
        kind, files = _local_files(os.path.abspath(place), config)
        name = Path(place).resolve().name
    if config is not None and kind is not CaptionedParquet:
        raise InputError("config", f"is {config!r}, but {place} has none", "Leave it out")
    if audio is not None and kind is CaptionedParquet:
        raise InputError("audio", f"is {os.fspath(audio)!r}, but {place} holds its audio itself", "Leave it out")
    return _open(kind, files, name, split, audio=None if audio is None else os.fspath(audio), limit=limit, token=token)


def _open(
    kind: type["CaptionedAudioBuilder"], files: dict[str, list[str]], name: str, split: str | None, **config
) -> CaptionedAudioData:
    from .caption_builder import choose_split, name_files

    split = choose_split(list(files), split, name)
    builder = kind(data_files=name_files({split: files[split]}), **config)
    rows, fingerprint = builder.as_streaming_dataset(split), builder.fingerprint(split)
    return CaptionedAudioData(rows, name, split, fingerprint, builder.left_out(split))


def _local_files(place: str, config: str | None) -> tuple[type["CaptionedAudioBuilder"], dict[str, list[str]]]:
    """What kind of data a file or folder holds, and the files of its splits."""
    from .audio_folder import AudioFolder
    from .audiocaps import AudioCaps
    from .captioned_parquet import CaptionedParquet
    from .clotho import Clotho
    from .hub_audio import folder_files

    if os.path.isfile(place):
        kind, split = _kind_of_file(place)
        return kind, {split: [place]}
    for kind in (AudioFolder, Clotho, AudioCaps):
        found = kind.find_files(place)
        if found:
            return kind, {split: [file] for split, file in found.items()}
    if next(Path(place).rglob("*.parquet"), None) is not None:
        return CaptionedParquet, folder_files(place, config)
    held = listed(os.listdir(place), most=5)
    raise DataError(place, f"holds no captions ({held or 'it is empty'})", f"Name {KINDS}")


def _kind_of_file(file: str) -> tuple[type["CaptionedAudioBuilder"], str]:
    from .audio_folder import AudioFolder
    from .audiocaps import COLUMNS, AudioCaps
    from .caption_builder import SPLIT
    from .caption_table import read_header
    from .captioned_parquet import CaptionedParquet
    from .clotho import CAPTION_FILE, Clotho

    base, extension = os.path.splitext(os.path.basename(file))
    if extension not in (".csv", ".jsonl", ".parquet"):
        raise DataError(file, "is not a csv, jsonl or parquet file", f"Name {KINDS}")
    if extension == ".parquet":
        return CaptionedParquet, "train"
    columns = set(read_header(file)) if extension == ".csv" else set()
    if set(COLUMNS) <= columns:
        return AudioCaps, base if SPLIT.fullmatch(base) else "train"
    named = CAPTION_FILE.fullmatch(f"{base}{extension}")
    if named and "caption_1" in columns:
        return Clotho, named[1]
    return AudioFolder, "train"
