"""The captioning experiment: decoders trained with and without bridges, their captions scored, a report written."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis.bootstrap import GroupBootstrap
from ..analysis.captioning import (
    CaptionResult,
    EventAccuracy,
    FinishedRun,
    HeldOut,
    Run,
    check_scoring,
    installed_metrics,
    measure_captions,
)
from ..analysis.event_words import EventWords
from ..embeddings.cache import EmbeddingCache
from ..embeddings.pairs import EmbeddingPairs
from ..errors import InputError, RecipeError
from ..files import make_writable
from ..loading import resolve_folder
from ..metrics import score_names
from ..reports.captioning import captioning_document, captioning_markdown, write_captions
from ..reports.markdown import write_document
from ..training.arguments import DecoderTrainingArguments
from ..training.methods import build_bridge, get_method
from ..training.parts import build_parts, locate_base
from .adapter_recipe import adapter_recipe
from .caption_runs import NO_BRIDGE, CaptioningRecipe, CaptionRuns, plan_runs
from .choices import CAPTIONING_METHODS, INSTRUCTION, MODES, Budget, DataChoice
from .data import data_name, split_cache
from .fitting import fit_bridge
from .progress import say

WARMUP_SHARE = 0.04  # of the steps, as the paper's 2 of 50 epochs
# What ``decoder`` may not set: it follows from the mode, is an argument of its own, or touches no result.
FIXED_FIELDS = (
    "stage", "cache", "output", "seed", "mode", "link", "clap", "base_model", "base_revision", "instruction",
    "projector", "max_steps", "epochs", "warmup_epochs", "batch_size", "learning_rate", "validation_fraction",
    "validate_every", "validate_metric", "validation_captions", "patience", "keep", "log_every", "report_to", "resume",
)  # fmt: skip


def evaluate(
    embeddings: str | Path | EmbeddingCache,
    output: str | Path,
    *,
    methods: Sequence[str] = CAPTIONING_METHODS,
    modes: Sequence[str] = MODES,
    seeds: Sequence[int] = (0, 1, 2),
    held_out: float = 0.1,
    test: str | Path | EmbeddingCache | None = None,
    split_seed: int = 0,
    limit: int | None = None,
    model: str = "tiny",
    base_model: str | None = None,
    base_revision: str | None = None,
    instruction: str | None = INSTRUCTION,
    decoder_steps: int = 600,
    decoder_batch_size: int = 16,
    decoder_learning_rate: float = 2e-3,
    decoder: Mapping[str, Any] | None = None,
    num_beams: int = 1,
    max_new_tokens: int = 40,
    steps: int = 2000,
    batch_size: int = 128,
    learning_rate: float = 5e-4,
    metrics: Sequence[str] | None = None,
    events: str | Path | None = None,
    resamples: int = 1000,
    keep_models: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure what bridges do for captioning (the paper's Tables 3 and 4).

    For every method and seed: fits the bridge on the training part, trains projector and decoder through it, all from
    the same language model with the same budget, captions the held-out recordings and scores the captions.
    Writes ``output/report.md``, ``output/results.json`` and ``output/captions.jsonl``.

    Finished runs lie in ``output/runs``: called again with equal arguments, or with more methods, modes or seeds, it
    goes on where it stopped.

    Args:
        embeddings: embedding cache to train on and to hold out from, in memory or its folder.
        output: folder of the report and the runs, created if absent.
        methods: names of `METHODS`, and "none", the paper's baseline without a bridge.
        modes: "zeroshot" (decoders learn from text embeddings alone) and "supervised" (from audio embeddings).
        seeds: of bridges and decoders; figures are means over them.
        held_out: share of recordings to caption, between 0 and 1.
        test: cache whose recordings are captioned instead.
        split_seed: of the choice of held-out recordings, and of the bootstrap.
        limit: number of recordings to use.
        model: pipeline whose decoder gives language model and LoRA, a folder or a Hub id.
        base_model: language model to start from instead, a folder or a Hub id.
        base_revision: of a Hub id.
        instruction: hard prompt of the zero-shot mode; None or "" for none.
        decoder_steps, decoder_batch_size, decoder_learning_rate: the budget that all decoders share. The defaults suit
            the tiny pipeline.
        decoder: more fields of `DecoderTrainingArguments`, such as ``{"lora": {"r": 16}}``.
        num_beams: 1 for greedy decoding.
        max_new_tokens: of a caption.
        steps, batch_size, learning_rate: the budget that all trained bridges share.
        metrics: names of scores; by default METEOR, CIDEr-D, BLEU-4, ROUGE-L, and SPICE, SPIDEr and FENSE where they
            are installed.
        events: JSON file ``{"label": ["stem", …]}``; also measures which captions name the right events.
        resamples: of the bootstrap over recordings.
        keep_models: whether to keep fitted bridges and trained decoders in ``output/runs``.
        progress: whether to report progress on standard error.

    Returns:
        What results.json holds; see `captioning_document`.

    Raises:
        DiffusionLinkError: an unknown method, metric or field, data or models that cannot be used, a metric that is not
            installed, or a folder with runs of other arguments; all of that before anything is trained.

    Examples:
        >>> import tempfile, torch
        >>> from diffusion_link_hf import EmbeddingCache, evaluate
        >>> audio = torch.nn.functional.normalize(torch.randn(20, 512), dim=-1)  # as wide as the tiny pipeline's CLAP
        >>> captions = ["a dog barks", "a bell rings", "a car passes", "a bird sings"] * 5
        >>> names = [f"{k}.wav" for k in range(20)]
        >>> cache = EmbeddingCache(audio, audio + 0.01, torch.arange(20), captions, names, {})
        >>> quick = {"seeds": [0], "decoder_steps": 1, "max_new_tokens": 5, "held_out": 0.2, "metrics": ["rouge_l"]}
        >>> with tempfile.TemporaryDirectory() as folder:  # the metrics need Java and the extra ``metrics``
        ...     document = evaluate(cache, folder, methods=["none", "centering"], modes=["zeroshot"], **quick)
        >>> list(document["modes"]["zeroshot"])
        ['none', 'centering']
    """
    choice = DataChoice(embeddings, held_out, test, split_seed, limit)
    if base_revision and not base_model:
        raise InputError(
            "base_revision", f"is {base_revision!r}, but there is no base_model", "Give base_model as well"
        )
    for name in set(methods) - {NO_BRIDGE}:
        get_method(name, "methods")
    for mode in modes:
        if mode not in MODES:
            raise InputError("modes", f"there is no mode {mode!r}", f"Use any of {', '.join(MODES)}")
    fields = _decoder_fields(decoder or {}, decoder_steps, decoder_batch_size, decoder_learning_rate)
    names, missing = (list(score_names(metrics)), {}) if metrics else installed_metrics()
    words = EventWords.load(events) if events else None
    train, captioned = split_cache(choice, "supervised" in modes or set(methods) != {NO_BRIDGE})
    recordings = HeldOut.from_cache(captioned)
    accuracy = EventAccuracy(words, recordings.references) if words else None
    planned = plan_runs(methods, modes, seeds)
    budget = Budget(steps, batch_size, learning_rate)
    folder = Path(output) / "runs"
    with _scratch(folder / "work") as work:
        make_writable(work)
        adapter = adapter_recipe(resolve_folder(model) / "decoder")
        recipe = CaptioningRecipe(
            base_model or model,
            base_revision,
            instruction or None,
            dataclasses.asdict(budget),
            {"lora": adapter, **fields},
            {"num_beams": num_beams, "max_new_tokens": max_new_tokens},
        )
        base = locate_base(recipe.base_model, base_revision).fingerprint
        _check_runs(recipe, planned, train, work)
        check_scoring(recordings.references, names)
        runs = CaptionRuns(folder, recipe, _fit_with(train, budget, progress), keep_models, progress)
        runs.record(recipe.conditions(train, captioned, base))
        finished = _finish(runs, planned, train, recordings, work / "cache", progress)
        runs.clean()
    say("scoring", progress)
    boot = GroupBootstrap(np.arange(len(recordings)), resamples, split_seed)
    settings = {
        "resamples": resamples,
        "seed": split_seed,
        "metrics": names,
        "missing": missing,
        "events": accuracy.counts if accuracy else {},
    }
    document = captioning_document(
        _results(runs, finished, recordings, names, boot, accuracy),
        finished,
        describe_caches(choice, train, captioned, recordings),
        {
            "base_model": Path(recipe.base_model).name,
            "base_was_trained": not base_model and adapter is None,
            "instruction": recipe.instruction if "zeroshot" in modes else None,
            "bridge": recipe.bridge,
            "decoder": recipe.decoder,
            "generation": recipe.generation,
        },
        settings,
        recordings,
    )
    write_document(document, captioning_markdown(document), output)
    write_captions(finished, recordings, Path(output) / "captions.jsonl")
    return document


