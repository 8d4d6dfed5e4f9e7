"""Own recordings: a folder with metadata.csv or metadata.jsonl, in the format of the Hub's ``audiofolder``."""

import os

import pyarrow as pa

from ..errors import DataError
from .caption_builder import CaptionedAudioBuilder, with_paths
from .caption_table import caption_column, gather_captions, read_csv, read_json_lines, require_columns

METADATA = ("metadata.jsonl", "metadata.csv")


class AudioFolder(CaptionedAudioBuilder):
    """``file_name`` (relative to the metadata) with ``caption``, or ``captions`` (a list, in JSON).

    Rows of one file are its several captions. ``data_dir`` holds the metadata itself, which is the split "train", or a
    folder with metadata for each split.
    """

    @staticmethod
    def find_files(folder: str) -> dict[str, str]:
        own = _metadata(folder)
        if own:
            return {"train": own}
        with os.scandir(folder) as entries:
            folders = sorted((entry.name, entry.path) for entry in entries if entry.is_dir())
        found = {name: _metadata(path) for name, path in folders}
        return {name: file for name, file in found.items() if file}

    def read_clips(self, split: str) -> pa.Table:
        path = self.caption_file(split)
        rows = read_json_lines(path) if path.endswith(".jsonl") else read_csv(path)
        require_columns(rows.column_names, ("file_name",), path)
        if rows["file_name"].type != pa.string():
            raise DataError(path, f"has a column file_name of {rows['file_name'].type}", "Name the files in text")
        captions = caption_column(rows, path)
        clips = gather_captions(rows["file_name"], captions, lambda k: f"{path}, row {k + 1}", self.left_out(split))
        return with_paths(clips, self.config.audio or os.path.dirname(path))


def _metadata(folder: str) -> str | None:
    found = [path for path in (os.path.join(folder, name) for name in METADATA) if os.path.isfile(path)]
    if len(found) > 1:
        raise DataError(folder, f"has both {' and '.join(METADATA)}", "Keep one of them")
    return found[0] if found else None
