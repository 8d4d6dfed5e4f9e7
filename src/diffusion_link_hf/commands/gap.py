"""``diffusion-link gap``: fit bridges with equal budgets, measure the modality gap before and after, write a report."""

import argparse
from pathlib import Path

from ..errors import InputError
from .options import add_data_options, add_training_options, keywords, named_folder, positive

DESCRIPTION = """Measure how well bridges close the gap between two modalities.

Fits every method with every seed on the same recordings with the same budget, measures all on the same held-out
recordings, and writes OUTPUT/report.md, OUTPUT/results.json and pictures. identity (the raw embeddings), centering and
ridge are in every report. Equal arguments give equal files, except for times.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "gap",
        help="measure bridges on embeddings and write a report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--embeddings",
        "--data",
        required=True,
        metavar="PATH",
        help="folder of an embedding cache, or safetensors file with source (N, D), target (N, D), optional group "
        "(N,); with --clap, also captioned recordings: a folder, AudioCaps, Clotho or a Hub id",
    )
    add("--clap", metavar="MODEL", help="embed recordings with this CLAP: folder or Hub id of a CLAP or a pipeline")
    add("--clap-revision", metavar="NAME", help="branch, tag or commit of a CLAP on the Hub")
    add("--split", metavar="NAME", help="split of the recordings, such as test")
    add(
        "--names",
        nargs=2,
        default=(),
        metavar=("SOURCE", "TARGET"),
        help="what the report calls the two sides (default: audio text of recordings and caches, source target of a "
        "file of pairs); the paper's figures appear only for audio text",
    )
    add("--reverse", action="store_true", help="measure the other direction: target → source (text → audio)")
    add_data_options(
        parser, "share of recordings to measure on", "measure on these embeddings, and fit on all others", "PATH"
    )
    add(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="names of methods to fit, all (without the slow U-Net) or none; an unknown name lists them "
        "(default: all, or none with --variants)",
    )
    add("--variants", metavar="FILE", help="add the variants of a YAML file, such as a grid of timesteps and steps")
    add(
        "--bridge",
        dest="bridges",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="add a bridge that you have fitted without the held-out recordings (repeatable)",
    )
    add(
        "--model",
        metavar="FOLDER",
        help="add the link of this pipeline (folder or Hub id); its CLAP embeds --data if that is audio",
    )
    add_training_options(parser)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--readouts", action="store_true", help="fit read-outs to every bridge and compare them (fit_readouts)")
    add("--validation", metavar="PATH", help="choose read-outs on these embeddings (default: a tenth of the rest)")
    add("--resamples", type=positive, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    add(
        "--kl-components",
        type=positive,
        default=32,
        metavar="N",
        help="number of principal axes for the KL divergence (default: 32)",
    )
    add(
        "--no-geometry",
        dest="geometry",
        action="store_false",
        help="do not compute KL divergence, separability and dimension",
    )
    add("--projection", choices=("umap", "pca"), default="umap", help="how to draw the maps (default: umap)")
    add(
        "--picture",
        dest="pictures",
        nargs="+",
        default=[],
        metavar="NAME",
        help="draw these methods (default: the one with the best cosine)",
    )
    add("--output", required=True, metavar="FOLDER", help="folder for report.md, results.json and the pictures")
    add("--no-figures", dest="figures", action="store_false", help="draw no pictures")
    add("--keep-bridges", action="store_true", help="keep the fitted bridges in FOLDER/bridges")
    add("--quiet", dest="progress", action="store_false", help="show no progress")
    return parser


def run(args: argparse.Namespace) -> int:
    """Fits, measures and writes; returns 0.

    Raises:
        DiffusionLinkError: see `gap`.
    """
    from ..experiments.gap import gap

    names = [name for name, _ in args.bridges]
    if len(set(names)) < len(names):
        raise InputError("bridges", f"has a second {max(names, key=names.count)!r}", "Use another name")
    gap(**{**keywords(args), "bridges": dict(args.bridges), "names": tuple(args.names)})
    print(Path(args.output) / "report.md")
    return 0