def describe_caches(
    choice: DataChoice, train: EmbeddingCache, captioned: EmbeddingCache, recordings: HeldOut
) -> dict[str, Any]:
    """What the report says of the data."""
    return {
        "train_name": data_name(choice.embeddings),
        "train_fingerprint": train.fingerprint,
        "train_recordings": len(train.audio),
        "train_captions": len(train.text),
        "held_out_name": data_name(choice.embeddings if choice.test is None else choice.test),
        "held_out_fingerprint": captioned.fingerprint,
        "held_out_recordings": len(recordings),
        "held_out_captions": sum(map(len, recordings.references)),
        "without_references": len(captioned.audio) - len(recordings),
        "embedding_dim": train.embedding_dim,
    }


def _decoder_fields(given: Mapping[str, Any], steps: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
    """Fields of the decoders' recipe, except ``lora`` where it is not given.

    Raises:
        RecipeError: a field that there is not, or one of `FIXED_FIELDS`.
    """
    free = [field.name for field in dataclasses.fields(DecoderTrainingArguments) if field.name not in FIXED_FIELDS]
    for name in given:
        if name not in free:
            raise RecipeError("decoder", f"has {name!r}", f"Use any of {', '.join(free)}")
    return {
        "max_steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": round(WARMUP_SHARE * steps),
        "max_grad_norm": 1.0,
        **given,
    }


def _check_runs(recipe: CaptioningRecipe, planned: Sequence[Run], train: EmbeddingCache, work: Path) -> None:
    """Build what each run would train, once for each method and mode.

    Raises:
        RecipeError: a value out of range or a model that does not take it.
        ModelFolderError: a base model that cannot be loaded.
    """
    for method in {run.method for run in planned} - {NO_BRIDGE}:
        build_bridge(method, train.embedding_dim)
    for mode in {run.mode for run in planned}:
        for seed in {run.seed for run in planned}:
            arguments = recipe.arguments(mode, seed, work, work, None)
        build_parts(arguments, train).decoder.generation_config(**recipe.generation)


def _fit_with(train: EmbeddingCache, budget: Budget, progress: bool):
    """What `CaptionRuns` fits bridges with."""
    pairs = EmbeddingPairs.from_cache(train)

    def fit(method: str, seed: int, output: Path) -> None:
        say(f"fitting {method}, seed {seed}", progress)
        fit_bridge(method, pairs, output, seed, budget, progress)

    return fit


def _finish(
    runs: CaptionRuns,
    planned: Sequence[Run],
    train: EmbeddingCache,
    recordings: HeldOut,
    cache: Path,
    progress: bool,
) -> list[FinishedRun]:
    """Do the runs that are not finished, and read the others."""
    train.save(cache)
    finished = []
    for number, run in enumerate(planned, start=1):
        done = runs.is_finished(run)
        say(f"run {number} of {len(planned)}: {run.name}{', done before' if done else ''}", progress)
        finished.append(runs.finished(run, len(recordings)) if done else runs.do(run, cache, recordings))
    return finished


def _results(
    runs: CaptionRuns,
    finished: Sequence[FinishedRun],
    recordings: HeldOut,
    metrics: Sequence[str],
    boot: GroupBootstrap,
    accuracy: EventAccuracy | None,
) -> dict[str, dict[str, CaptionResult]]:
    """Mode → method → figures of all seeds."""
    measured: dict[str, dict[str, list]] = {mode: {} for mode in MODES}
    for found in finished:
        scores = runs.scores(found, recordings.references, metrics)
        figures = measure_captions(found.captions, scores, boot, accuracy)
        measured[found.run.mode].setdefault(found.run.method, []).append(figures)
    return {
        mode: {method: CaptionResult(tuple(figures)) for method, figures in methods.items()}
        for mode, methods in measured.items()
        if methods
    }


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that is empty at first and gone in the end; what a killed run left in it is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
