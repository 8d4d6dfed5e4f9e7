"""The sound index that a sub-command uses: its options, and building it or bringing it up to date."""

import argparse
import sys

from .captions_printed import printable
from .options import positive, seconds
from .progress_bar import file_bar


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """How recordings are cut and read."""
    add = parser.add_argument
    add(
        "--hop",
        dest="hop_seconds",
        type=seconds,
        metavar="S",
        help="seconds between windows (default: that of the index, or 10; less overlaps)",
    )
    add("--max-duration", type=seconds, metavar="S", help="refuse recordings longer than this many seconds")
    add("--batch-size", type=positive, default=32, help="10-s windows computed at once (default: 32)")
    add("--rebuild", action="store_true", help="build the index anew, whatever is there")


def updated_index(args: argparse.Namespace, pipeline, folder: str):
    """The `SoundIndex` of a folder, brought up to date; what cannot be read is printed, unless as JSON."""
    from ..applications.sound_index import index_sounds

    with file_bar(folder) as bar:

        def note(file: str, error: str | None) -> None:
            bar.update()
            if error is not None and not args.json:  # there, errors are lines of the output
                bar.write(printable(f"diffusion-link: {error}"), file=sys.stderr)

        return index_sounds(
            pipeline,
            folder,
            args.index,
            hop_seconds=args.hop_seconds,
            batch_size=args.batch_size,
            max_duration=args.max_duration,
            rebuild=args.rebuild,
            progress=note,
        )
