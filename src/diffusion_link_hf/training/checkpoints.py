"""Checkpoints: written aside, synced and renamed, so that a kill at any moment leaves a whole one."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, RecipeError

STATE, IDENTITY = "state.pt", "identity.json"
# What may change between an interrupted run and its continuation.
_FREE_FIELDS = {
    "resume",
    "report_to",
    "log_every",
    "keep_checkpoints",
    "output",
    "checkpoint_every",
    "validate_every",
    "cache",
    "clap",
    "link",
    "base_model",
}


def identity(recipe: dict[str, Any], data_fingerprint: str) -> dict[str, str]:
    """What a checkpoint belongs to: its recipe, less the fields that do not touch the weights, and its data."""
    fixed = {key: value for key, value in sorted(recipe.items()) if key not in _FREE_FIELDS}
    return {
        "recipe": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16],
        "data": data_fingerprint,
    }


def save_checkpoint(root: Path, step: int, state: dict[str, Any], who: dict[str, str], keep: int) -> Path:
    """Write ``root/step-XXXXXXXX`` atomically and remove all but the newest ``keep``."""
    root.mkdir(parents=True, exist_ok=True)
    final, temporary = root / f"step-{step:08d}", root / f".writing-{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with open(temporary / STATE, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        with open(temporary / IDENTITY, "w", encoding="utf-8") as file:
            json.dump({**who, "step": step}, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(
            final, f"cannot be written ({error})", "Free some space; the previous checkpoint is untouched"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(root: Path, who: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
    """(step, state) of the newest checkpoint in ``root``, or None where there is none.

    Raises:
        RecipeError: it belongs to another recipe or other data.
    """
    found = sorted(root.glob("step-*"))
    if not found:
        return None
    saved = json.loads((found[-1] / IDENTITY).read_text(encoding="utf-8"))
    for part in ("recipe", "data"):
        if saved.get(part) != who[part]:
            raise RecipeError(
                found[-1],
                f"was made with another {part} ({saved.get(part)}, now {who[part]})",
                "Use another output, or remove its checkpoints",
            )
    return saved["step"], torch.load(found[-1] / STATE, map_location="cpu", weights_only=True)
