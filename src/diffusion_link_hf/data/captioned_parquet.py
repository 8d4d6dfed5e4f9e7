"""Captioned recordings in Parquet files, in the layout that `datasets` writes, from a folder or the Hub."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import DataError, DiffusionLinkError, HubAccessError
from .caption_builder import CaptionedAudioBuilder, as_rows
from .caption_table import caption_column, caption_names, gather_captions
from .parted_file import PartedFile

HUB = "hf://"
AUDIO_ROWS = 8  # decoded from Parquet at a time
READERS = 8  # files whose captions, or parts of a row group that are fetched at a time
IDENTITIES = (["youtube_id", "start_time"], ["youtube_id"], ["file_name"])  # columns that make a name
REMEDY = "Give audio {bytes, path} and caption, captions or caption_1 …; and youtube_id, start_time or file_name"


class CaptionedParquet(CaptionedAudioBuilder):
    """Columns ``audio`` {bytes, path}, and ``caption``, ``captions`` or ``caption_1``, ``caption_2`` …

    Such are the copies of AudioCaps and Clotho on the Hub. A recording is called ``<youtube_id>_<start_time>``
    (``<youtube_id>`` without a start), else ``file_name``; rows of one name with a single caption each are then its
    several captions, and the first one's audio is taken. Without such columns a recording has the ``path`` of its
    audio, which must differ from row to row, or where that is null, the place of its row. Other columns are not read.

    A row without audio is a recording that is gone; in a folder, ``path`` may name a file, relative to the Parquet
    file. The shards are the row groups, which `datasets` writes with about 100 MB of audio; up to three times that is
    in memory. From the Hub a row group is fetched in parts, several at a time. ``data_files`` are needed; `hub_audio`
    finds them. ``token`` opens private repositories.
    """

    @staticmethod
    def find_files(folder: str) -> dict[str, str]:
        """None: a split has many files, which `hub_audio.folder_files` finds."""
        return {}

    def read_clips(self, split: str) -> pa.Table:
        files = self.files[split]
        with ThreadPoolExecutor(READERS) as pool:
            read = list(pool.map(self._read_text, files))
        tables, groups = [table for table, _ in read], [sizes for _, sizes in read]
        for file, table in zip(files, tables, strict=True):
            if table.schema != tables[0].schema:
                raise DataError(
                    file, f"does not have the columns of {files[0]}", "Give all files of a split the same columns"
                )
        starts = list(accumulate((len(table) for table in tables), initial=0))

        def where(k: int) -> str:
            file = min(bisect_right(starts, k) - 1, len(files) - 1)
            return f"{os.path.basename(files[file])}, row {k - starts[file] + 1}"

        rows = pa.concat_tables(tables)
        if "name" in rows.column_names:
            return _locate(gather_captions(rows["name"], rows["captions"], where, self.left_out(split)), groups)
        places = [path or where(k) for k, path in enumerate(rows["path"].to_pylist())]
        names = pa.chunked_array([pa.array(places, pa.string())])
        clips = gather_captions(names, rows["captions"], where, self.left_out(split), repeated=False)
        return _locate(clips, groups)

    def shard_clips(self, split: str, clips: pa.Table) -> dict[str, Any]:
        files = self.files[split]
        places = zip(clips["file"].to_pylist(), clips["group"].to_pylist(), strict=True)
        shards: dict[tuple[int, int], list[int]] = {}
        for k, place in enumerate(places):
            shards.setdefault(place, []).append(k)
        return {
            "files": [files[file] for file, _ in shards],
            "groups": [group for _, group in shards],
            "clips": [clips.take(rows).select(["name", "captions", "row"]) for rows in shards.values()],
        }

    def audio_identity(self, split: str) -> str:
        """Names of the files, with the commit on the Hub, with their sizes in a folder."""
        files = self.files[split]
        if files[0].startswith(HUB):
            return "\n".join(files)
        return "\n".join(f"{os.path.basename(file)} {os.path.getsize(file)}" for file in files)

    def _generate_tables(self, files: list[str], groups: list[int], clips: list[pa.Table]):
        for shard, (file, group, wanted) in enumerate(zip(files, groups, clips, strict=True)):
            rows, start = wanted["row"].to_numpy(), 0
            for audio in self._read_audio(file, group):
                first, last = np.searchsorted(rows, [start, start + len(audio)])
                if first < last:
                    own = audio.take(pa.array(rows[first:last] - start))
                    part = wanted.slice(first, last - first).select(["name", "captions"])
                    yield (shard, start), as_rows(part, _audio(own, file))
                start += len(audio)
                if start > rows[-1]:
                    break

    def _read_text(self, file: str) -> tuple[pa.Table, list[int]]:
        """``name`` (or ``path``) and ``captions`` of a file's rows, and the sizes of its row groups."""
        with reading(file), self._open(file, cache_type="none") as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=True)
            schema = parquet.schema_arrow
            if "audio" not in schema.names or not _has_field(schema.field("audio").type, "bytes"):
                raise DataError(file, f"has the columns {', '.join(schema.names)}", REMEDY)
            identity = next((columns for columns in IDENTITIES if set(columns) <= set(schema.names)), [])
            path = [] if identity or not _has_field(schema.field("audio").type, "path") else ["audio.path"]
            rows = parquet.read(columns=[*identity, *caption_names(schema.names), *path])
            sizes = [parquet.metadata.row_group(k).num_rows for k in range(parquet.num_row_groups)]
        captions = caption_column(rows, file)
        if identity:
            parts = [_as_text(rows[column]) for column in identity]
            name = pc.binary_join_element_wise(*parts, "_") if len(parts) > 1 else parts[0]
            return pa.table({"name": name, "captions": captions}), sizes
        paths = pc.struct_field(rows["audio"], "path").cast(pa.string()) if path else pa.nulls(len(rows), pa.string())
        return pa.table({"path": paths, "captions": captions}), sizes

    def _read_audio(self, file: str, group: int) -> Iterator[pa.Array]:
        with reading(file), self._open_audio(file) as stream:
            parquet = pq.ParquetFile(stream)
            for batch in parquet.iter_batches(AUDIO_ROWS, row_groups=[group], columns=["audio"]):
                yield batch.column(0)

    @contextmanager
    def _open_audio(self, file: str) -> Iterator[Any]:
        """The file; one on the Hub in parts."""
        if not file.startswith(HUB):
            with self._open(file) as stream:
                yield stream
            return
        system, path = fsspec.core.url_to_fs(file, token=self.token)
        with (
            ThreadPoolExecutor(READERS) as pool,
            PartedFile(
                lambda start, end: system.cat_file(path, start=start, end=end), system.size(path), pool, READERS
            ) as stream,
        ):
            yield stream

    def _open(self, file: str, **options):
        system, path = fsspec.core.url_to_fs(file, **({"token": self.token} if file.startswith(HUB) else {}))
        return system.open(path, "rb", **(options if file.startswith(HUB) else {}))


