"""Files and folders as embedded windows, each with the name of its recording."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..audio.sources import iter_sources
from ..errors import AudioError
from ..pipelines.listening import Heard, Recording
from ..pipelines.sound_search import SoundSearchPipeline


def hear_files(
    pipeline: SoundSearchPipeline,
    paths: str | Path | Iterable[str | Path],
    skip: Callable[[str], bool] = lambda name: False,
    **options: Any,
) -> Iterator[tuple[str, Heard]]:
    """(name, window) of everything that ``paths`` mean, in order, and behind the last window of each its end.

    Args:
        paths: as `iter_sources`.
        skip: whether to leave a recording out; called in the thread that decodes.
        options: of `SoundSearchPipeline.hear`.
    """
    names: dict[int, str] = {}
    unreadable: dict[int, AudioError] = {}
    count = 0

    def recordings() -> Iterator[Recording]:
        nonlocal count
        for name, source in iter_sources(paths):
            if skip(name):
                continue
            names[count] = name
            if isinstance(source, AudioError):
                unreadable[count] = source
                source = b""  # an item that fails keeps its place in the order
            count += 1
            yield Recording(source, None, name)

    for batch in pipeline.hear(recordings(), **options):
        for one in batch:
            if not one.ended:
                yield names[one.item], one
                continue
            yield names.pop(one.item), one._replace(error=unreadable.pop(one.item, one.error))
