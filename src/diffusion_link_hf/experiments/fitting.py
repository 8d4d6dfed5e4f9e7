"""Fits the bridges of an experiment with equal budgets, and loads those that were fitted before."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..analysis.gap_measures import FittedBridge
from ..bridges.base import BridgeModel
from ..embeddings.pairs import EmbeddingPairs
from ..loading import resolve_folder
from ..training.bridge import train_bridge
from .choices import Budget
from .progress import say, show_bar
from .variants import Variant


def fit_bridges(
    variants: Sequence[Variant],
    train: EmbeddingPairs,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    budget: Budget | None = None,
    progress: bool = False,
) -> list[FittedBridge]:
    """Every variant with every seed on the same rows.

    Variants that differ in how they sample, not in how they are trained, are trained once.

    Args:
        variants: those with a method.
        folder: of the fitted bridges, ``<variant>/seed<n>``.
        budget: what a variant's own ``train`` does not say; `Budget()` by default.

    Raises:
        DiffusionLinkError: see `train_bridge`.
    """
    fitted, trained = [], {}
    for variant in variants:
        for seed in dict.fromkeys(seeds):
            key = json.dumps([variant.method, variant.train, seed], sort_keys=True)
            if key not in trained:
                name = variant.group or variant.name
                say(f"fitting {name}, seed {seed}", progress)
                output = folder / folder_name(name) / f"seed{seed}"
                trained[key] = fit_bridge(variant.method, train, output, seed, budget, progress, **variant.train)
            fitted.append(FittedBridge(variant.name, *trained[key], variant.sample, variant.train))
    return fitted


def fit_bridge(
    method: str,
    train: EmbeddingPairs,
    output: Path,
    seed: int = 0,
    budget: Budget | None = None,
    progress: bool = False,
    **changes: Any,
) -> tuple[BridgeModel, int, int, float]:
    """One bridge with a budget, except for ``changes``: (bridge, seed, optimization steps, seconds).

    Raises:
        DiffusionLinkError: see `train_bridge`.
    """
    bridge = train_bridge(
        method,
        train,
        output,
        seed=seed,
        validation_fraction=0.0,  # nothing is chosen on it; what is held out is held out before
        progress=show_bar(progress),
        **{**asdict(budget or Budget()), **changes},
    )
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return bridge, seed, metrics["steps"], metrics["seconds"]


def load_bridge(folder: str | Path) -> BridgeModel:
    """A fitted bridge, from its own folder, a pipeline's folder, or a Hub id.

    Raises:
        DiffusionLinkError: there is no bridge.
    """
    path = resolve_folder(str(folder))
    inside = {"subfolder": "link"} if (path / "link").is_dir() else {}
    return BridgeModel.from_pretrained(path, **inside).eval()


def folder_name(name: str) -> str:
    """A variant's name with everything but letters, digits, dots and hyphens as an underscore."""
    return re.sub(r"[^\w.-]+", "_", name)


@contextmanager
def bridge_folder(output: str | Path, keep: bool) -> Iterator[Path]:
    """Where fitted bridges are written: kept in ``output``/bridges, or removed in the end."""
    if keep:
        yield Path(output) / "bridges"
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
