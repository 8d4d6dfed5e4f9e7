"""Progress of an experiment on standard error."""

import sys


def say(message: str, progress: bool) -> None:
    """Print ``message`` if ``progress``."""
    if progress:
        print(message, file=sys.stderr, flush=True)


def show_bar(progress: bool) -> bool:
    """Whether to show progress bars, too: only where somebody watches."""
    return progress and sys.stderr.isatty()
