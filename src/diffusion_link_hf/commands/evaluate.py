"""``diffusion-link evaluate``: captioning with and without bridges, zero-shot and supervised, and a report of it."""

import argparse
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError, RecipeError
from ..experiments.fitting import add_training_options, check_same_space, fit_bridge, say, training_recipe
from .options import positive
from .train_bridge import parse_fields

DESCRIPTION = """Measure what bridges do for captioning (the paper's Tables 3 and 4).

For every method and seed: fits the bridge on the training part, trains projector and decoder through it, all from the
same language model with the same budget, captions the held-out recordings and scores the captions. zero-shot decoders
learn from text embeddings alone, supervised ones from audio. "none" is the paper's baseline without a bridge.
Writes OUTPUT/report.md, OUTPUT/results.json and OUTPUT/captions.jsonl. Equal arguments give equal files, but for times.

Finished runs lie in OUTPUT/runs: started again with equal arguments, or with more methods, modes or seeds, the command
goes on where it stopped. With other data, models or budgets it refuses that folder.
"""
METHODS = ("none", "centering", "c3", "ridge", "diffusion-bridge", "diffusion-link")
MODES = ("zero-shot", "supervised")
INSTRUCTION = "Describe the sound: "  # the wording is not given by the paper
WARMUP_SHARE = 0.04  # of the steps, as the paper's 2 of 50 epochs
# What `--decoder` may not set: it follows from the mode, is an option of its own, or touches no result.
FIXED_FIELDS = (
    "stage", "cache", "output", "seed", "mode", "link", "clap", "base_model", "base_revision", "instruction",
    "projector", "max_steps", "epochs", "warmup_epochs", "batch_size", "learning_rate", "validation_fraction",
    "validate_every", "validate_metric", "validation_captions", "patience", "keep", "log_every", "report_to", "resume",
)  # fmt: skip


