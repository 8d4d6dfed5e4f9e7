"""Options that several sub-commands take, their types, and how a sub-command passes them on and words errors."""

import argparse
import re
from collections.abc import Callable
from typing import Any

from ..errors import DiffusionLinkError


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


def seconds(text: str) -> float:
    """A finite number of seconds above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def named_folder(text: str) -> tuple[str, str]:
    """NAME=FOLDER, where FOLDER may also be a Hub id, for argparse."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form NAME=FOLDER")
    return name, folder


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The budget of trained bridges."""
    parser.add_argument("--train-steps", dest="steps", type=positive, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--batch-size", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument(
        "--learning-rate", type=float, default=5e-4, metavar="X", help="learning rate of a bridge (default: 5e-4)"
    )


def add_data_options(parser: argparse.ArgumentParser, held_out: str, test: str, metavar: str) -> None:
    """Which recordings an experiment leaves out of the fitting.

    Args:
        held_out, test: help of these options.
        metavar: of the test data.
    """
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help=f"{held_out} (default: 0.1)")
    measured.add_argument("--test", metavar=metavar, help=test)
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use N recordings, chosen by the split seed")


def keywords(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a sub-command as arguments of the function that it calls, which have the same names."""
    return {name: value for name, value in vars(args).items() if name not in ("command", "run", "in_options")}


def option_words(parser: argparse.ArgumentParser) -> Callable[[DiffusionLinkError], str]:
    """How a sub-command words an error: what it says of Python arguments is said of the options that set them.

    An argument is meant where it is the error's item (alone, or in a list such as "split or limit"), where a value
    follows (``limit=5``), or where its name has an underscore. Other words of the message stay as they are.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> _ = parser.add_argument("--held-out"), parser.add_argument("--plain", dest="figures", action="store_false")
        >>> option_words(parser)(DiffusionLinkError("held_out", "is 2", "Use a smaller held_out, or figures=False"))
        '--held-out: is 2. Use a smaller --held-out, or --plain'
    """
    options, switches = {}, {}
    for action in parser._actions:
        if action.option_strings and action.nargs == 0:
            switches[f"{action.dest}={action.const}"] = action.option_strings[0]
            if action.const is True:
                options[action.dest] = action.option_strings[0]
        elif action.option_strings:
            options[action.dest] = action.option_strings[0]

    def replaced(match: re.Match) -> str:
        name, value = match["name"], match["value"] or ""
        if name + value in switches:
            return switches[name + value]
        meant = name in options and (value or "_" in name)
        return f"{options[name]}{value.replace('=', ' ')}" if meant else match[0]

    def words(error: DiffusionLinkError) -> str:
        names = re.split(r", | or | and ", error.item)
        item = error.item
        if all(name in options for name in names):
            item = re.sub(r"\w+", lambda match: options.get(match[0], match[0]), item)
        text = re.sub(r"\b(?P<name>[a-z]\w*)(?P<value>=[\w.]+)?(?![\w/])", replaced, f"{error.problem}. {error.remedy}")
        return f"{item}: {text}"

    return words
