"""A folder of recordings, searched by words or by a sound: the index of its windows, kept up to date."""

import copy
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..audio import WINDOW_SECONDS
from ..embeddings.cache import clap_fingerprint
from ..errors import AudioError, AudioNotFoundError, DataError, InputError
from ..files import make_writable
from ..pipelines.sound_search import SoundSearchPipeline
from .heard_files import hear_files
from .index_files import (
    AGAIN,
    LOCK,
    Manifest,
    read_entries,
    read_manifest,
    read_part,
    remove_leftovers,
    write_manifest,
)
from .index_writer import PART_ROWS, PART_SECONDS, Catalog, IndexWriter, needs_repacking, read_catalog, repack
from .journal import state_of
from .nearest import Nearest

INDEX_NAME = ".sound-index"  # in the folder of the recordings; hidden, so that no recording is looked for in it


@dataclass(frozen=True)
class SoundMatch:
    """A window that was found.

    Attributes:
        file: name of its recording.
        start, end: seconds in it.
        score: cosine of the query and the window, -1 to 1. Compare scores of one query only.
    """

    file: str
    start: float
    end: float
    score: float


class SoundIndex:
    """The CLAP embeddings of all windows of a folder of recordings; `index_sounds` makes it.

    Args:
        folder: of the index.
        sounds: the folder of the recordings, which is put before their names; None leaves it out.

    Attributes:
        errors: {file: why it could not be read}, of the update that this comes from.

    Raises:
        DataError: there is no index, its building was not finished, or it is damaged.

    Examples:
        >>> import tempfile, pathlib, numpy, soundfile
        >>> from diffusion_link_hf import SoundSearchPipeline, index_sounds
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     noise = numpy.random.default_rng(ord(name)).normal(0, 0.05, 24_000)
        ...     soundfile.write(folder / f"{name}.wav", noise, 48_000)
        >>> pipe = SoundSearchPipeline.from_pretrained("tiny")
        >>> index = index_sounds(pipe, folder)
        >>> index.files, len(index)
        (['a.wav', 'b.wav'], 2)
        >>> [match.start for match in index.search(pipe, "rain on a roof", top=1)]
        [0.0]
        >>> best = index.search(pipe, folder / "b.wav")[0]
        >>> pathlib.Path(best.file).name, round(best.score, 3)
        ('b.wav', 1.0)
    """

    def __init__(self, folder: str | Path, sounds: str | Path | None = None):
        self.folder, self.sounds = Path(folder), None if sounds is None else Path(sounds)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise DataError(folder, "holds no sound index", "Make one with index_sounds, or check the path")
        if manifest.unfinished:
            raise DataError(folder, "is an index whose building was not finished", "Run index_sounds again, to go on")
        self.errors: dict[str, str] = {}
        self._manifest, self._catalog = manifest, _catalog(self.folder, manifest)
        self._names = sorted(self._catalog)
        self._loaded: tuple[torch.Tensor, ...] | None = None
        self._nearest: dict[tuple[int, str], tuple[Any, Nearest]] = {}
        self._checked: Any = None

    @property
    def files(self) -> list[str]:
        """Names of the recordings below their folder, sorted."""
        return list(self._names)

    @property
    def hop_seconds(self) -> float:
        """From one window's start to the next one's."""
        return self._manifest.hop_seconds

    def __len__(self) -> int:
        """Number of windows."""
        return sum(last - first for _, places in self._catalog.values() for _, first, last in places)

    def windows(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All windows, read at the first call and kept.

        Returns:
            (N, D) float32 unit rows; (N,) int64, each one's recording as its number in `files`; and (N, 2) float64
            starts and ends in seconds. Recordings and their windows are in order.

        Raises:
            DataError: the files of the index are damaged.
        """
        if self._loaded is None:
            self._loaded = _read_windows(self.folder, self._manifest, self._catalog, self._names)
        return self._loaded

    def path_of(self, name: str) -> str:
        """A recording's name in `files`, behind the folder of the recordings."""
        return name if self.sounds is None else str(self.sounds / name)

    def check_made_by(self, pipeline: SoundSearchPipeline) -> None:
        """Raises DataError where another CLAP made the index."""
        if self._checked is not pipeline.clap:
            _check_clap(self.folder, self._manifest, clap_fingerprint(pipeline.clap))
            self._checked = pipeline.clap

    def search(
        self,
        pipeline: SoundSearchPipeline,
        query: Any,
        *,
        top: int = 10,
        all_windows: bool = False,
        bridge: bool = False,
        backend: str = "exact",
    ) -> list[SoundMatch]:
        """The windows most similar to a query.

        Args:
            pipeline: with the CLAP that made the index.
            query: text as `str`; or a recording: a path as `pathlib.Path`, or whatever else `load_audio` takes.
            top: how many.
            all_windows: whether a recording may come several times; otherwise its best window stands for it.
            bridge: whether the pipeline's link maps sounds to text-like embeddings first; of a recording as the query,
                too.
            backend: "exact", or "faiss" (extra ``search``), which finds the same.

        Returns:
            Best first; of equal scores by name and time. Fewer than ``top`` if there are no more.

        Raises:
            InputError: an option out of range, an empty text, a silent recording, no link to bridge with, no faiss.
            AudioError: the query cannot be read.
            DataError: another CLAP made the index, or its files are damaged.
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError("top", f"is {top!r}", "Use a whole number of at least 1")
        self.check_made_by(pipeline)
        is_text = isinstance(query, str)
        if is_text and not query.strip():
            raise InputError("query", "is empty", "Say what to look for")
        row = pipeline.encode_text([query]) if is_text else pipeline.encode_sound(query)
        if bridge and not is_text:
            row = pipeline.bridge_rows(row)
        return self._matches(self._searcher(pipeline if bridge else None, backend), row[0].cpu(), top, all_windows)

    def _searcher(self, pipeline: SoundSearchPipeline | None, backend: str) -> Nearest:
        """Of the windows as they are, or bridged by a pipeline; kept for further queries."""
        link = None if pipeline is None else pipeline.link
        key = (id(link), backend)
        if key not in self._nearest:
            rows = self.windows()[0]
            rows = rows if pipeline is None else pipeline.bridge_rows(rows)
            self._nearest[key] = (link, Nearest(rows, backend))  # with the link, so that its id stays its own
        return self._nearest[key][1]

    def _matches(self, nearest: Nearest, row: torch.Tensor, top: int, all_windows: bool) -> list[SoundMatch]:
        rows, owners, times = self.windows()
        count = top if all_windows else 4 * top
        while True:
            scores, numbers = nearest.search(row, count)
            # Windows are sorted by name and time, and equal scores by number.
            found = list(zip(scores.tolist(), owners[numbers].tolist(), times[numbers].tolist(), strict=True))
            if not all_windows:
                best: dict[int, tuple] = {}
                for one in found:
                    best.setdefault(one[1], one)
                found = list(best.values())
            if len(found) >= top or len(numbers) == len(rows):
                return [
                    SoundMatch(self.path_of(self._names[owner]), start, end, score)
                    for score, owner, (start, end) in found[:top]
                ]
            count *= 8


def index_sounds(
    pipeline: SoundSearchPipeline,
    sounds: str | Path,
    index: str | Path | None = None,
    *,
    hop_seconds: float | None = None,
    batch_size: int = 32,
    max_duration: float | None = None,
    rebuild: bool = False,
    progress: Callable[[str, str | None], object] = lambda file, error: None,
) -> SoundIndex:
    """Index a folder of recordings, or bring its index up to date.

    New recordings, and those whose size or time changed, are embedded; those that are gone are dropped. Finished
    recordings are written every minute, so that a killed run goes on from there. Memory does not grow with the number
    of windows. Silence is not indexed.

    Args:
        pipeline: embeds the recordings.
        sounds: their folder, searched as `find_audio_files` does.
        index: folder of the index; ``.sound-index`` in ``sounds`` by default, which moves along with it.
        hop_seconds: from one window's start to the next one's, 0.1 to 10; 10 by default, or that of the index.
        batch_size: windows embedded at once.
        max_duration: seconds; a longer recording is an error.
        rebuild: whether an index that is there is dropped, whatever it is.
        progress: called with each recording that was read now, and None or its error.

    Returns:
        The index; its ``errors`` say what could not be read.

    Raises:
        AudioNotFoundError: no such folder, or no recording in it.
        DataError: the index is damaged, of another CLAP, another hop or another folder; or it cannot be written, or
            another process writes it.
        InputError: an option out of range.
    """
    sounds = Path(sounds)
    check_folder(sounds)
    folder = sounds / INDEX_NAME if index is None else Path(index)
    fingerprint = clap_fingerprint(pipeline.clap)
    before = None if rebuild else read_manifest(folder)
    if before is None:
        manifest = Manifest(
            fingerprint, pipeline.clap.embedding_dim, WINDOW_SECONDS if hop_seconds is None else hop_seconds
        )
    else:
        manifest = copy.deepcopy(before)
        _check_clap(folder, manifest, fingerprint)
        if hop_seconds not in (None, manifest.hop_seconds):
            problem = f"has windows every {manifest.hop_seconds:g} s, not every {hop_seconds:g} s"
            raise DataError(folder, problem, f"Leave the hop out. {AGAIN}")
    update = _Update(pipeline, sounds, folder, manifest, before, rebuild)
    options = {"batch_size": batch_size, "hop_seconds": manifest.hop_seconds, "max_duration": max_duration}
    update.run(progress, options)
    result = SoundIndex(folder, sounds)
    result.errors, result._checked = update.errors, pipeline.clap
    return result


def check_folder(sounds: str | Path) -> None:
    """Raises AudioNotFoundError for what is no folder."""
    if not os.path.isdir(sounds):
        raise AudioNotFoundError(sounds, "is no folder", "Name a folder of recordings")


class _Update:
    """One run of `index_sounds`. The index is locked and written only if something changed, as it may be read-only."""

    def __init__(
        self,
        pipeline: SoundSearchPipeline,
        sounds: Path,
        folder: Path,
        manifest: Manifest,
        before: Manifest | None,
        rebuild: bool,
    ):
        self.pipeline, self.sounds, self.folder = pipeline, sounds, folder
        self.manifest, self.before, self.rebuild = manifest, before, rebuild
        self.known = {name: state for name, (state, _) in _catalog(folder, manifest).items()}
        self.states: dict[str, str] = {}  # of all recordings that are there
        self.errors: dict[str, str] = {}
        self.writer: IndexWriter | None = None

    def run(self, progress: Callable[[str, str | None], object], options: dict[str, Any]) -> None:
        with ExitStack() as stack:
            current = None
            for path, one in hear_files(self.pipeline, self.sounds, self._skip, **options):
                if path == str(self.sounds) and one.error is not None:
                    raise one.error  # the folder itself: no recording is in it
                name = self._name(path)
                if one.ended and one.error is not None and name != current:  # nothing of it was written
                    self._failed(path, one.error, progress)
                    continue
                writer = self._opened(stack)
                if name != current:
                    writer.begin(name, self.states[name])
                    current = name
                if not one.ended:
                    if one.embed is not None:
                        times = torch.tensor([[one.start], [one.end]], dtype=torch.float64)
                        writer.add(one.embed[None], *times)
                    continue
                current = None
                if one.error is not None:
                    writer.drop()
                    self._failed(path, one.error, progress)
                else:
                    writer.end()
                    progress(path, None)
            self._refuse_another_folder()
            failed = {self._name(path) for path in self.errors}
            gone = (self.known.keys() - self.states.keys()) | (self.known.keys() & failed)
            if self.writer or gone or self.manifest.unfinished:
                self._opened(stack)
                self._finish(failed)

    def _failed(self, path: str, error: AudioError, progress: Callable[[str, str | None], object]) -> None:
        self.errors[path] = str(error)
        progress(path, self.errors[path])

    def _name(self, path: str) -> str:
        return Path(path).relative_to(self.sounds).as_posix()

    def _skip(self, path: str) -> bool:
        if path == str(self.sounds):
            return False
        name, state = self._name(path), state_of(path)
        self.states[name] = state
        return self.known.get(name) == state

    def _opened(self, stack: ExitStack) -> IndexWriter:
        if self.writer is None:
            self._refuse_another_folder()
            make_writable(self.folder)
            _lock(self.folder, stack)
            if not self.rebuild and read_manifest(self.folder) != self.before:
                raise DataError(self.folder, "was changed by another process meanwhile", "Run this again")
            self.manifest.unfinished = True
            self.writer = IndexWriter(self.folder, self.manifest, PART_ROWS, PART_SECONDS)
        return self.writer

    def _refuse_another_folder(self) -> None:
        """Raises DataError where none of the indexed recordings is there: it would be emptied by mistake."""
        if self.known and not any((self.sounds / name).exists() for name in self.known):
            problem = f"knows {len(self.known)} recordings, none of which is in {self.sounds}"
            raise DataError(self.folder, problem, f"Name the folder that it was made of, or another index. {AGAIN}")

    def _finish(self, failed: set[str]) -> None:
        self.writer.flush()
        parts = [read_entries(self.folder, name) for name in self.manifest.parts]
        whole = read_catalog(parts, [])
        self.manifest.removed = sorted(name for name in whole if name not in self.states or name in failed)
        catalog = {name: place for name, place in whole.items() if name not in set(self.manifest.removed)}
        self.manifest.unfinished = False
        if needs_repacking(parts, catalog):
            self.manifest = repack(self.folder, self.manifest, catalog)
        else:
            write_manifest(self.folder, self.manifest)
        remove_leftovers(self.folder, self.manifest)


def _lock(folder: Path, stack: ExitStack) -> None:
    """Until the stack is left, no other process writes the index."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    try:
        stack.enter_context(WeakFileLock(folder / LOCK, timeout=1.0))
    except Timeout as error:
        raise DataError(folder, "is being written by another process", "Wait until that has finished") from error


def _catalog(folder: Path, manifest: Manifest) -> Catalog:
    return read_catalog([read_entries(folder, name) for name in manifest.parts], manifest.removed)


def _check_clap(folder: Path, manifest: Manifest, fingerprint: str) -> None:
    if manifest.clap != fingerprint:
        problem = f"was made by CLAP {manifest.clap}, not by {fingerprint}"
        raise DataError(folder, problem, f"Use that CLAP, or another index. {AGAIN}")


def _read_windows(
    folder: Path, manifest: Manifest, catalog: Catalog, names: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Part by part, each row to its place."""
    pieces: dict[int, list[tuple[int, int, int, int]]] = {}  # part → first and last row, where they go, whose they are
    count = 0
    for owner, name in enumerate(names):
        for part, first, last in catalog[name][1]:
            pieces.setdefault(part, []).append((first, last, count, owner))
            count += last - first
    rows = torch.empty(count, manifest.embedding_dim)
    owners, times = torch.empty(count, dtype=torch.long), torch.empty(count, 2, dtype=torch.float64)
    for number, own in pieces.items():
        part = read_part(folder, manifest.parts[number], manifest.embedding_dim)
        both = torch.stack([part.start, part.end], dim=1)
        for first, last, at, owner in own:
            place = slice(at, at + last - first)
            rows[place], owners[place], times[place] = part.embeds[first:last], owner, both[first:last]
    return rows, owners, times
