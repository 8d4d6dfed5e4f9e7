"""``diffusion-link test``: captions and all metrics of one pipeline on one data set, beside the paper's tables."""

import argparse
import sys
from pathlib import Path

from .options import keywords, positive

DESCRIPTION = """Test a captioner: caption a data set, score the captions, and write a report beside the paper's tables.

Writes OUTPUT/report.md, OUTPUT/results.json, and OUTPUT/captions.jsonl with the scores of every caption. A pipeline in
a folder also gets the figures: in its test_results.json, from where `push` takes them, and in its README.md.

Captions are kept as they are made: started again with equal arguments, the command goes on where it stopped. Under
`accelerate launch` every process captions its share. All metrics are computed that can be; the report lists the others
with the reason. The exit status is 0, 1 if recordings had to be left out, or 2 if something was wrong.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "test",
        help="caption a test set with a pipeline, score the captions, and write a report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="PIPELINE", help="folder or Hub id of the pipeline")
    add("--data", required=True, help="recordings with captions: a folder, AudioCaps, Clotho, Parquet, a Hub id")
    add("--split", metavar="NAME", help="of the data, such as test; needed where there are several")
    add("--audio", metavar="FOLDER", help="the recordings, where they are not beside the captions")
    add("--limit", type=positive, metavar="N", help="only the first N recordings")
    add("--data-revision", metavar="REVISION", help="of a data set on the Hub")
    add("--data-config", metavar="NAME", help="configuration of a data set on the Hub that has several")
    add("--output", required=True, metavar="FOLDER", help="for the report and the captions")
    loading = parser.add_argument_group("pipeline").add_argument
    loading("--revision", help="branch, tag or commit of the pipeline on the Hub")
    loading("--device", help="cpu, cuda, cuda:1 … (default: what Accelerate chooses)")
    loading("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="(default: float32)")
    add = parser.add_argument_group("captions").add_argument
    add("--num-beams", type=positive, default=1, metavar="N", help="beam search width (default: 1, greedy)")
    add("--max-new-tokens", type=positive, default=40, metavar="N", help="longest caption (default: 40)")
    add("--sample", dest="do_sample", action="store_true", help="sample instead of searching")
    add(
        "--generation",
        dest="generation_kwargs",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="more fields of GenerationConfig, such as temperature=0.7 (values are YAML)",
    )
    add(
        "--rerank",
        type=positive,
        default=1,
        metavar="N",
        help="write N captions (beams, or samples) and take the one whose CLAP embedding is nearest to the sound's",
    )
    add("--seed", type=int, default=0, metavar="N", help="of sampling and of the bootstrap (default: 0)")
    add("--batch-size", type=positive, default=32, metavar="N", help="recordings captioned at once (default: 32)")
    add("--num-workers", type=int, default=0, metavar="N", help="processes that decode audio (default: 0)")
    add = parser.add_argument_group("metrics").add_argument
    add("--metrics", nargs="+", metavar="NAME", help="only these; one that cannot be had is then an error")
    add("--skip", nargs="+", default=[], metavar="NAME", help="all but these")
    add("--sbert-model", metavar="MODEL", help="folder or Hub id of a sentence-transformers model")
    add("--fluency-model", metavar="MODEL", help="folder or Hub id of a fluency-error detector")
    add("--resamples", type=positive, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    add("--no-card", dest="card", action="store_false", help="write nothing into the pipeline's folder")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no messages on standard error")
    return parser


def run(args: argparse.Namespace) -> int:
    """Captions, scores and writes; returns 0, or 1 if recordings had to be left out.

    Raises:
        DiffusionLinkError: see `evaluate_pipeline`.
    """
    import torch
    from accelerate import PartialState

    from ..experiments.testing import evaluate_pipeline
    from ..reports.testing import score_lines
    from ..training.recipes import parse_fields
    from .quiet import quiet_libraries

    given = {"generation_kwargs": parse_fields(args.generation_kwargs), "dtype": getattr(torch, args.dtype)}
    state = PartialState(cpu=args.device == "cpu")
    try:
        with quiet_libraries():
            document = evaluate_pipeline(**{**keywords(args), **given})
    finally:
        state.destroy_process_group()
    if document is None:  # other processes are still at work
        return 0
    for failure in document["data"]["left_out"]:
        print(f"diffusion-link: left out {failure['reason']}", file=sys.stderr)
    for name, reason in document["settings"]["not_computed"].items():
        print(f"diffusion-link: not computed: {name} ({reason})", file=sys.stderr)
    for note in document["settings"]["notes"]:
        print(f"diffusion-link: {note}", file=sys.stderr)
    lines = list(score_lines(document))
    width = max(len(name) for name, _ in lines) if lines else 0
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    print(Path(args.output) / "report.md")
    return 1 if document["data"]["left_out"] else 0
