"""``diffusion-link classify``: which of some labels fits each recording."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from .captions_printed import print_error, print_json, printable
from .indexed_folder import add_reading_options, updated_index
from .loaded_pipeline import add_loading_options, load_search_pipeline
from .options import positive
from .quiet import quiet_libraries

DESCRIPTION = """Print each recording's labels with their probabilities, which add up to 1 over all labels given. The
exit status is 0 if all recordings could be read, 1 if some could not, 2 if arguments, index or model are unusable."""
COLUMNS = ("file", "start", "end", "label", "probability", "error")


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("classify", help="label recordings, zero-shot", description=DESCRIPTION)
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="files, folders, http(s) addresses, or - for standard input")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar="LABELS", help='between commas: "dog, rain, engine, speech"')
    labels.add_argument("--labels-file", metavar="FILE", help="a label per line")
    add("--template", default="This is a sound of {}.", help="text around a label (default: 'This is a sound of {}.')")
    add("--bridge", action="store_true", help="compare what the model's bridge makes of the sounds")
    add("--logit-scale", type=float, metavar="X", help="what cosines are multiplied with (default: of CLAP, or 20)")
    add("--windows", dest="each_window", action="store_true", help="classify every window for itself")
    add("--index", metavar="FOLDER", help="use and update the index of the one folder that is given")
    add("--top", type=positive, default=5, metavar="N", help="labels of each recording (default: 5)")
    add("--output", metavar="FILE", help="write csv or jsonl, by its extension, instead of printing")
    add("--json", action="store_true", help='print JSON lines: {"file", "start", "end", "labels"} or {"file", "error"}')
    add_reading_options(parser)
    add_loading_options(parser, language_model=False)
    return parser


def run(args: argparse.Namespace) -> int:
    """Classifies; returns the exit status."""
    from ..applications.sound_index import check_folder
    from ..applications.written_rows import check_extension, write_rows

    if args.index is not None:
        if len(args.paths) > 1:
            raise InputError("index", f"is for one folder, not {len(args.paths)} paths", "Name one folder")
        check_folder(args.paths[0])
    elif args.rebuild:
        raise InputError("rebuild", "is given without an index", "Add --index FOLDER")
    if args.output is not None:
        check_extension(args.output)
    labels, failed = _labels(args), 0

    def counted() -> Iterator:
        nonlocal failed
        for one in _classified(args, pipeline, labels):
            failed += one.error is not None
            if one.error is not None and args.index is None and not args.json:  # of an index, it was said already
                print_error(one.error)
            yield one

    with quiet_libraries():
        pipeline = load_search_pipeline(args)
        if args.output is not None:
            rows = _row if args.output.lower().endswith(".jsonl") else _table
            write_rows(args.output, (row for one in counted() for row in rows(one, args.top)), COLUMNS)
            return 1 if failed else 0
        for one in counted():
            if args.json:
                print_json(*_row(one, args.top))
            elif one.error is None:
                print(printable(_line(one, args)), flush=True)
    return 1 if failed else 0


def _classified(args: argparse.Namespace, pipeline, labels: list[str]) -> Iterator:
    """`ClassifiedSound` objects of what is given; with an index, those of what cannot be read come last."""
    from ..applications.sound_labels import ClassifiedSound, classify_sounds

    names = ("template", "bridge", "logit_scale", "each_window")
    options = {name: getattr(args, name) for name in names}
    if args.index is None:
        options |= {"batch_size": args.batch_size, "max_duration": args.max_duration}
        options |= {} if args.hop_seconds is None else {"hop_seconds": args.hop_seconds}
        yield from classify_sounds(pipeline, args.paths, labels, **options)
        return
    index = updated_index(args, pipeline, args.paths[0])
    yield from classify_sounds(pipeline, index, labels, **options)
    yield from (ClassifiedSound(file, error=error) for file, error in index.errors.items())


def _labels(args: argparse.Namespace) -> list[str]:
    if args.labels is not None:
        return [label.strip() for label in args.labels.split(",")]
    try:
        lines = Path(args.labels_file).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError("labels_file", f"cannot be read ({error})", "Name a file with a label per line") from error
    return [line.strip() for line in lines if line.strip()]


def _line(one, args: argparse.Namespace) -> str:
    span = f" [{one.start:g}–{one.end:g} s]" if args.each_window and one.start is not None else ""
    best = [f"{label} {value:.2f}" for label, value in one.probabilities.items()][: args.top]
    return f"{one.file}{span}: {', '.join(best) or 'silence'}"


def _row(one, top: int) -> list[dict[str, Any]]:
    if one.error is not None:
        return [{"file": one.file, "error": one.error}]
    best = [{"label": label, "probability": value} for label, value in one.probabilities.items()]
    return [{"file": one.file, "start": one.start, "end": one.end, "labels": best[:top]}]


def _table(one, top: int) -> Iterator[dict[str, Any]]:
    place = {"file": one.file, "start": one.start, "end": one.end, "error": one.error}
    for label, value in list(one.probabilities.items())[:top] or [(None if one.error else "silence", None)]:
        yield {**place, "label": label, "probability": value}
