"""``diffusion-link search``: the places in a folder of recordings where something can be heard."""

import argparse
import os
from pathlib import Path

from ..audio.folders import AUDIO_EXTENSIONS
from .captions_printed import print_json, printable
from .indexed_folder import add_reading_options, updated_index
from .loaded_pipeline import add_loading_options, load_search_pipeline
from .options import positive
from .quiet import quiet_libraries

DESCRIPTION = """Print the best places for a query, best first: score, name of the recording, and seconds in it. The
first search of a folder embeds its recordings into an index, which later searches bring up to date. The exit status is
0 if all recordings could be read, 1 if some could not, and 2 if the arguments, the index or the model cannot be
used."""
COLUMNS = ("rank", "file", "start", "end", "score", "error")


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("search", help="search recordings by words or by a sound", description=DESCRIPTION)
    add = parser.add_argument
    add("query", metavar="QUERY", help="words; or an audio file, to find similar sounds")
    add("folder", metavar="FOLDER", help="folder of recordings, searched with all its folders")
    add("--index", metavar="FOLDER", help="where the index is kept (default: .sound-index in the folder)")
    add("--top", type=positive, default=10, metavar="N", help="results (default: 10)")
    add("--all", dest="all_windows", action="store_true", help="let a recording come several times, not its best alone")
    add("--bridge", action="store_true", help="compare what the model's bridge makes of the sounds")
    add("--backend", choices=("exact", "faiss"), default="exact", help="faiss needs the extra search (default: exact)")
    add("--output", metavar="FILE", help="write csv or jsonl, by its extension, instead of printing")
    add("--json", action="store_true", help='print JSON lines: {"rank", "file", "start", "end", "score"}')
    add_reading_options(parser)
    add_loading_options(parser, language_model=False)
    return parser


def run(args: argparse.Namespace) -> int:
    """Searches; returns the exit status."""
    from ..applications.sound_index import check_folder
    from ..applications.written_rows import check_extension, write_rows

    check_folder(args.folder)
    if args.output is not None:
        check_extension(args.output)
    with quiet_libraries():
        pipeline = load_search_pipeline(args)
        query = _query(args.query)
        index = updated_index(args, pipeline, args.folder)
        options = {"all_windows": args.all_windows, "bridge": args.bridge, "backend": args.backend}
        matches = index.search(pipeline, query, top=args.top, **options)
    rows = [{"rank": k, **vars(match)} for k, match in enumerate(matches, start=1)]
    errors = [{"file": file, "error": error} for file, error in index.errors.items()]
    if args.output is not None:
        write_rows(args.output, [*rows, *errors], COLUMNS)
    elif args.json:
        for row in [*rows, *errors]:
            print_json(row)
    else:
        for match in matches:
            print(printable(f"{match.score:.3f}  {match.file} [{match.start:g}–{match.end:g} s]"))
    return 1 if errors else 0


def _query(text: str) -> str | Path:
    """Words; or the path of a recording: of a file that is there, or that has an extension of audio files."""
    path = Path(text)
    return path if os.path.isfile(text) or path.suffix.lower() in AUDIO_EXTENSIONS else text
