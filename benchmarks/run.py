"""Benchmarks of the package against the usual way to do the same: a table, JSON, RESULTS.md and the scaling plots."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness import Settings

HERE = Path(__file__).resolve().parent
GROUPS = ("features", "folder", "bridging", "link_training", "generation", "memory", "scoring", "start_up", "scaling")
RESULTS = HERE / "RESULTS.md"
COLUMNS = ("what", "ours", "peer", "ratio", "floor", "to floor", "demand", "met")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--threads", type=int, default=1, help="of torch and its matrix products (default: 1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="spent on the repeats of a row (default: 8)")
    parser.add_argument("--share", type=float, default=1.0, help="of the work; below 1, to see whether it runs at all")
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help=f"put the figures of this device into {RESULTS.name}, and the plots beside it",
    )
    args = parser.parse_args(argv)
    if args.markdown and (args.share != 1 or args.only is not GROUPS):
        parser.error("--markdown takes the full work of all groups: leave out --share and --only")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    # Before NumPy and torch are imported: their libraries read it once.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    sys.path.insert(0, str(HERE))
    import torch

    from diffusion_link_hf.commands.quiet import quiet_libraries
    from harness import Settings

    torch.set_num_threads(args.threads)
    with quiet_libraries():  # progress bars and warnings would stand between the rows
        measure(args, Settings(args.device, args.threads, args.seconds, args.share))
    return 0


def measure(args: argparse.Namespace, settings: "Settings") -> None:
    """Prints the rows and writes the files that were asked for."""
    from harness import machine

    document: dict[str, Any] = {"machine": machine(settings), "rows": []}
    print("  ".join(f"{name} {value}" for name, value in document["machine"].items()))
    print(line(COLUMNS))
    curves = []
    for group in args.only:
        module = importlib.import_module(group)
        if group == "scaling":
            curves = module.curves(settings)
            document["scaling"] = [curve.document() for curve in curves]
            print("\n".join(curve.text() for curve in curves))
            continue
        for row in module.rows(settings):
            document["rows"].append(row.document())
            print(line(cells(document["rows"][-1])), flush=True)
            if row.note:
                print(f"    {row.note}")
    if args.json:
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        from results import update

        update(RESULTS, document, curves)


def cells(row: dict[str, Any]) -> list[str]:
    """A row's document as the texts of `COLUMNS`."""
    met = {True: "yes", False: "no", None: "–"}[row["met"]]
    times = [seconds(row[name]) for name in ("ours", "peer", "floor")]
    factors = [f"{row[name]:.2f}×" if row[name] else "–" for name in ("ratio", "distance")]
    return [row["name"], times[0], times[1], factors[0], times[2], factors[1], row["wanted"] or "–", met]


def seconds(value: float | None) -> str:
    """A time in the unit that gives it three digits."""
    if value is None:
        return "–"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1 or unit == "µs":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError(value)


def line(texts: Iterable[str]) -> str:
    widths = (66, 9, 9, 8, 9, 8, 40, 4)
    return "  ".join(f"{text:{width}}" for text, width in zip(texts, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
