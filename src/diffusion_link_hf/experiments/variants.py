"""Variants of bridges that an experiment compares: how each is trained and how it samples, from a YAML file."""

import inspect
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from ..training.bridge import train_bridge
from ..training.methods import build_bridge, get_method
from .methods import check_start

# Arguments of `train_bridge` that the experiment decides for all variants alike.
COMMON = {"data", "output", "method", "seed", "validation_fraction", "resume", "progress", "checkpoint_every"}
SAMPLING = ("noise_timestep", "num_inference_steps", "add_noise")
FIELDS = {"name", "method", "bridge", "train", "sample", "grid"}
FORM = (
    "name, method or bridge (a fitted one's folder), and optionally train (arguments of train_bridge) and sample "
    "(arguments of bridge) or grid (lists of noise_timestep, num_inference_steps and add_noise)"
)
MAX_TIMESTEP = 1000


@dataclass(frozen=True)
class Variant:
    """One row of an experiment's tables.

    Attributes:
        name: in the tables.
        method: of `training.methods.METHODS`; None for a bridge that is given.
        train: arguments of `train_bridge`, over the budget that all share.
        sample: arguments of `BridgeModel.bridge`, over those of the bridge's configuration.
        bridge: folder or Hub id of a fitted bridge, or None.
        group: name of the grid of which this is a point, or None.
    """

    name: str
    method: str | None = None
    train: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, int | bool] = field(default_factory=dict)
    bridge: str | None = None
    group: str | None = None

    @property
    def point(self) -> dict[str, Any]:
        """What reports say of a point of a grid."""
        return {"row": self.name, "variant": self.group, "method": self.method, **self.sample}


@dataclass(frozen=True)
class Experiment:
    """What a YAML file of variants says.

    Attributes:
        title: of the report.
        variants: rows of the tables, with grids spread out. The others are compared with the first, if it is no grid.
    """

    title: str
    variants: tuple[Variant, ...]


def read_experiment(path: str | Path) -> Experiment:
    """Read ``{title, about, variants: [{name, method | bridge, train, sample | grid}]}``.

    ``about`` is for the reader of the file. A grid ``{noise_timestep: [100, 200], num_inference_steps: [1, 5],
    add_noise: [true, false]}`` stands for every combination in which no more than s* steps start from s*; its bridge is
    trained once.

    Raises:
        RecipeError: unreadable, an unknown field, method or argument, a grid without points or of a method without
            s*, or a second variant of one name.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(path, f"cannot be read ({error})", "Pass a YAML file of variants") from error
    known = {"title", "about", "variants"}
    if not isinstance(document, dict) or not set(document) <= known or not isinstance(document.get("title"), str):
        raise RecipeError(path, "is not an experiment", "Write a mapping with title, about and variants")
    rows = document.get("variants")
    if not isinstance(rows, list) or not rows:
        raise RecipeError(f"{path}: variants", f"is {rows!r}", f"List at least one: {FORM}")
    variants = [
        variant for number, row in enumerate(rows, start=1) for variant in _variants(f"{path}: variant {number}", row)
    ]
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{path}: variants", f"has the name {name!r} twice", "Give each variant its own name")
    return Experiment(document["title"], tuple(variants))


def _variants(where: str, row: Any) -> list[Variant]:
    """The variant that a row of the file stands for, or all points of its grid."""
    if not isinstance(row, dict) or not set(row) <= FIELDS:
        raise RecipeError(where, f"is {row!r}", f"Give {FORM}")
    if not isinstance(row.get("name"), str):
        raise RecipeError(f"{where}: name", f"is {row.get('name')!r}", "Give a text")
    if "bridge" in row:
        if not isinstance(row["bridge"], str) or "method" in row or "train" in row:
            raise RecipeError(f"{where}: bridge", f"is {row['bridge']!r}", "Name a folder, without method and train")
    else:
        get_method(row.get("method"), f"{where}: method")
    if "grid" in row and "sample" in row:
        raise RecipeError(where, "has both grid and sample", "Give one of them")
    arguments = [name for name in inspect.signature(train_bridge).parameters if name not in COMMON]
    for part, allowed in (("train", arguments), ("sample", SAMPLING), ("grid", SAMPLING)):
        given = row.get(part) or {}
        if not isinstance(given, dict):
            raise RecipeError(f"{where}: {part}", f"is {given!r}", f"Map any of {', '.join(allowed)} to values")
        for name in given:
            if name not in allowed:
                raise RecipeError(f"{where}: {part}.{name}", "is unknown", f"Use any of {', '.join(allowed)}")
    variant = Variant(
        row["name"], row.get("method"), row.get("train") or {}, row.get("sample") or {}, row.get("bridge")
    )
    if "grid" not in row:
        return [variant]
    if variant.method is not None:
        check_start(f"{where}: {variant.method}", build_bridge(variant.method, 8))
    return _points(f"{where}: grid", variant, row["grid"] or {})


def _points(where: str, variant: Variant, grid: dict[str, Any]) -> list[Variant]:
    for name in SAMPLING:
        values = grid.get(name)
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{where}.{name}", f"is {values!r}", "List at least one value")
        for value in values:
            _check_value(f"{where}.{name}", name, value)
    timesteps, steps = (sorted(set(grid[name])) for name in SAMPLING[:2])
    points = []
    for noised, count, timestep in itertools.product(dict.fromkeys(grid["add_noise"]), steps, timesteps):
        if count <= timestep:  # no more steps than timesteps lead back
            sample = {"noise_timestep": timestep, "num_inference_steps": count, "add_noise": noised}
            name = _point_name(variant.name, timestep, count, noised)
            points.append(replace(variant, name=name, sample=sample, group=variant.name))
    if not points:
        raise RecipeError(
            f"{where}.num_inference_steps", f"is {steps}, more than any of the timesteps", "Use steps up to s*"
        )
    return points


def _check_value(where: str, name: str, value: Any) -> None:
    if name == "add_noise":
        if not isinstance(value, bool):
            raise RecipeError(where, f"has {value!r}", "Use true or false")
    elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TIMESTEP:
        raise RecipeError(where, f"has {value!r}", f"Use whole numbers from 1 to {MAX_TIMESTEP}")


def _point_name(name: str, timestep: int, steps: int, noised: bool) -> str:
    plural = "" if steps == 1 else "s"
    return f"{name}, s* = {timestep}, {steps} step{plural}, {'noised' if noised else 'not noised'}"
