"""Options that several sub-commands take, their types, and how a sub-command passes them on."""

import argparse
import sys
from typing import Any

from ..collector import collector_paused


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


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """Which pipeline is loaded, and how: see `load_pipeline`."""
    add = parser.add_argument
    add("--model", default="tiny", help="pipeline folder or Hub id (default: tiny, which is part of the package)")
    add("--revision", help="branch, tag or commit of the model on the Hub")
    add("--variant", metavar="NAME", help="read the model's files of this variant, such as fp16")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="(default: float32)")
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cpu)")
    places.add_argument(
        "--device-map", metavar="MAP", help="auto spreads the language model over all devices; or a device"
    )
    add("--load-in-4bit", action="store_true", help="hold the language model in 4 bits, which needs bitsandbytes")


def load_pipeline(args: argparse.Namespace):
    """The `AudioCaptionPipeline` that the options of `add_loading_options` name.

    Raises:
        InputError: a device that is not there, a variant that the model has not, or no bitsandbytes.
        ModelFolderError, HubAccessError: see `AudioCaptionPipeline.from_pretrained`.
    """
    with collector_paused():
        from ..loading_options import four_bit
        from ..pipelines.audio_caption import AudioCaptionPipeline
        from ..tensors import check_device

    device = None if args.device_map else check_device(args.device or "cpu", "--device")
    pipeline = AudioCaptionPipeline.from_pretrained(
        args.model,
        revision=args.revision,
        dtype=args.dtype,
        device_map=args.device_map,
        quantization_config=four_bit(args.dtype, "--load-in-4bit") if args.load_in_4bit else None,
        variant=args.variant,
    )
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipeline.to(device) if device is not None else pipeline


def keywords(args: argparse.Namespace, **named: str) -> dict[str, Any]:
    """The options of a sub-command as arguments of the function that it calls.

    Args:
        named: argument → option, where their names differ.
    """
    given = {name: value for name, value in vars(args).items() if name not in ("command", "run")}
    for argument, option in named.items():
        given[argument] = given.pop(option)
    return given
