"""Clotho (Drossos et al., ICASSP 2020): 15 to 30 seconds of Freesound, five captions each, from its official files."""

import os
import re

import pyarrow as pa

from ..errors import DataError
from .caption_builder import CaptionedAudioBuilder, with_paths
from .caption_table import caption_column, gather_captions, read_csv, require_columns

CAPTION_FILE = re.compile(r"clotho_captions_(\w+)\.csv")


class Clotho(CaptionedAudioBuilder):
    """``clotho_captions_<split>.csv`` and the folders of its archives; splits development, validation, evaluation.

    Recordings of a split are in ``<split>/`` or ``clotho_audio_<split>/`` of the folder ``audio``, which is by default
    the one of the captions, or in the folder ``audio`` itself.
    """

    @staticmethod
    def find_files(folder: str) -> dict[str, str]:
        matches = [(CAPTION_FILE.fullmatch(name), name) for name in sorted(os.listdir(folder))]
        return {match[1]: os.path.join(folder, name) for match, name in matches if match}

    def read_clips(self, split: str) -> pa.Table:
        path = self.caption_file(split)
        rows = read_csv(path)
        require_columns(rows.column_names, ("file_name", "caption_1"), path)
        captions = caption_column(rows, path)
        clips = gather_captions(rows["file_name"], captions, lambda k: f"{path}, row {k + 1}", self.left_out(split))
        return with_paths(clips, self._recordings(split, path))

    def _recordings(self, split: str, path: str) -> str:
        given = self.config.audio
        parent = given or os.path.dirname(path)
        folders = [os.path.join(parent, name) for name in (split, f"clotho_audio_{split}")]
        found = [folder for folder in folders if os.path.isdir(folder)]
        if given and not found:
            return given
        if len(found) != 1:
            problem = f"has {' and '.join(found)}" if found else f"has neither {' nor '.join(folders)} beside it"
            raise DataError(path, problem, f"Set audio to the folder that has the recordings of the split {split}")
        return found[0]
