"""``diffusion-link caption``: a caption for every recording it is given."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..audio import find_audio_files, load_audio
from ..errors import AudioError
from .options import add_loading_options, load_pipeline, positive
from .quiet import quiet_libraries

DESCRIPTION = """Print one line per recording: its name and its caption. The exit status is 0 if all were captioned, 1
if some or all could not be, and 2 if the arguments or the model cannot be used."""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("caption", help="caption recordings", description=DESCRIPTION)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="audio files; folders are searched recursively")
    parser.add_argument(
        "--json",
        action="store_true",
        help='print JSON lines: {"file", "captions": [{"start", "end", "text"}]} or {"file", "error"}',
    )
    parser.add_argument(
        "--long-audio",
        choices=("windows", "average"),
        default="windows",
        help="for recordings over 10 s: a caption for every 10-s window (default), or one for the mean embedding",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="10-s windows computed at once (default: 32)")
    parser.add_argument("--num-beams", type=positive, default=1, help="beam search width (default: 1, greedy)")
    add_loading_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Captions what it was given; returns the exit status."""
    found = list(_expand(args.paths))
    # Only what exists is worth loading a model for.
    if any(error is None for _, error in found):
        with quiet_libraries():
            return _caption(found, load_pipeline(args), args)
    return _caption(found, None, args)


def _caption(found: list[tuple[Path | str, AudioError | None]], pipeline, args: argparse.Namespace) -> int:
    failed = 0
    for first in range(0, len(found), args.batch_size):  # read, captioned and printed before the next are touched
        part = found[first : first + args.batch_size]
        readable = [path for path, error in part if error is None]
        output = None
        if readable:
            output = pipeline(
                readable, batch_size=args.batch_size, long_audio=args.long_audio, num_beams=args.num_beams
            )
        results = iter(zip(output.segments, output.errors, strict=True)) if output else iter(())
        for path, error in part:
            segments = []
            if error is None:
                segments, error = next(results)
            failed += error is not None
            _print(path, segments, error, args.json)
    return 1 if failed else 0


def _expand(paths: Sequence[str]) -> Iterator[tuple[Path | str, AudioError | None]]:
    for path in paths:
        try:
            for file in find_audio_files([path]):
                if not file.exists():
                    load_audio(file)  # says so
                yield file, None
        except AudioError as error:
            yield path, error


def _print(path: Path | str, segments, error: AudioError | None, as_json: bool) -> None:
    if as_json:
        row = {"file": str(path)}
        if error is not None:
            row["error"] = str(error)
        else:
            row["captions"] = [{"start": s.start, "end": s.end, "text": s.text} for s in segments]
        line = json.dumps(row, ensure_ascii=False)
        try:
            line.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            line = json.dumps(row)
        print(line, flush=True)
    elif error is not None:
        print(f"diffusion-link: {error}", file=sys.stderr, flush=True)
    else:
        for s in segments:
            span = f" [{s.start:g}–{s.end:g} s]" if len(segments) > 1 else ""
            print(f"{path}{span}: {' '.join(s.text.split())}", flush=True)
