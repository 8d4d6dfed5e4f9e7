"""Variants of bridges that an experiment compares: how each is trained and how it samples, from a YAML file."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError

# Keyword arguments of `train_bridge` that the command line decides for all variants alike.
COMMON = {"data", "output", "method", "seed", "validation_fraction", "resume", "progress", "checkpoint_every"}
SAMPLING = ("noise_timestep", "num_inference_steps", "add_noise")
FORM = "name, method, and optionally train (arguments of train_bridge) and sample (arguments of bridge)"


@dataclass(frozen=True)
class Variant:
    """One row of an experiment's tables.

    Attributes:
        name: in the tables.
        method: of `training.bridge.METHODS`.
        train: arguments of `train_bridge`, over those of the command line.
        sample: arguments of `BridgeModel.bridge`, over those of the bridge's configuration.
    """

    name: str
    method: str
    train: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, int | bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What a YAML file of variants says: its title, and the variants; the others are compared with the first."""

    title: str
    variants: tuple[Variant, ...]


def read_experiment(path: str | Path) -> Experiment:
    """Read ``{title, about, variants: [{name, method, train, sample}]}``; ``about`` is for the reader of the file.

    Raises:
        RecipeError: unreadable, an unknown field, method or argument, or a second variant of one name.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(path, f"cannot be read ({error})", "Pass a YAML file of variants") from error
    known = {"title", "about", "variants"}
    if not isinstance(document, dict) or not set(document) <= known or not isinstance(document.get("title"), str):
        raise RecipeError(path, "is no experiment", "It maps title, about and variants")
    rows = document.get("variants")
    if not isinstance(rows, list) or not rows:
        raise RecipeError(f"{path}: variants", f"is {rows!r}", f"List at least one: {FORM}")
    variants = tuple(_variant(f"{path}: variant {number}", row) for number, row in enumerate(rows, start=1))
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{path}: variants", f"has a second {name!r}", "Use another name")
    return Experiment(document["title"], variants)


def _variant(where: str, row: Any) -> Variant:
    from ..training.bridge import METHODS, train_bridge

    if not isinstance(row, dict) or not set(row) <= {"name", "method", "train", "sample"}:
        raise RecipeError(where, f"is {row!r}", f"Give {FORM}")
    if not isinstance(row.get("name"), str):
        raise RecipeError(f"{where}: name", f"is {row.get('name')!r}", "Give a text")
    if row.get("method") not in METHODS:
        raise RecipeError(f"{where}: method", f"is {row.get('method')!r}", f"Use one of {', '.join(METHODS)}")
    arguments = [name for name in inspect.signature(train_bridge).parameters if name not in COMMON]
    for part, allowed in (("train", arguments), ("sample", SAMPLING)):
        given = row.get(part) or {}
        if not isinstance(given, dict):
            raise RecipeError(f"{where}: {part}", f"is {given!r}", f"Map any of {', '.join(allowed)} to values")
        for name in given:
            if name not in allowed:
                raise RecipeError(f"{where}: {part}.{name}", "is unknown", f"Use any of {', '.join(allowed)}")
    return Variant(row["name"], row["method"], row.get("train") or {}, row.get("sample") or {})
