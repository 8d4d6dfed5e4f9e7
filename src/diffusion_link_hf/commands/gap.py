"""``diffusion-link gap``: fit bridges with equal budgets, measure the modality gap before and after, write a report."""

import argparse
from pathlib import Path

from ..errors import InputError
from ..experiments.fitting import (
    BASELINES,
    add_data_options,
    add_report_options,
    add_training_options,
    fit_bridges,
    load_bridge,
    named_folder,
    say,
    split_data,
    training_recipe,
)
from ..experiments.variants import Experiment, read_experiment
from .options import positive

DESCRIPTION = """Measure how well bridges close the gap between two modalities.

Fits every method with every seed on the same recordings with the same budget, measures all on the same held-out
recordings, and writes OUTPUT/report.md, OUTPUT/results.json and pictures. identity (the raw embeddings), centering and
ridge are in every report. Equal arguments give equal files, but for times.
"""
# A step on 128 rows takes about a hundred times as long as one of the others: only where it is asked for by name.
SLOW = "diffusion-bridge-unet"
MAP_PAIRS = 300  # of the joined maps: more hide each other
HEAT_MAP_PAIRS = 40


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "gap",
        help="measure bridges on embeddings and write a report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="all but the slow U-Net, none, or names; an unknown one lists them (default: all, none with --variants)",
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="also the link of a pipeline (Hub id or folder), whose CLAP embeds data that are recordings",
    )
    parser.add_argument(
        "--bridge",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="also a bridge that was fitted before, on other recordings, one hopes; may be repeated",
    )
    parser.add_argument(
        "--variants", metavar="FILE", help="also the variants of an experiment (YAML), each trained as it says"
    )
    add_training_options(parser)
    add_report_options(parser)
    parser.add_argument(
        "--kl-components", type=positive, default=32, metavar="N", help="text axes of the KL divergence (default: 32)"
    )
    parser.add_argument(
        "--projection", choices=("umap", "pca"), default="umap", help="of the maps (default: umap, from the extra)"
    )
    parser.add_argument(
        "--picture", nargs="+", default=[], metavar="NAME", help="draw these methods (default: the most similar)"
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Fits, measures and writes; returns 0.

    Raises:
        DiffusionLinkError: an unknown method, data that cannot be used, or a library that is not installed; all of
            that before anything is trained.
    """
    from ..analysis.evaluation import EvaluationSettings, check_data, evaluate_bridges
    from ..reports.figures import check_libraries
    from ..reports.gap import gap_document, gap_markdown, write_document

    given = [*args.bridge, *([("model", args.model)] if args.model else [])]
    methods = chosen_methods(args.methods or (["none"] if args.variants else ["all"]), BASELINES)
    experiment = read_experiment(args.variants) if args.variants else Experiment("Modality gap", ())
    names = [*methods, *(variant.name for variant in experiment.variants), *(name for name, _ in given)]
    for name in {name for name in names if names.count(name) > 1}:
        raise InputError("the methods", f"have a second {name!r}", "Use another name")
    for name in args.picture:
        if name not in names:
            raise InputError("--picture", f"has {name!r}", f"Use one of {', '.join(names)}")
    if not args.no_figures:
        check_libraries(args.projection)
    settings = EvaluationSettings(resamples=args.resamples, seed=args.split_seed, kl_components=args.kl_components)
    train, held_out, data = split_data(args, default_clap=args.model)
    check_data(held_out, train, settings)
    bridges = [load_bridge(name, folder) for name, folder in given]
    bridges = [*fit_bridges(args, [*methods, *experiment.variants], train), *bridges]
    say(args, "measuring")
    results = evaluate_bridges(bridges, held_out, train, settings)
    first = [variant.name for variant in experiment.variants[:1]]
    document = gap_document(results, data, training_recipe(args), settings, experiment.title, first)
    pictures = [] if args.no_figures else draw(args, bridges, document, held_out, settings)
    write_document(document, gap_markdown(document, pictures), args.output)
    print(Path(args.output) / "report.md")
    return 0


def chosen_methods(names: list[str], always: tuple[str, ...]) -> list[str]:
    """``always``, then the methods asked for, in the order of the registry.

    Raises:
        InputError: an unknown name.
    """
    from ..training.bridge import METHODS

    asked = set(names) - {"all", "none"}
    if "all" in names:
        asked |= set(METHODS) - {SLOW}
    if unknown := sorted(asked - set(METHODS)):
        raise InputError("--methods", f"has {unknown[0]!r}", f"Use all, none, or any of {', '.join(METHODS)}")
    return [name for name in METHODS if name in asked.union(always)]


def draw(args: argparse.Namespace, bridges, document, held_out, settings) -> list[str]:
    """Maps and heat maps of the chosen methods' first seeds; the file names."""
    import torch

    from ..analysis.evaluation import bridge_rows, target_rows
    from ..reports.figures import draw_heat_maps, draw_map

    figures = {name: method["figures"]["matched_audio"]["value"] for name, method in document["methods"].items()}
    chosen = args.picture or [max((name for name in figures if name != "identity"), key=figures.__getitem__)]
    groups, first = held_out.group.unique(return_inverse=True)
    order = torch.argsort(first, stable=True)
    # A pair per recording: its first row.
    rows = order[torch.cat([torch.tensor([0]), first.bincount().cumsum(0)[:-1]])][: min(MAP_PAIRS, len(groups))]
    source, target = held_out.source[rows], held_out.target[rows]
    few = slice(0, HEAT_MAP_PAIRS)
    sides = ("text", "audio") if args.reverse else ("audio", "text")
    files = []
    for name in chosen:
        say(args, f"drawing {name}")
        fitted = next(one for one in bridges if one.method == name)
        after = bridge_rows(fitted, source, "audio", settings)[0], target_rows(fitted.bridge, target)
        names = [f"map_{name}.svg", f"heat_map_{name}.svg"]
        draw_map(
            Path(args.output) / names[0], (source, target), after, name, args.projection, settings.seed, names=sides
        )
        draw_heat_maps(
            Path(args.output) / names[1],
            (source[few], target[few]),
            tuple(side[few] for side in after),
            name,
            names=sides,
        )
        files += names
    return files
