"""What ``gap``, ``sweep`` and ``evaluate`` share: data options, the split by recording, and the fitting of bridges."""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..commands.options import positive
from ..errors import DataError, InputError
from .raw_data import add_clap_options, embedded, left_out
from .variants import Variant

# Without them no table says whether a bridge is worth its trouble.
BASELINES = ("identity", "centering", "ridge")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """--embeddings and how they are split."""
    parser.add_argument(
        "--embeddings",
        "--data",
        required=True,
        metavar="PATH",
        help="embedding cache (a folder), or a safetensors file with source (N, D), target (N, D), optional group "
        "(N,); with --clap also captioned recordings: own folder, AudioCaps, Clotho, Hub id",
    )
    add_clap_options(parser)
    parser.add_argument("--reverse", action="store_true", help="bridge target → source (text → audio) instead")
    measured = parser.add_mutually_exclusive_group()
    measured.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of recordings, for measuring (default: 0.1)"
    )
    measured.add_argument(
        "--test", metavar="PATH", help="measure on these embeddings and fit on all of the others, without a split"
    )
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="of that choice (default: 0)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use N recordings, chosen by the split seed")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The budget, which all trained methods share."""
    parser.add_argument("--train-steps", type=positive, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--batch-size", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument("--learning-rate", type=float, default=5e-4, metavar="X", help="default: 5e-4")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Seeds, resamples, and where the report goes."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    parser.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    parser.add_argument(
        "--output", required=True, metavar="FOLDER", help="for report.md, results.json and the pictures"
    )
    parser.add_argument("--no-figures", action="store_true", help="leave the pictures out")
    parser.add_argument("--keep-bridges", action="store_true", help="keep the fitted bridges in FOLDER/bridges")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def named_folder(text: str) -> tuple[str, str]:
    """NAME=FOLDER, where FOLDER may also be a Hub id."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, folder


def split_data(args: argparse.Namespace, default_clap: str | None = None):
    """Training and held-out `EmbeddingPairs`, which share no recording, and what the report says of them.

    Args:
        default_clap: embeds recordings where ``--clap`` is not given.

    Raises:
        DataError: data that cannot be read, nothing held out, or test data of another width or CLAP.
        InputError: a share out of range.
    """
    from ..reports.gap import describe_data

    if not 0 < args.held_out < 1:
        raise InputError("--held-out", f"is {args.held_out}", "Use a share between 0 and 1")
    embeddings = embedded(args.embeddings, args.clap, args.output, args.split, not args.quiet, default_clap)
    pairs = load_pairs(embeddings, args)
    name, chosen = Path(args.embeddings).name, {"split_seed": args.split_seed, "reversed": args.reverse}
    chosen["left_out"] = left_out(embeddings)
    if args.test is not None:
        test = load_pairs(args.test, args)
        check_same_space(pairs, test, args.test)
        chosen["left_out"] += left_out(args.test)
        chosen |= {"test": Path(args.test).name, "test_fingerprint": test.fingerprint}
        return pairs, test, describe_data(name, pairs, test, pairs.fingerprint, **chosen)
    train, held_out = pairs.split(args.held_out, args.split_seed)
    if held_out is None:
        raise DataError(
            Path(args.embeddings).name,
            f"has {len(pairs.group.unique())} recordings, of which none is held out",
            "Use more data or a larger --held-out",
        )
    chosen["held_out_share"] = args.held_out
    return train, held_out, describe_data(name, train, held_out, pairs.fingerprint, **chosen)


def load_pairs(path: str, args: argparse.Namespace):
    """`EmbeddingPairs` in the direction and number that the options say."""
    import torch

    from ..embeddings.pairs import EmbeddingPairs

    pairs = EmbeddingPairs.load(path)
    if args.reverse:
        pairs = pairs.reversed()
    if args.limit is not None:
        items = pairs.group.unique()
        order = torch.randperm(len(items), generator=torch.Generator().manual_seed(args.split_seed))
        pairs = pairs.select(torch.isin(pairs.group, items[order[: args.limit]]))
    return pairs


def check_same_space(train, test, path: str) -> None:
    """Raises DataError for test embeddings of another width, or of another CLAP as far as both are known."""
    if train.embedding_dim != test.embedding_dim:
        raise DataError(
            path, f"is {test.embedding_dim} wide, the training data {train.embedding_dim}", "Use one encoder"
        )
    if None not in (train.clap, test.clap) and train.clap != test.clap:
        raise DataError(path, f"was made by CLAP {test.clap}, the training data by {train.clap}", "Use one encoder")


def training_recipe(args: argparse.Namespace) -> dict[str, int | float]:
    """What all trained methods share, as the report shows it and `train_bridge` takes it."""
    return {"steps": args.train_steps, "batch_size": args.batch_size, "learning_rate": args.learning_rate}


def fit_bridges(args: argparse.Namespace, methods: Sequence[str | Variant], train) -> list:
    """Every method with every seed on the same rows, as `FittedBridge`; a name alone has the budget that all share.

    Variants that differ in how they sample, not in how they are trained, are trained once.

    Raises:
        DiffusionLinkError: see `train_bridge`.
    """
    from ..analysis.evaluation import FittedBridge

    fitted, trained = [], {}
    with bridge_folder(args) as folder:
        for variant in (Variant(method, method) if isinstance(method, str) else method for method in methods):
            for seed in dict.fromkeys(args.seeds):
                key = json.dumps([variant.method, variant.train, seed], sort_keys=True)
                if key not in trained:
                    output = folder / folder_name(variant.name) / f"seed{seed}"
                    say(args, f"fitting {variant.name}, seed {seed}")
                    trained[key] = fit_bridge(args, variant.method, seed, train, output, **variant.train)
                fitted.append(FittedBridge(variant.name, *trained[key], variant.sample, variant.train))
    return fitted


def fit_bridge(args: argparse.Namespace, method: str, seed: int, train, output: Path, **changes) -> tuple:
    """One bridge with the budget that all share, but for ``changes``: (bridge, seed, steps, seconds).

    Raises:
        DiffusionLinkError: see `train_bridge`.
    """
    from ..training.bridge import train_bridge

    bridge = train_bridge(
        method,
        train,
        output,
        seed=seed,
        validation_fraction=0.0,  # nothing is chosen on it; what is held out is held out before
        progress=not args.quiet and sys.stderr.isatty(),
        **{**training_recipe(args), **changes},
    )
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return bridge, seed, metrics["steps"], metrics["seconds"]


def folder_name(name: str) -> str:
    """A variant's name with everything but letters, digits, dots and hyphens as an underscore."""
    return re.sub(r"[^\w.-]+", "_", name)


def load_bridge(name: str, folder: str):
    """A bridge that was fitted before, as `FittedBridge`: its own folder, or a pipeline's, or a Hub id.

    Raises:
        DiffusionLinkError: the folder holds neither.
    """
    from ..analysis.evaluation import FittedBridge
    from ..bridges.base import BridgeModel
    from ..loading import resolve_folder

    path = resolve_folder(folder)
    inside = {"subfolder": "link"} if (path / "link").is_dir() else {}
    return FittedBridge(name, BridgeModel.from_pretrained(path, **inside).eval(), steps=None)


@contextmanager
def bridge_folder(args: argparse.Namespace) -> Iterator[Path]:
    """Where fitted bridges are written: kept beside the report, or gone in the end."""
    if args.keep_bridges:
        yield Path(args.output) / "bridges"
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def say(args: argparse.Namespace, message: str) -> None:
    if not args.quiet:
        print(message, file=sys.stderr, flush=True)
