"""``diffusion-link score``: caption metrics of a file of predictions, and the files that two of them need."""

import argparse
import json
import sys

from ..metrics import DEFAULT_METRICS, METRICS, score, score_names
from ..metrics.predictions_file import read_predictions, write_per_caption

DESCRIPTION = """Score captions against references.

PREDICTIONS holds JSON lines {"candidate": "…", "references": ["…", …]}; "-" reads standard input. Scores are fractions:
a CIDEr-D of 0.71 is the 71 of tables in percent. The exit status is 0, or 2 if something was wrong; nothing is left out
of the output silently.

SPICE (also in SPIDEr) needs Stanford CoreNLP 3.6.0, and FENSE its fluency-error detector. Fetch them once:
  diffusion-link score --fetch spice
  diffusion-link score --fetch fluency
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "score",
        help="caption metrics of a file of predictions",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="metrics:\n" + "\n".join(f"  {name:<17} {metric.description}" for name, metric in METRICS.items()),
    )
    parser.add_argument(
        "predictions", nargs="?", metavar="PREDICTIONS", help='file of JSON lines; "-" reads standard input'
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=list(DEFAULT_METRICS),
        metavar="NAME",
        help=f"metrics to compute (default: {' '.join(DEFAULT_METRICS)}); also single scores such as bleu_4",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object of corpus scores")
    parser.add_argument("--per-caption", metavar="FILE", help="also write JSON lines with the scores of every caption")
    parser.add_argument("--sbert-model", metavar="MODEL", help="folder or Hub id of a sentence-transformers model")
    parser.add_argument("--fluency-model", metavar="MODEL", help="folder or Hub id of a fluency-error detector")
    parser.add_argument(
        "--device", default="cpu", help="device for metrics with a network: cpu, cuda, cuda:1 … (default: cpu)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="captions embedded at once (default: 32)")
    parser.add_argument("--fetch", choices=("spice", "fluency"), help="install what a metric needs, and score nothing")
    parser.add_argument(
        "--archive", metavar="FILE", help="with --fetch: use this copy of the file instead of downloading it"
    )
    # One job per call: what the parser cannot say by itself.
    parser.set_defaults(usage_error=parser.error)
    return parser


def run(args: argparse.Namespace) -> int:
    """Scores or fetches; returns 0.

    Raises:
        DiffusionLinkError: malformed predictions, an unknown metric, or something that is not installed.
    """
    if args.fetch:
        if args.predictions is not None:
            args.usage_error("--fetch scores nothing: leave out PREDICTIONS")
        print(f"{args.fetch}: ready in {_fetch(args.fetch, args.archive)}")
        return 0
    if args.predictions is None:
        args.usage_error("the following arguments are required: PREDICTIONS")
    if args.archive is not None:
        args.usage_error("--archive goes with --fetch")
    score_names(args.metrics)  # a misspelled name before a large file is read
    predictions = read_predictions(sys.stdin.buffer if args.predictions == "-" else args.predictions)
    models = {"sbert_model": args.sbert_model, "fluency_model": args.fluency_model}
    scores = score(
        predictions.captions,
        metrics=args.metrics,
        device=args.device,
        batch_size=args.batch_size,
        **{name: value for name, value in models.items() if value is not None},
    )
    if args.per_caption is not None:
        write_per_caption(args.per_caption, predictions, scores)
    if args.json:
        print(json.dumps(dict(scores.corpus), allow_nan=False))
    else:
        width = max(map(len, scores.corpus))
        for name, value in scores.corpus.items():
            print(f"{name:<{width}}  {value:.4f}")
    return 0


def _fetch(what: str, archive: str | None):
    if what == "spice":
        from ..metrics.spice import fetch_spice

        return fetch_spice(archive)
    from ..metrics.fense import fetch_fluency_detector

    return fetch_fluency_detector(archive)
