"""Runs of a captioning evaluation in a folder: each (mode, method, seed) is done once, all by one recipe."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from .. import __version__
from ..analysis.captioning import FinishedRun, HeldOut, Run, caption_embeddings
from ..embeddings.cache import EmbeddingCache
from ..errors import DataError
from ..metrics import CaptionScores, score
from ..models.decoder import CaptionDecoder
from ..models.prefix_projector import PrefixProjector
from ..training.arguments import DecoderTrainingArguments
from ..training.decoder import train_decoder
from ..training.parts import load_link
from ..training.preparation import construct
from .json_files import read_json_object, record_conditions, write_json

FORMAT = "diffusion-link captioning runs 2"
RECIPE, CAPTIONS, SCORES = "recipe.json", "captions.json", "scores.json"
NO_BRIDGE = "none"  # the paper's baseline: the encoder's own embeddings through the same head
# The two ways of training, with the paper's heads (§5); the prompt goes with the first.
MODES: dict[str, dict[str, Any]] = {
    "zeroshot": {"mode": "zeroshot", "projector": {"num_prefix_tokens": 1, "num_layers": 1}},
    "supervised": {"mode": "supervised", "projector": {"num_prefix_tokens": 10, "num_layers": 2}},
}


def plan_runs(methods: Sequence[str], modes: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """All runs, a seed at a time.

    C3 differs from centering in what it does to text while the decoder is trained; supervised, it is left out where
    centering is asked for, whose runs it would repeat.
    """
    return [
        Run(mode, method, seed)
        for seed in dict.fromkeys(seeds)
        for mode in MODES
        if mode in modes
        for method in dict.fromkeys(methods)
        if not (mode == "supervised" and method == "c3" and "centering" in methods)
    ]


@dataclass(frozen=True)
class CaptioningRecipe:
    """What all runs share, so that methods have equal budgets.

    Attributes:
        base_model: causal LM from which every decoder starts, as recipes of the decoder stage name it.
        base_revision: of a Hub id.
        instruction: hard prompt of the zero-shot mode, or None.
        bridge: budget of the trained bridges, as `train_bridge` takes it.
        decoder: fields of `DecoderTrainingArguments`.
        generation: options of `CaptionDecoder.generate`.
    """

    base_model: str
    base_revision: str | None = None
    instruction: str | None = None
    bridge: Mapping[str, int | float] = field(default_factory=dict)
    decoder: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, int] = field(default_factory=dict)

    def arguments(self, mode: str, seed: int, cache: Path, output: Path, link: Path | None) -> DecoderTrainingArguments:
        """Of one run; nothing is held out of ``cache``, and nothing chosen.

        Raises:
            RecipeError: a field that there is not, or a value out of range.
        """
        prompt = self.instruction if mode == "zeroshot" else None
        fixed = {**MODES[mode], "instruction": prompt, "validation_fraction": 0.0, "report_to": "none"}
        base = {"base_model": self.base_model, "base_revision": self.base_revision}
        which = {"cache": str(cache), "output": str(output), "link": None if link is None else str(link), "seed": seed}
        return construct("decoder", DecoderTrainingArguments, {**fixed, **base, **which, **self.decoder})

    def conditions(self, train: EmbeddingCache, held_out: EmbeddingCache, base_model: str) -> dict[str, Any]:
        """What finished runs depend on beside mode, method and seed; ``base_model`` is its fingerprint."""
        return {
            "format": FORMAT,
            "version": __version__,
            "train": train.fingerprint,
            "held_out": held_out.fingerprint,
            "base_model": base_model,
            "instruction": self.instruction,
            "bridge": dict(self.bridge),
            "decoder": dict(self.decoder),
            "generation": dict(self.generation),
        }


class CaptionRuns:
    """The folder of the runs.

    Holds recipe.json, ``bridges/<method>/seed<n>``, which both modes share, and for each run
    ``<mode>/<method>/seed<n>`` with captions.json, written last, and scores.json. A run that was interrupted goes on
    from its decoder's newest checkpoint; a finished one is read.

    Args:
        folder: created if absent.
        recipe: of all runs.
        fit: fits a bridge: (method, seed, output folder).
        keep: whether fitted bridges and trained decoders are kept.
        progress: whether to show a progress bar for each decoder.
    """

    def __init__(
        self,
        folder: Path,
        recipe: CaptioningRecipe,
        fit: Callable[[str, int, Path], object],
        keep: bool = False,
        progress: bool = True,
    ):
        self.folder, self.recipe, self.fit, self.keep, self.progress = folder, recipe, fit, keep, progress

    def record(self, conditions: dict[str, Any]) -> None:
        """Write down what all runs of the folder depend on, or check that it is the same as before.

        Raises:
            InputError: the folder's runs depend on something else; the message says what differs.
            DataError: its recipe is damaged.
        """
        record_conditions(self.folder / RECIPE, conditions, "runs")

    def is_finished(self, run: Run) -> bool:
        return (run.inside(self.folder) / CAPTIONS).is_file()

    def finished(self, run: Run, recordings: int) -> FinishedRun:
        """Read a finished run.

        Raises:
            DataError: its file is damaged.
        """
        path = run.inside(self.folder) / CAPTIONS
        saved = read_json_object(path, "captions", "bridge", "bridge_steps", "seconds")
        found = FinishedRun(run, saved["captions"], saved["bridge"], saved["bridge_steps"], saved["seconds"])
        if len(found.captions) != recordings:
            raise DataError(
                path, f"has {len(found.captions)} captions of {recordings}", "Remove this file: the run is done again"
            )
        return found

    def do(self, run: Run, cache: Path, held_out: HeldOut) -> FinishedRun:
        """Fit the bridge, train the decoder through it, caption the held-out recordings.

        Args:
            cache: folder of the training part.

        Raises:
            DiffusionLinkError: see `train_bridge` and `train_decoder`.
        """
        folder = run.inside(self.folder)
        bridge = None if run.method == NO_BRIDGE else self._bridge(run)
        decoder = folder / "decoder"
        resumed = (decoder / "checkpoints").is_dir()
        arguments = self.recipe.arguments(run.mode, run.seed, cache, decoder, bridge and bridge / "link")
        started = time.monotonic()
        train_decoder(arguments, self.progress)
        trained = time.monotonic()
        captions = self._captions(decoder, bridge, cache, held_out)
        seconds = {
            "bridge": None if bridge is None else read_json_object(bridge / "metrics.json")["seconds"],
            "decoder": None if resumed else round(trained - started, 2),
            "captions": round(time.monotonic() - trained, 2),
        }
        steps = 0 if bridge is None else read_json_object(bridge / "metrics.json")["steps"]
        kind = None if bridge is None else read_json_object(bridge / "link" / "config.json")["_class_name"]
        (folder / SCORES).unlink(missing_ok=True)  # of captions that were removed as damaged
        write_json(folder / CAPTIONS, {"captions": captions, "bridge": kind, "bridge_steps": steps, "seconds": seconds})
        if not self.keep:
            shutil.rmtree(decoder)
        return FinishedRun(run, captions, kind, steps, seconds)

    def _bridge(self, run: Run) -> Path:
        folder = self.folder / "bridges" / run.method / f"seed{run.seed}"
        if not (folder / "metrics.json").is_file():  # which is written last
            self.fit(run.method, run.seed, folder)
        return folder

    def _captions(self, decoder: Path, bridge: Path | None, cache: Path, held_out: HeldOut) -> list[str]:
        device = PartialState().device
        link, scheduler = None, None
        if bridge is not None:
            link, scheduler = load_link(bridge / "link", EmbeddingCache.load(cache))
            link = link.to(device)
        projector = PrefixProjector.from_pretrained(decoder / "projector").eval().to(device)
        model = CaptionDecoder.from_pretrained(decoder / "decoder").to(device)
        return caption_embeddings(held_out.audio, projector, model, link, scheduler, **self.recipe.generation)

    def scores(self, found: FinishedRun, references: list[list[str]], metrics: Sequence[str]) -> CaptionScores:
        """Of a run's captions; what was scored before is read.

        Raises:
            DiffusionLinkError: see `score`.
        """
        path = found.run.inside(self.folder) / SCORES
        if path.is_file():
            saved = read_json_object(path)
            if saved.get("metrics") == list(metrics):
                per_caption = {name: np.array(values) for name, values in saved["per_caption"].items()}
                return CaptionScores(saved["corpus"], per_caption)
        scores = score(found.captions, references, metrics)
        per_caption = {name: values.tolist() for name, values in scores.per_caption.items()}
        write_json(path, {"metrics": list(metrics), "corpus": dict(scores.corpus), "per_caption": per_caption})
        return scores

    def clean(self) -> None:
        """Remove the bridges, unless they are kept."""
        if not self.keep:
            shutil.rmtree(self.folder / "bridges", ignore_errors=True)
