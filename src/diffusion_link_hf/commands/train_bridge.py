"""``diffusion-link train-bridge``: fit one bridge on embeddings and save it as a pipeline's link."""

import argparse
import json
import sys
from pathlib import Path

from .options import add_training_options

DESCRIPTION = """Fit a bridge between two modalities on matched embeddings.

Writes OUTPUT/link (the link of a pipeline), OUTPUT/scheduler and OUTPUT/metrics.json, and prints the metrics: the mean
cosine with the real text of held-out recordings. A run that was stopped continues from its newest checkpoint.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "train-bridge",
        help="fit a bridge on embeddings",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--method", required=True, metavar="NAME", help="the bridge, such as ridge; an unknown name lists all"
    )
    parser.add_argument(
        "--embeddings",
        required=True,
        metavar="PATH",
        help="folder of an embedding cache, or safetensors file with source (N, D), target (N, D), optional group (N,)",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the results")
    parser.add_argument(
        "--reverse", action="store_true", help="train the other direction: target → source (text → audio)"
    )
    add_training_options(parser)
    parser.add_argument(
        "--max-train-timestep",
        type=int,
        metavar="N",
        help="highest timestep in training (default: the method decides)",
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the recordings to validate on (default: 0.05)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    for option, what in (("model", "the bridge, such as width=256"), ("loss", "its loss, such as topology_weight=0")):
        parser.add_argument(
            f"--{option}", nargs="+", default=[], metavar="FIELD=VALUE", help=f"options of {what} (values are YAML)"
        )
    parser.add_argument("--mixed-precision", choices=("no", "fp16", "bf16"), default="no", help="default: no")
    parser.add_argument(
        "--no-resume", action="store_true", help="start from the beginning, even if OUTPUT has a checkpoint"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(args: argparse.Namespace) -> int:
    """Fits the bridge and prints its metrics as JSON; returns 0.

    Raises:
        DiffusionLinkError: an unknown method or option, or data that cannot be used.
    """
    from ..embeddings.pairs import EmbeddingPairs
    from ..training.bridge import get_method, train_bridge
    from ..training.recipes import parse_fields

    model, loss = parse_fields(args.model), parse_fields(args.loss)
    get_method(args.method, "--method")  # before a large file is read
    pairs = EmbeddingPairs.load(args.embeddings)
    train_bridge(
        args.method,
        pairs.reversed() if args.reverse else pairs,
        args.output,
        steps=args.train_steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        max_train_timestep=args.max_train_timestep,
        validation_fraction=args.validation_fraction,
        seed=args.seed,
        model=model,
        loss=loss,
        mixed_precision=args.mixed_precision,
        resume=not args.no_resume,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    print(json.dumps(json.loads((Path(args.output) / "metrics.json").read_text(encoding="utf-8"))))
    return 0