def add_parser(commands) -> argparse.ArgumentParser:
    """Adds the sub-command to what `argparse.ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "evaluate",
        help="train decoders with and without bridges, caption, score, and write a report",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--embeddings",
        "--data",
        required=True,
        metavar="FOLDER",
        help="embedding cache to train on, and to hold out from",
    )
    captioned = parser.add_mutually_exclusive_group()
    captioned.add_argument(
        "--held-out", type=float, default=0.1, metavar="SHARE", help="of recordings, to be captioned (default: 0.1)"
    )
    captioned.add_argument("--test", metavar="FOLDER", help="caption the recordings of this cache instead")
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="of that choice (default: 0)")
    parser.add_argument("--limit", type=positive, metavar="N", help="use N recordings, chosen by the split seed")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        metavar="NAME",
        help=f"none or bridges; an unknown name lists all (default: {' '.join(METHODS)})",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    models = parser.add_argument_group(
        "decoders", "The budget's defaults suit the tiny pipeline. The paper gives LLaMA-2 50 epochs, batch 4, 5e-6."
    )
    models.add_argument(
        "--model",
        default="tiny",
        help="pipeline whose decoder gives language model and LoRA, a folder or a Hub id (default: tiny)",
    )
    models.add_argument(
        "--base-model", metavar="LM", help="start from this language model instead: a folder or a Hub id"
    )
    models.add_argument("--base-revision", metavar="REVISION", help="of a Hub id")
    models.add_argument(
        "--instruction", default=INSTRUCTION, metavar="TEXT", help=f'zero-shot prompt (default: "{INSTRUCTION}")'
    )
    models.add_argument("--decoder-steps", type=positive, default=600, metavar="N", help="default: 600")
    models.add_argument("--decoder-batch-size", type=positive, default=16, metavar="N", help="default: 16")
    models.add_argument("--decoder-learning-rate", type=float, default=2e-3, metavar="X", help="default: 2e-3")
    models.add_argument(
        "--decoder",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="more of the decoders' recipe, such as weight_decay=0.05 or lora={r: 16} (values are YAML)",
    )
    models.add_argument("--num-beams", type=positive, default=1, metavar="N", help="default: 1, greedy")
    models.add_argument("--max-new-tokens", type=positive, default=40, metavar="N", help="of a caption (default: 40)")
    add_training_options(parser.add_argument_group("bridges that are trained"))
    report = parser.add_argument_group("report")
    report.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="default: meteor cider_d bleu_4 rouge_l, and spice spider fense where they are installed",
    )
    report.add_argument(
        "--events", metavar="FILE", help='JSON {"label": ["stem", …]}: also tell which captions name the right events'
    )
    report.add_argument(
        "--resamples", type=positive, default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    report.add_argument("--output", required=True, metavar="FOLDER", help="for the report and the runs")
    report.add_argument(
        "--keep-models", action="store_true", help="keep fitted bridges and trained decoders in OUTPUT/runs"
    )
    report.add_argument("--quiet", action="store_true", help="no messages on standard error")
    return parser


def run(args: argparse.Namespace) -> int:
    """Trains, captions, scores and writes; returns 0.

    Raises:
        DiffusionLinkError: an unknown method, metric or field, data or models that cannot be used, a metric that is not
            installed, or a folder with runs of other arguments; all of that before anything is trained.
    """
    fields = decoder_fields(args)
    if args.base_revision and not args.base_model:
        raise InputError("--base-revision", f"is {args.base_revision!r}, of no --base-model", "Name that, too")

    from ..analysis.captioning import EventJudge, HeldOut, rehearse_scoring
    from ..analysis.event_words import EventWords
    from ..embeddings.pairs import EmbeddingPairs
    from ..experiments.caption_runs import CaptionRuns, plan_runs
    from ..files import make_writable

    check_methods(args.methods)
    metrics, missing = chosen_metrics(args.metrics)
    words = EventWords.load(args.events) if args.events else None
    train, test = split_cache(args)
    held_out = HeldOut.from_cache(test)
    judge = EventJudge(words, held_out.references) if words else None
    planned = plan_runs(args.methods, args.modes, args.seeds)
    folder = Path(args.output) / "runs"
    with scratch(folder / "work") as work:
        make_writable(work)
        recipe, base, about = captioning_recipe(args, fields)
        check_runs(recipe, planned, train, work)
        rehearse_scoring(held_out.references, metrics)
        pairs = EmbeddingPairs.from_cache(train)
        runs = CaptionRuns(
            folder,
            recipe,
            lambda method, seed, output: fit(args, method, seed, pairs, output),
            args.keep_models,
            progress=not args.quiet,
        )
        runs.claim(recipe.identity(train, test, base))
        train.save(work / "cache")
        finished = []
        for number, one in enumerate(planned, start=1):
            done = runs.is_finished(one)
            say(args, f"run {number} of {len(planned)}: {one.name}{', done before' if done else ''}")
            finished.append(runs.finished(one, len(held_out)) if done else runs.do(one, work / "cache", held_out))
        runs.clean()
    say(args, "scoring")
    report(args, runs, finished, held_out, judge, (metrics, missing), describe(args, train, test, held_out), about)
    print(Path(args.output) / "report.md")
    return 0


def decoder_fields(args: argparse.Namespace) -> dict[str, Any]:
    """The decoders' recipe as far as the options give it, but for ``lora`` where they do not.

    Raises:
        RecipeError: a field that there is not, or one of `FIXED_FIELDS`.
    """
    from ..training.recipes import DecoderTrainingArguments

    given = parse_fields("--decoder", args.decoder)
    free = [field.name for field in dataclasses.fields(DecoderTrainingArguments) if field.name not in FIXED_FIELDS]
    for name in given:
        if name not in free:
            raise RecipeError("--decoder", f"has {name!r}", f"Use any of {', '.join(free)}")
    return {
        "max_steps": args.decoder_steps,
        "batch_size": args.decoder_batch_size,
        "learning_rate": args.decoder_learning_rate,
        "warmup_steps": round(WARMUP_SHARE * args.decoder_steps),
        "max_grad_norm": 1.0,
        **given,
    }


def check_methods(names: Sequence[str]) -> None:
    """Raises InputError for a method that is unknown."""
    from ..experiments.caption_runs import NO_LINK
    from ..training.bridge import METHODS

    known = [NO_LINK, *METHODS]
    for name in names:
        if name not in known:
            raise InputError("--methods", f"has {name!r}", f"Use any of {', '.join(known)}")


def chosen_metrics(asked: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Scores to compute, and those that would be by default but are not installed, with the remedy.

    Raises:
        InputError: an unknown name.
    """
    from ..analysis.captioning import installed_metrics
    from ..metrics import score_names

    return (list(score_names(asked)), {}) if asked else installed_metrics()


def split_cache(args: argparse.Namespace):
    """Training and held-out `EmbeddingCache`, which share no recording.

    Raises:
        DataError: a cache that cannot be read, no pairs to train on, nothing held out, or test data of another width
            or CLAP, or with recordings of the training data.
        InputError: a share out of range.
    """
    from ..embeddings.pairs import EmbeddingPairs

    if not 0 < args.held_out < 1:
        raise InputError("--held-out", f"is {args.held_out}", "Use a share between 0 and 1")
    cache = load_cache(args.embeddings, args)
    if args.test is None:
        train, test = cache.split(args.held_out, args.split_seed)
        if test is None:
            raise DataError(
                args.embeddings,
                f"has {len(cache.audio)} recordings, of which none is held out",
                "Use more data or a larger --held-out",
            )
    else:
        train, test = cache, load_cache(args.test, args)
        check_same_space(EmbeddingPairs.from_cache(train), EmbeddingPairs.from_cache(test), args.test)
        seen = {row.tobytes() for row in train.audio.numpy()}
        shared = sum(row.tobytes() in seen for row in test.audio.numpy())
        if shared:
            raise DataError(args.test, f"has {shared} recordings of the training data", "Use recordings of its own")
    needs_audio = "supervised" in args.modes or set(args.methods) != {"none"}
    if needs_audio and not (train.caption_audio >= 0).any():
        raise DataError(
            args.embeddings, "has no audio with captions to train on", "Use --modes zero-shot --methods none, or audio"
        )
    return train, test


