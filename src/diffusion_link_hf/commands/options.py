"""Options that several sub-commands take, their types, and how a sub-command passes them on."""

import argparse
from typing import Any


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def not_negative(text: str) -> int:
    """A whole number of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def named_folder(text: str) -> tuple[str, str]:
    """NAME=FOLDER, where FOLDER may also be a Hub id, for argparse."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form NAME=FOLDER")
    return name, folder


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The budget of trained bridges."""
    parser.add_argument("--train-steps", type=positive, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--batch-size", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument(
        "--learning-rate", type=float, default=5e-4, metavar="X", help="learning rate of a bridge (default: 5e-4)"
    )


def keywords(args: argparse.Namespace, **named: str) -> dict[str, Any]:
    """The options of a sub-command as arguments of the function that it calls.

    Args:
        named: argument → option, where their names differ.
    """
    given = {name: value for name, value in vars(args).items() if name not in ("command", "run")}
    for argument, option in named.items():
        given[argument] = given.pop(option)
    return given