@contextmanager
def reading(file: str):
    """Failures to read a file of the Hub, or one here, as typed errors."""
    try:
        yield
    except DiffusionLinkError:
        raise
    except pa.ArrowInvalid as error:
        raise DataError(file, f"is not a whole Parquet file ({error})", "Fetch or write it again") from error
    except Exception as error:  # the HTTP library below the Hub's client raises its own, which differ by its version
        if file.startswith(HUB):
            raise HubAccessError(file, f"cannot be fetched ({error})", "Check the network and try again") from error
        raise DataError(file, f"cannot be read ({error})", "Check the file and its permissions") from error


def _has_field(audio: pa.DataType, name: str) -> bool:
    return pa.types.is_struct(audio) and name in {field.name for field in audio}


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text or numbers as text; 30.0 seconds are "30", as in the other files of AudioCaps."""
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64()) if pc.all(pc.equal(column, pc.floor(column))).as_py() else column
    return column.cast(pa.string())


def _locate(clips: pa.Table, groups: list[list[int]]) -> pa.Table:
    """``row`` counted in its row group, and which one: ``file`` and ``group``."""
    places = [(file, group) for file, sizes in enumerate(groups) for group in range(len(sizes))]
    starts = np.cumsum([0, *(size for sizes in groups for size in sizes)])
    rows = clips["row"].to_numpy()
    which = np.searchsorted(starts, rows, side="right") - 1
    clips = clips.select(["name", "captions"]).append_column("row", pa.array(rows - starts[which]))
    for k, column in enumerate(("file", "group")):
        clips = clips.append_column(column, pa.array([places[i][k] for i in which], pa.int32()))
    return clips


def _audio(audio: pa.Array, file: str) -> pa.StructArray:
    """Bytes; without them, in a folder, the path, which is then relative to the Parquet file."""
    data = pc.struct_field(audio, "bytes").cast(pa.binary())
    paths = pa.nulls(len(audio), pa.string())
    if not file.startswith(HUB) and _has_field(audio.type, "path"):
        folder = os.path.dirname(file)
        own = pc.struct_field(audio, "path").to_pylist()
        paths = [
            os.path.join(folder, path) if path and not has_bytes else None
            for path, has_bytes in zip(own, data.is_valid().to_pylist(), strict=True)
        ]
    return pa.StructArray.from_arrays([data, pa.array(paths, pa.string())], ["bytes", "path"])
