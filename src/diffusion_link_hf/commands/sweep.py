"""``diffusion-link sweep``: similarity and recall by starting timestep s*, number of steps and input noise."""

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
from .options import positive

DESCRIPTION = """Sweep where a diffusion bridge starts and in how many steps it samples (the paper's Table 2).

Fits the methods with every seed, or takes bridges that were fitted before, samples held-out recordings from every s* in
every number of steps, and writes OUTPUT/report.md, OUTPUT/results.json and the curves. identity (the raw embeddings),
centering and ridge are in every report. Equal arguments give equal files, but for times.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "sweep",
        help="sweep starting timestep and steps of diffusion bridges",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    parser.add_argument(
        "--timesteps", type=positive, nargs="+", default=[20, 100, 200, 300, 400, 500], metavar="S", help="the s*"
    )
    parser.add_argument(
        "--steps", type=positive, nargs="+", default=[1, 5], metavar="N", help="DDIM steps (default: 1 5)"
    )
    parser.add_argument(
        "--input",
        choices=("noised", "not-noised", "both"),
        default="both",
        help="whether the input is noised to s* first (default: both)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="bridges with an s* to fit (default: diffusion-link, unless a --bridge is given)",
    )
    parser.add_argument(
        "--bridge",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="a bridge that was fitted before, on other recordings, one hopes; may be repeated",
    )
    add_training_options(parser)
    add_report_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Fits, samples, measures and writes; returns 0.

    Raises:
        DiffusionLinkError: an unknown method or one without s*, a grid without points, data that cannot be used, or a
            library that is not installed; all of that before anything is trained.
    """
    from ..analysis.evaluation import EvaluationSettings, check_data, evaluate_bridges
    from ..reports.figures import check_libraries, draw_timestep_curve
    from ..reports.gap import write_document
    from ..reports.sweep import grid, sweep_bridges, sweep_document, sweep_markdown

    methods = list(dict.fromkeys(args.methods or ([] if args.bridge else ["diffusion-link"])))
    check_methods(methods)
    names = [*BASELINES, *methods, *(name for name, _ in args.bridge)]
    for name in {name for name in names if names.count(name) > 1}:
        raise InputError("--bridge", f"has a second {name!r}", "Use another name")
    noised = {"noised": [True], "not-noised": [False], "both": [True, False]}[args.input]
    points = grid(names[len(BASELINES) :], args.timesteps, args.steps, noised)
    if not args.no_figures:
        check_libraries()
    settings = EvaluationSettings(resamples=args.resamples, seed=args.split_seed, geometry=False)
    train, held_out, data = split_data(args)
    check_data(held_out, train, settings)
    given = [load_bridge(name, folder) for name, folder in args.bridge]
    sweep_bridges(points, given)  # refuses what has no s*
    fitted = fit_bridges(args, [*BASELINES, *methods], train)
    baselines = [one for one in fitted if one.method in BASELINES]
    swept = sweep_bridges(points, [*(one for one in fitted if one.method not in BASELINES), *given])
    say(args, f"measuring {len(points)} points")
    results = evaluate_bridges([*baselines, *swept], held_out, train, settings)
    document = sweep_document(points, results, data, training_recipe(args) if methods else {}, settings)
    pictures = []
    if not args.no_figures:
        for name in ("matched_audio", "source_to_target_r1"):
            pictures.append(f"{name}_by_timestep.svg")
            draw_timestep_curve(Path(args.output) / pictures[-1], document, name)
    write_document(document, sweep_markdown(document, pictures), args.output)
    print(Path(args.output) / "report.md")
    return 0


def check_methods(methods: list[str]) -> None:
    """Raises InputError for a method that is unknown or does not start from a timestep."""
    from ..training.bridge import METHODS, build_bridge

    for name in methods:
        if name not in METHODS:
            raise InputError("--methods", f"has {name!r}", f"Use any of {', '.join(METHODS)}")
        if "noise_timestep" not in build_bridge(name, 8).config:
            raise InputError("--methods", f"has {name!r}, which has no s*", "Sweep a diffusion bridge")
