"""AudioCaps (Kim et al., NAACL 2019) from its official CSV files and whatever of YouTube could be fetched."""

import os
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from ..audio import AUDIO_EXTENSIONS
from ..errors import DataError
from .caption_builder import CaptionedAudioBuilder, check_folder, with_audio_paths
from .caption_table import gather_captions, read_csv, read_header, require_columns

COLUMNS = ("youtube_id", "start_time", "caption")
CLIP_SECONDS = 10


class AudioCaps(CaptionedAudioBuilder):
    """``audiocap_id, youtube_id, start_time, caption``; a split for each such CSV file, named as the file.

    Names are ``<youtube_id>_<start_time>``; rows of one clip (five in val and test) are its several captions.
    Recordings are looked for in all folders below ``audio``, by default below the CSV's own, with any extension that
    `diffusion_link_hf.audio` reads, as (the first that is there)

    - ``<youtube_id>_<start>``, ``<youtube_id>_<start>_<end>``, in seconds, or ``<start>_<end>`` in milliseconds,
    - ``<youtube_id>``, unless the split has several clips of that video,
    - each of these behind a ``Y``,
    - ``<audiocap_id>`` of one of the clip's rows.

    Clips without a recording come with their captions only: removals from YouTube are normal.
    """

    @staticmethod
    def find_files(folder: str) -> dict[str, str]:
        files = sorted(name for name in os.listdir(folder) if name.endswith(".csv"))
        paths = {name.removesuffix(".csv"): os.path.join(folder, name) for name in files}
        return {split: path for split, path in paths.items() if set(COLUMNS) <= set(read_header(path))}

    def read_clips(self, split: str) -> pa.Table:
        path = self.caption_file(split)
        rows = read_csv(path)
        require_columns(rows.column_names, COLUMNS, path)
        names = pc.binary_join_element_wise(rows["youtube_id"], rows["start_time"], "_")
        clips = gather_captions(names, rows["caption"], lambda k: f"{path}, row {k + 1}", self.left_out(split))
        given = self.config.audio
        recordings = find_recordings(given or os.path.dirname(path))
        paths = _match(rows, names, clips, recordings)
        if given and not any(paths):
            raise DataError(
                given,
                f"has none of the {len(clips)} recordings of {path}",
                f"Name them as {clips['name'][0]}.wav, for instance; see AudioCaps",
            )
        return with_audio_paths(clips, paths)


def find_recordings(folder: str) -> dict[str, list[str]]:
    """Audio files in all folders below ``folder``, by their names without extension.

    Raises:
        DataError: no such folder.
    """
    check_folder(folder)
    found: dict[str, list[str]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension.lower() in AUDIO_EXTENSIONS:
                found.setdefault(stem, []).append(os.path.join(place, name))
    return found


def usual_stems(youtube_id: str, start: str, only_clip: bool) -> list[str]:
    """How downloaders name a clip, the most specific first."""
    stems = [f"{youtube_id}_{start}"]
    if start.isdecimal():
        first, last = int(start), int(start) + CLIP_SECONDS
        stems += [f"{youtube_id}_{first}_{last}", f"{youtube_id}_{1000 * first}_{1000 * last}"]
    stems += [youtube_id] if only_clip else []
    return stems + [f"Y{stem}" for stem in stems]


def _match(
    rows: pa.Table, names: pa.ChunkedArray, clips: pa.Table, recordings: dict[str, list[str]]
) -> list[str | None]:
    """The recording of each clip, or None."""
    if not recordings:
        return [None] * len(clips)
    ids, starts = (rows[column].take(clips["row"]).to_pylist() for column in ("youtube_id", "start_time"))
    clips_of_video = Counter(ids)
    row_ids: dict[str, list[str]] = {}
    if "audiocap_id" in rows.column_names:
        for name, row_id in zip(names.to_pylist(), rows["audiocap_id"].to_pylist(), strict=True):
            row_ids.setdefault(name, []).append(row_id)
    paths = []
    for name, youtube_id, start in zip(clips["name"].to_pylist(), ids, starts, strict=True):
        stems = usual_stems(youtube_id, start, clips_of_video[youtube_id] == 1) + row_ids.get(name, [])
        found = next((recordings[stem] for stem in stems if stem in recordings), [None])
        if len(found) > 1:
            raise DataError(
                name, f"has the recordings {' and '.join(found)}", "Keep one of them, or set audio to its folder"
            )
        paths.append(found[0])
    return paths
