"""The command line: ``diffusion-link <command>``, or ``python -m diffusion_link_hf <command>``."""

import argparse
import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence

from . import __version__
from .commands.options import option_words
from .errors import DiffusionLinkError

COMMANDS = (
    "caption",
    "search",
    "classify",
    "embed",
    "train",
    "train_bridge",
    "gap",
    "evaluate",
    "test",
    "score",
    "push",
    "convert_laion",
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffusion-link",
        description="Caption sounds, and train and compare bridges between audio and text embeddings.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".commands.{name}", __package__)
        command = module.add_parser(commands)
        command.set_defaults(run=module.run, in_options=option_words(command))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    if argv is None:  # a process of our own: at its end the collector would walk through the libraries once more
        atexit.register(gc.freeze)
    args = build_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":  # a file name or caption must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DiffusionLinkError as error:
        print(f"diffusion-link: {args.in_options(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
