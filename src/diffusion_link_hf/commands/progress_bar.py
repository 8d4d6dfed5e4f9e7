"""The progress bar of commands that go through recordings."""

import sys

from ..audio.sources import iter_sources


def file_bar(paths: str | list[str]):
    """A `tqdm` bar over all recordings that ``paths`` mean; none where standard error is no terminal."""
    from tqdm import tqdm

    total = sum(1 for _ in iter_sources(paths)) if sys.stderr.isatty() else None
    return tqdm(total=total, unit="file", disable=not sys.stderr.isatty(), smoothing=0.05, leave=False)
