"""``diffusion-link embed``: a captioned data set through a frozen CLAP, into the cache that training reads."""

import argparse
import json
import os
import sys
from contextlib import nullcontext

from .options import not_negative, positive
from .quiet import quiet_libraries

DESCRIPTION = """Embed the recordings and captions of a data set with a frozen CLAP.

The cache is written in shards. After an interruption, run the same command again: it resumes, and the result has the
same bytes. To use several processes, run "accelerate launch -m diffusion_link_hf embed ..."; each process embeds its
share of the shards.

The exit status is 0 if everything was embedded, 1 if recordings or empty captions were left out (each one is
reported), and 2 if the arguments, the model, the data or the output folder cannot be used. Of several processes, the
last one to finish reports; the others return 0.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser("embed", help="embed a captioned data set for training", description=DESCRIPTION)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--data",
        required=True,
        help="Hub id of a data set of Parquet files; or a folder with metadata.csv (file_name, caption), with the CSV "
        "files of AudioCaps or Clotho, or with Parquet files",
    )
    parser.add_argument("--split", metavar="NAME", help="split of the data set, such as train")
    parser.add_argument(
        "--audio", metavar="FOLDER", help="folder of the recordings, if they are not beside the captions"
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a data set on the Hub")
    parser.add_argument("--limit", type=positive, metavar="N", help="embed only the first N recordings")
    parser.add_argument(
        "--clap",
        default="laion/larger_clap_general",
        help="CLAP folder or Hub id, or a pipeline folder, such as tiny (default: laion/larger_clap_general)",
    )
    parser.add_argument("--clap-revision", metavar="NAME", help="branch, tag or commit of a CLAP on the Hub")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the cache")
    parser.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="10-s windows computed at once (default: 32)"
    )
    parser.add_argument(
        "--num-workers",
        type=not_negative,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode audio (default: one per core, at most 4; here %(default)s)",
    )
    parser.add_argument(
        "--shard-size",
        type=positive,
        default=512,
        metavar="N",
        help="approximate number of recordings per shard (default: 512)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: what Accelerate chooses)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="precision of CLAP (default: float32)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(args: argparse.Namespace) -> int:
    """Embeds the data; returns the exit status."""
    import torch
    from accelerate import PartialState

    from ..embeddings.embedding import embed
    from ..tensors import check_device

    if args.device is not None:
        check_device(args.device, "--device")
    state = PartialState(cpu=args.device == "cpu")
    try:
        with quiet_libraries() if args.quiet else nullcontext():
            manifest = embed(
                args.data,
                args.output,
                args.clap,
                split=args.split,
                audio=args.audio,
                revision=args.revision,
                limit=args.limit,
                clap_revision=args.clap_revision,
                batch_size=args.batch_size,
                shard_size=args.shard_size,
                num_workers=args.num_workers,
                dtype=getattr(torch, args.dtype),
                device=args.device,
                progress=not args.quiet,
            )
        return report(manifest, args.output)
    finally:
        state.destroy_process_group()


def report(manifest: dict | None, output: str) -> int:
    """Prints what was left out and what was embedded; returns the exit status."""
    if manifest is None:
        return 0
    left_out = [*manifest["failures"], *manifest.get("captions_left_out", [])]
    for failure in left_out:
        print(f"diffusion-link: left out {failure['reason']}", file=sys.stderr)
    counts = {name: manifest[name] for name in ("recordings", "captions")}
    print(json.dumps({"cache": output, **counts, "left_out": len(left_out)}))
    return 1 if left_out else 0
