"""Checkpoints: written whole or not at all, so that a kill at any moment leaves a whole one; damage is noticed."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, RecipeError
from ..files import file_sha256, whole_folder

logger = logging.getLogger(__name__)

STATE, IDENTITY = "state.pt", "identity.json"
DAMAGED = "damaged-"  # before the name of a checkpoint that cannot be used
# Parts of a state that had another name in an earlier version.
_RENAMED = {"optimiser": "optimizer", "decay": "schedule", "value": "score"}
# What may change between a run and its continuation. Of folders the content counts, not the path. With more steps, the
# learning rate of each further step is that of the longer schedule.
_FREE_FIELDS = {
    "max_steps",
    "epochs",
    "resume",
    "report_to",
    "project",
    "run_name",
    "torch_compile",
    "push_to_hub",
    "push_every_checkpoint",
    "hub_private",
    "log_every",
    "rows_on",
    "keep_checkpoints",
    "output",
    "checkpoint_every",
    "validate_every",
    "cache",
    "clap",
    "clap_revision",
    "link",
    "base_model",
    "init_from",
    "validation_cache",
}


def run_identity(recipe: dict[str, Any], **contents: str | None) -> dict[str, Any]:
    """What a checkpoint belongs to: its recipe without the fields that do not touch the weights, and what it reads.

    Args:
        contents: fingerprints, such as ``data=cache.fingerprint`` or ``link=folder_fingerprint(…)``; None for what the
            recipe does without.

    Examples:
        >>> run_identity({"learning_rate": 0.1, "output": "runs/a"}, data="f00d")
        {'recipe': {'learning_rate': 0.1}, 'data': 'f00d'}
    """
    chooses = recipe.get("keep") == "best" or recipe.get("patience")  # then the validations touch the result
    free = _FREE_FIELDS - {"validate_every"} if chooses else _FREE_FIELDS
    fixed = {key: value for key, value in recipe.items() if key not in free}
    return {"recipe": json.loads(json.dumps(fixed)), **contents}  # as it will be read again


def save_checkpoint(root: Path, step: int, state: dict[str, Any], identity: dict[str, Any], keep: int) -> Path:
    """Write ``root/step-XXXXXXXX`` whole or not at all, and remove all but the newest ``keep``.

    Raises:
        DataError: it cannot be written; the previous checkpoint is untouched.
    """
    final = root / f"step-{step:08d}"
    try:
        for torn in root.glob(".writing-*"):  # what an earlier run was killed in
            shutil.rmtree(torn)
        with whole_folder(final) as folder:
            torch.save(state, folder / STATE)
            about = {**identity, "step": step, "sha256": file_sha256(folder / STATE)}
            (folder / IDENTITY).write_text(json.dumps(about), encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
        raise DataError(
            final, f"cannot be written ({error})", "Free some space; the previous checkpoint is untouched"
        ) from error
    for old in _checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return final


def start_anew(root: Path) -> None:
    """Remove the checkpoints of an earlier run: later steps of it would outlive the new run's."""
    for old in _checkpoints(root):
        shutil.rmtree(old)


def saved_state(
    root: Path,
    identity: dict[str, Any],
    resume: bool,
    is_main: bool,
    translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> tuple[int, dict[str, Any]] | None:
    """What a run begins from: that of `load_checkpoint`, or None, after `start_anew`, for one that is not to resume."""
    if resume:
        return load_checkpoint(root, identity, translate, set_aside=is_main)
    if is_main:
        start_anew(root)
    return None


def load_checkpoint(
    root: Path,
    identity: dict[str, Any],
    translate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    set_aside: bool = False,
) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest whole checkpoint in ``root``, or None where there is no checkpoint.

    A damaged one is passed over for the one before it, with a warning.

    Args:
        identity: what the checkpoint has to belong to; see `run_identity`.
        translate: turns the recipe that the checkpoint belongs to into today's fields.
        set_aside: whether damaged ones get a name with `DAMAGED` in front, so that they count as checkpoints no longer.

    Raises:
        RecipeError: it belongs to another recipe, other data, or other models; the message names what differs.
        DataError: all are damaged.
    """
    damage: DataError | None = None
    for folder in reversed(_checkpoints(root)):
        try:
            found = _read_checkpoint(folder, identity, translate)
        except DataError as error:
            logger.warning("%s: %s. Going on from an earlier checkpoint", error.item, error.problem)
            damage = damage or error
            continue
        if damage is not None and set_aside:
            for later in _checkpoints(root):
                if later > folder:
                    shutil.rmtree(root / f"{DAMAGED}{later.name}", ignore_errors=True)
                    later.rename(root / f"{DAMAGED}{later.name}")
        return found
    if damage is not None:
        raise damage
    return None


def _read_checkpoint(
    folder: Path, identity: dict[str, Any], translate: Callable[[dict[str, Any]], dict[str, Any]] | None
) -> tuple[int, dict[str, Any]]:
    """Of one checkpoint; see `load_checkpoint`. DataError where it is damaged."""
    remedy = "Remove the folder of checkpoints, or use resume=false: training then starts anew"
    try:
        saved = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        if not (isinstance(saved, dict) and isinstance(saved["recipe"], dict) and isinstance(saved["step"], int)):
            raise TypeError(f"{IDENTITY} has a wrong form")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(folder, f"is damaged ({error!r})", remedy) from error
    if translate is not None:
        saved["recipe"] = translate(saved["recipe"])
    free = _FREE_FIELDS - {"validate_every"}  # some were compared in earlier versions
    saved["recipe"] = {name: value for name, value in saved["recipe"].items() if name not in free}
    for part in identity:
        if differs := difference(saved.get(part), identity[part]):
            raise RecipeError(
                folder, f"was made with another {part} ({differs})", "Use another output, or remove its checkpoints"
            )
    try:
        # Those of earlier versions have no checksum.
        if saved.get("sha256") not in (None, file_sha256(folder / STATE)):
            raise ValueError("its content is not what was written")
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever the torn bytes make it stumble over
        raise DataError(folder / STATE, f"is damaged ({error})", remedy) from error
    state = _rename(state)
    return saved["step"], state | {"best": _rename(state.get("best", {})), "misses": state.get("misses", 0)}


def check_best(best: dict[str, Any], metric: str) -> None:
    """Raises DataError where no validation ever had a figure, so that there is no best to be kept."""
    if not best:
        raise DataError(metric, "was NaN at every validation", "Use a smaller learning_rate; nothing is written")


def _checkpoints(root: Path) -> list[Path]:
    """The checkpoint folders in ``root``, oldest first; a folder that somebody put beside them is none."""
    return sorted(path for path in root.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())


def difference(saved: Any, now: Any, name: str = "") -> str:
    """In words what differs between two values, field by field where both are mappings; empty where nothing does."""
    if isinstance(saved, dict) and isinstance(now, dict):
        parts = (difference(saved.get(key), now.get(key), f"{name}.{key}") for key in sorted({*saved, *now}))
        return "; ".join(part for part in parts if part)
    return "" if saved == now else f"{name.lstrip('.')} {saved}, now {now}".strip()


def _rename(state: dict[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(name, name): part for name, part in state.items()}
