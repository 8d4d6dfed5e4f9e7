"""JSON objects of an experiment's folder: whole files, and what all that lies there depends on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError, InputError
from ..training.checkpoints import difference


def record_conditions(path: Path, conditions: Mapping[str, Any], what: str) -> None:
    """Write down what all results of a folder depend on, or check that it is the same as before.

    Args:
        path: of the file, in the folder.
        conditions: as JSON can hold them.
        what: the results in words, such as "runs".

    Raises:
        InputError: they depend on something else; the message says what differs.
        DataError: the file is damaged, or cannot be written.
    """
    conditions = json.loads(json.dumps(conditions))  # as it will be read again
    if not path.is_file():
        write_json(path, conditions)
    elif words := difference(read_json_object(path), conditions):
        raise InputError(
            "output", f"has {what} of other arguments ({words})", f"Use another folder, or remove {path.parent}"
        )


def read_json_object(path: Path, *fields: str) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        DataError: the file is missing or damaged, or lacks one of ``fields``.
    """
    remedy = "Remove this file: what it tells is done again"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise ValueError(f"holds a {type(saved).__name__}")
    except (OSError, ValueError) as error:
        raise DataError(path, f"is damaged ({error})", remedy) from error
    for field in fields:
        if field not in saved:
            raise DataError(path, f"lacks {field!r}", remedy)
    return saved


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`files.write_json` into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, value, ensure_ascii=False, indent=1)
