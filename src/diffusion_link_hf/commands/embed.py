"""``diffusion-link embed``: a captioned data set through a frozen CLAP, into the cache that training reads."""

import argparse
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from ..files import make_writable
from .options import not_negative, positive
from .quiet import quiet_libraries

DESCRIPTION = """Embed the recordings and captions of a data set with a frozen CLAP.

The cache is written in shards. Interrupted at any point, the same command goes on where it was and ends with the same
bytes. Of several processes (accelerate launch -m diffusion_link_hf.cli embed …, or torchrun) each embeds its share of
the shards.

The exit status is 0 if all was embedded, 1 if recordings had to be left out (each is reported), and 2 if the arguments,
the model, the data or the output folder cannot be used. Of several processes the last one reports; the others return 0.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "embed",
        help="embed a captioned data set for training",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data",
        required=True,
        help="Hub id of a data set of Parquet files; or a folder with metadata.csv (file_name, caption), with the CSV "
        "files of AudioCaps or Clotho, or with Parquet files",
    )
    parser.add_argument("--split", metavar="NAME", help="of the data set, such as train")
    parser.add_argument("--audio", metavar="FOLDER", help="where the recordings are, if not with the captions")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a data set on the Hub")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N recordings")
    parser.add_argument(
        "--clap",
        default="laion/larger_clap_general",
        help="CLAP folder or Hub id, or a pipeline folder, such as tiny (default: laion/larger_clap_general)",
    )
    parser.add_argument("--clap-revision", metavar="NAME", help="branch, tag or commit of a CLAP on the Hub")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for the cache")
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="10-s windows computed at once (default: 32)"
    )
    parser.add_argument(
        "--num-workers",
        type=not_negative,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode audio (default: %(default)s here, one per core up to 4)",
    )
    parser.add_argument(
        "--shard-size", type=positive, default=512, metavar="N", help="recordings in a shard, about (default: 512)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: what Accelerate chooses)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of CLAP")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    return parser


def run(args: argparse.Namespace) -> int:
    """Embeds the data; returns the exit status.

    Raises:
        DiffusionLinkError: the arguments, the model, the data or the output folder cannot be used.
    """
    from accelerate import PartialState

    state = PartialState(cpu=args.device == "cpu")
    try:
        return report(embed(args, state), args.output)
    finally:
        state.destroy_process_group()


def embed(args: argparse.Namespace, state) -> dict | None:
    """The manifest, or None where other processes of the `PartialState` are still at work."""
    import torch

    from ..data.captioned_audio import open_data
    from ..embeddings.embedding import EmbeddingOptions, embed_data
    from ..models.clap import ClapEncoder
    from ..tensors import check_device

    device = check_device(args.device or state.device, "--device")
    options = EmbeddingOptions(
        batch_size=args.batch_size,
        shard_size=args.shard_size,
        dtype=getattr(torch, args.dtype),
        num_workers=args.num_workers,
        process_index=state.process_index,
        num_processes=state.num_processes,
    )
    make_writable(Path(args.output))
    progress = not args.quiet and state.is_local_main_process
    with quiet_libraries() if args.quiet else nullcontext():
        data = open_data(args.data, split=args.split, audio=args.audio, revision=args.revision, limit=args.limit)
        clap = ClapEncoder.from_pretrained(args.clap, revision=args.clap_revision).to(device)
        return embed_data(data, clap, args.output, options, progress=progress)


def report(manifest: dict | None, output: str) -> int:
    """Prints what was left out and what was embedded; returns the exit status."""
    if manifest is None:
        return 0
    for failure in manifest["failures"]:
        print(f"diffusion-link: left out {failure['reason']}", file=sys.stderr)
    counts = {name: manifest[name] for name in ("recordings", "captions")}
    print(json.dumps({"cache": output, **counts, "left_out": len(manifest["failures"])}))
    return 1 if manifest["failures"] else 0
