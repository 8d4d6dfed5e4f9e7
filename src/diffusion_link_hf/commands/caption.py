"""``diffusion-link caption``: a caption for every recording it is given."""

import argparse
import os
import sys

from ..audio.sources import iter_sources
from ..errors import AudioError, InputError
from .captions_printed import print_captions, printable
from .loaded_pipeline import add_loading_options, load_pipeline
from .options import positive, seconds
from .progress_bar import file_bar
from .quiet import quiet_libraries

DESCRIPTION = """Print a line for each ten seconds of each recording: its name and its caption; or write a file. The
exit status is 0 if all were captioned, 1 if some or all could not be, and 2 if the arguments or the model cannot be
used."""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("caption", help="caption recordings", description=DESCRIPTION)
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="files, folders, http(s) addresses, or - for standard input")
    add("--output", metavar="FILE", help="write csv, jsonl, parquet, srt, vtt or txt, by its extension; it resumes")
    add("--format", metavar="NAME", help="format of --output where the extension does not say it; srt into a folder")
    add("--json", action="store_true", help='print JSON lines: {"file", "captions"} or {"file", "error"}')
    add("--score", action="store_true", help="also print scores, the probability of being right")
    add(
        "--min-score",
        dest="unknown_below",
        type=float,
        metavar="X",
        help='below this score, a caption says "an unknown sound" (0 to 1)',
    )
    add("--n-best", type=positive, default=1, metavar="N", help="captions for each window, best first (default: 1)")
    add("--merge", action="store_true", help="make one segment of neighbors with the same caption")
    add(
        "--long-audio",
        choices=("windows", "average"),
        default="windows",
        help="beyond 10 s: a caption per 10-s window (default), or one for the mean embedding",
    )
    add(
        "--hop",
        dest="hop_seconds",
        type=seconds,
        default=10.0,
        metavar="S",
        help="seconds between windows (default: 10; less overlaps)",
    )
    add("--max-duration", type=seconds, metavar="S", help="refuse recordings longer than this many seconds")
    add("--batch-size", type=positive, default=32, help="10-s windows computed at once (default: 32)")
    add("--num-beams", type=positive, default=1, help="beam search width (default: 1, greedy)")
    add_loading_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Captions what it was given; returns the exit status."""
    from ..applications.caption_files import caption_files, iter_captions

    options = {
        "batch_size": args.batch_size,
        "long_audio": args.long_audio,
        "hop_seconds": args.hop_seconds,
        "max_duration": args.max_duration,
        "num_beams": max(args.num_beams, args.n_best),
        "num_return_sequences": args.n_best,
        "unknown_below": args.unknown_below,
        "merge": args.merge,
    }
    with quiet_libraries():
        # Only what exists is worth loading a model for.
        pipeline = load_pipeline(args) if any(map(_may_exist, args.paths)) else None
        if args.output is None:
            failed = 0
            for captioned in iter_captions(pipeline, args.paths, **options):
                failed += captioned.error is not None
                print_captions(captioned, args.json, args.score)
            return 1 if failed else 0
        if "-" in args.paths:
            raise InputError("-", "is standard input, which cannot be resumed", "Leave out --output")
        with file_bar(args.paths) as bar:

            def note(captioned) -> None:
                bar.update()
                if captioned.error is not None:
                    bar.write(printable(f"diffusion-link: {captioned.error}"), file=sys.stderr)

            model = f"{args.model} {args.revision or ''} {args.dtype}"
            summary = caption_files(
                pipeline, args.paths, args.output, format=args.format, model=model, progress=note, **options
            )
    if summary is None:  # another process than the first
        return 0
    print(
        f"{summary.output}: {summary.captioned} captioned ({summary.resumed} of them before), {summary.failed} failed, "
        f"{summary.seconds / 3600:.2f} h of sound",
        file=sys.stderr,
    )
    return 1 if summary.failed else 0


def _may_exist(path: str) -> bool:
    _, first = next(iter_sources(path))
    return not isinstance(first, AudioError) and (not isinstance(first, str) or os.path.exists(first))
