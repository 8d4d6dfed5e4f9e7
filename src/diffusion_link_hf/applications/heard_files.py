"""Files and folders as recordings, and as embedded windows, each with the name of its recording."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..audio.sources import iter_sources
from ..pipelines.listening import Heard, Recording
from ..pipelines.sound_search import SoundSearchPipeline


class NamedRecordings:
    """The recordings that ``paths`` mean, to be iterated over once; a name is known from then until it is taken.

    A pipeline iterates in the thread that decodes, and tells its results by the numbers of the recordings.

    Args:
        paths: as `iter_sources`.
        skip: whether to leave a recording of this name out; called in the thread that decodes.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path], skip: Callable[[str], bool] = lambda name: False):
        self.paths, self.skip = paths, skip
        self._names: dict[int, str] = {}

    def __iter__(self) -> Iterator[Recording]:
        taken = (found for found in iter_sources(self.paths) if not self.skip(found[0]))
        for number, (name, source) in enumerate(taken):
            self._names[number] = name
            yield Recording(source, None, name)

    def name(self, number: int) -> str:
        """Of a recording that is being worked on."""
        return self._names[number]

    def take(self, number: int) -> str:
        """Of a recording that has ended; it is forgotten, as there may be millions."""
        return self._names.pop(number)


def hear_files(
    pipeline: SoundSearchPipeline,
    paths: str | Path | Iterable[str | Path],
    skip: Callable[[str], bool] = lambda name: False,
    **options: Any,
) -> Iterator[tuple[str, Heard]]:
    """(name, window) of everything that ``paths`` mean, in order, and behind the last window of each its end.

    Args:
        paths, skip: as `NamedRecordings`.
        options: of `SoundSearchPipeline.hear`.
    """
    recordings = NamedRecordings(paths, skip)
    for batch in pipeline.hear(recordings, **options):
        for one in batch:
            yield (recordings.take if one.ended else recordings.name)(one.item), one