def load_cache(path: str, args: argparse.Namespace):
    """An `EmbeddingCache`, or ``--limit`` of its recordings with their captions."""
    import torch

    from ..embeddings.cache import EmbeddingCache

    cache = EmbeddingCache.load(path)
    if args.limit is None:
        return cache
    order = torch.randperm(len(cache.audio), generator=torch.Generator().manual_seed(args.split_seed))
    chosen = torch.isin(cache.caption_audio, order[: args.limit])
    return cache.select(chosen.nonzero()[:, 0]) if chosen.any() else cache


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder that is empty at first and gone in the end; what a killed command left in it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def captioning_recipe(args: argparse.Namespace, fields: dict[str, Any]):
    """The `CaptioningRecipe`, the fingerprint of its base model, and what the report says of both.

    Raises:
        ModelFolderError, HubAccessError: a pipeline or base model that cannot be had.
    """
    from ..experiments.adapter_recipe import adapter_recipe
    from ..experiments.caption_runs import CaptioningRecipe
    from ..loading import resolve_folder
    from ..training.parts import locate_base

    adapter = adapter_recipe(resolve_folder(args.model) / "decoder")
    base = args.base_model or args.model
    recipe = CaptioningRecipe(
        base,
        args.base_revision,
        args.instruction or None,
        training_recipe(args),
        {"lora": adapter, **fields},
        {"num_beams": args.num_beams, "max_new_tokens": args.max_new_tokens},
    )
    about = {
        "base_model": Path(args.base_model or args.model).name,
        "base_was_trained": not args.base_model and adapter is None,
        "instruction": recipe.instruction if "zero-shot" in args.modes else None,
        "bridge": recipe.bridge,
        "decoder": recipe.decoder,
        "generation": recipe.generation,
    }
    return recipe, locate_base(base, args.base_revision).fingerprint, about


def check_runs(recipe, planned: Sequence, train, work: Path) -> None:
    """Build what each run would train, once for each method and mode.

    Raises:
        RecipeError: a value out of range or a model that does not take it.
        ModelFolderError: a base model that cannot be loaded.
    """
    from ..experiments.caption_runs import NO_LINK
    from ..training.bridge import build_bridge
    from ..training.parts import build_parts

    for method in {one.method for one in planned} - {NO_LINK}:
        build_bridge(method, train.embedding_dim)
    for mode in {one.mode for one in planned}:
        for seed in {one.seed for one in planned}:
            arguments = recipe.arguments(mode, seed, work, work, None)
        build_parts(arguments, train).decoder.generation_config(**recipe.generation)


def fit(args: argparse.Namespace, method: str, seed: int, pairs, output: Path) -> None:
    say(args, f"fitting {method}, seed {seed}")
    fit_bridge(args, method, seed, pairs, output)


def describe(args: argparse.Namespace, train, test, held_out) -> dict[str, Any]:
    """What the report says of the data."""
    return {
        "train_name": Path(args.embeddings).name,
        "train_fingerprint": train.fingerprint,
        "train_recordings": len(train.audio),
        "train_captions": len(train.text),
        "held_out_name": Path(args.test or args.embeddings).name,
        "held_out_fingerprint": test.fingerprint,
        "held_out_recordings": len(held_out),
        "held_out_captions": sum(map(len, held_out.references)),
        "without_references": len(test.audio) - len(held_out),
        "embedding_dim": train.embedding_dim,
    }


def report(args: argparse.Namespace, runs, finished: Sequence, held_out, judge, metrics, data, about) -> None:
    """Score all runs and write the three files."""
    import numpy as np

    from ..analysis.bootstrap import GroupBootstrap
    from ..analysis.captioning import CaptionResult, measure_captions
    from ..reports.captioning import captioning_document, captioning_markdown, write_captions
    from ..reports.gap import write_document

    names, missing = metrics
    boot = GroupBootstrap(np.arange(len(held_out)), args.resamples, args.split_seed)
    measured: dict[str, dict[str, list]] = {mode: {} for mode in MODES if mode in args.modes}
    for found in finished:
        scores = runs.scores(found, held_out.references, names)
        figures = measure_captions(found.captions, scores, boot, judge)
        measured[found.run.mode].setdefault(found.run.method, []).append(figures)
    results = {
        mode: {method: CaptionResult(tuple(figures)) for method, figures in methods.items()}
        for mode, methods in measured.items()
    }
    settings = {
        "resamples": args.resamples,
        "seed": args.split_seed,
        "metrics": names,
        "missing": missing,
        "events": judge.counts if judge else {},
    }
    document = captioning_document(results, finished, data, about, settings, held_out)
    write_document(document, captioning_markdown(document), args.output)
    write_captions(finished, held_out, Path(args.output) / "captions.jsonl")
