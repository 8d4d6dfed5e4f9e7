"""The pipeline that a sub-command uses: its options, and loading it."""

import argparse
import sys

from ..collector import collector_paused


def add_loading_options(parser: argparse.ArgumentParser, language_model: bool = True) -> None:
    """Which pipeline is loaded, and how: see `load_pipeline`; or `load_search_pipeline`, without a language model."""
    add = parser.add_argument
    add("--model", default="tiny", help="pipeline folder or Hub id (default: tiny, which is part of the package)")
    add("--revision", help="branch, tag or commit of the model on the Hub")
    add("--variant", metavar="NAME", help="read the model's files of this variant, such as fp16")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="(default: float32)")
    if not language_model:
        add("--device", help="cpu, cuda, cuda:1 … (default: cpu)")
        return
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

    device = None if args.device_map else check_device(args.device or "cpu")
    pipeline = AudioCaptionPipeline.from_pretrained(
        args.model,
        revision=args.revision,
        dtype=args.dtype,
        device_map=args.device_map,
        quantization_config=four_bit(args.dtype) if args.load_in_4bit else None,
        variant=args.variant,
    )
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipeline.to(device) if device is not None else pipeline


def load_search_pipeline(args: argparse.Namespace):
    """The `SoundSearchPipeline` that the options name: CLAP and the bridge alone.

    Raises:
        InputError, ModelFolderError, HubAccessError: as `load_pipeline`.
    """
    with collector_paused():
        from ..pipelines.sound_search import SoundSearchPipeline
        from ..tensors import check_device

    device = check_device(args.device or "cpu")
    return SoundSearchPipeline.from_pretrained(
        args.model, revision=args.revision, dtype=args.dtype, variant=args.variant
    ).to(device)
