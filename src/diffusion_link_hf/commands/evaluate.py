"""``diffusion-link evaluate``: captioning with and without bridges, zero-shot and supervised, and a report of it."""

import argparse
from pathlib import Path

from ..experiments.choices import CAPTIONING_METHODS, INSTRUCTION, MODES
from .options import add_training_options, keywords, positive

DESCRIPTION = """Measure what bridges do for captioning (the paper's Tables 3 and 4).

For every method and seed: fits the bridge on the training part, trains projector and decoder through it, all from the
same language model with the same budget, captions the held-out recordings and scores the captions. Zero-shot decoders
learn from text embeddings alone, supervised ones from audio. "none" is the paper's baseline without a bridge.
Writes OUTPUT/report.md, OUTPUT/results.json and OUTPUT/captions.jsonl. Equal arguments give equal files, except for
times.

Finished runs lie in OUTPUT/runs: started again with equal arguments, or with more methods, modes or seeds, the command
goes on where it stopped. With other data, models or budgets it refuses that folder.
"""


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "evaluate",
        help="train decoders with and without bridges, caption, score, and write a report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--embeddings", "--data", required=True, metavar="FOLDER", help="embedding cache for training and captioning")
    captioned = parser.add_mutually_exclusive_group()
    captioned.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="share of recordings to caption (default: 0.1)"
    )
    captioned.add_argument("--test", metavar="FOLDER", help="caption the recordings of this cache instead")
    add("--split-seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    add("--limit", type=positive, metavar="N", help="use only N recordings; the split seed chooses them")
    add(
        "--methods",
        nargs="+",
        default=list(CAPTIONING_METHODS),
        metavar="NAME",
        help=f"bridges, and none for no bridge; an unknown name lists them (default: {' '.join(CAPTIONING_METHODS)})",
    )
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    models = parser.add_argument_group(
        "decoders", "The default budget suits the tiny pipeline. The paper gives LLaMA-2 50 epochs, batch 4, 5e-6."
    )
    add = models.add_argument
    add(
        "--model",
        default="tiny",
        help="take language model and LoRA settings from this pipeline: folder or Hub id (default: tiny)",
    )
    add("--base-model", metavar="LM", help="start from this language model instead: a folder or a Hub id")
    add("--base-revision", metavar="REVISION", help="branch, tag or commit of the base model on the Hub")
    add("--instruction", default=INSTRUCTION, metavar="TEXT", help=f'zero-shot prompt (default: "{INSTRUCTION}")')
    add("--decoder-steps", type=positive, default=600, metavar="N", help="training steps of a decoder (default: 600)")
    add("--decoder-batch-size", type=positive, default=16, metavar="N", help="captions in a batch (default: 16)")
    add("--decoder-learning-rate", type=float, default=2e-3, metavar="X", help="learning rate (default: 2e-3)")
    add(
        "--decoder",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="more fields of the decoders' recipe, such as weight_decay=0.05 or lora={r: 16} (values are YAML)",
    )
    add("--num-beams", type=positive, default=1, metavar="N", help="beam search width (default: 1, greedy)")
    add("--max-new-tokens", type=positive, default=40, metavar="N", help="most tokens in a caption (default: 40)")
    add_training_options(parser.add_argument_group("bridges that are trained"))
    add = parser.add_argument_group("report").add_argument
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="default: meteor cider_d bleu_4 rouge_l, and spice spider fense where they are installed",
    )
    add("--events", metavar="FILE", help='JSON {"label": ["stem", …]}: also count captions with the right events')
    add("--resamples", type=positive, default=1000, metavar="N", help="bootstrap resamples (default: 1000)")
    add("--output", required=True, metavar="FOLDER", help="folder for the report and the runs")
    add("--keep-models", action="store_true", help="keep fitted bridges and trained decoders in OUTPUT/runs")
    add("--quiet", dest="progress", action="store_false", help="show no progress")
    return parser


def run(args: argparse.Namespace) -> int:
    """Trains, captions, scores and writes; returns 0.

    Raises:
        DiffusionLinkError: see `evaluate`.
    """
    from ..experiments.captioning import evaluate
    from ..training.recipes import parse_fields

    evaluate(**{**keywords(args, steps="train_steps"), "decoder": parse_fields(args.decoder)})
    print(Path(args.output) / "report.md")
    return 0
