"""Predictions as JSON lines: read with the line named in every error, written back with scores per caption."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError
from .captions import Captions, CaptionScores

LINE_FORM = 'Write one {"candidate": "…", "references": ["…", …]} per line, in UTF-8'


@dataclass(frozen=True)
class Predictions:
    """The rows of a file of predictions.

    Attributes:
        captions: what is scored.
        others: per row, the fields beside "candidate" and "references".
    """

    captions: Captions
    others: list[dict[str, Any]]


def read_predictions(source: str | Path | BinaryIO) -> Predictions:
    """Rows of a file, or of a binary stream such as standard input; blank lines are skipped.

    Raises:
        DataError: the file cannot be read, is empty, is not UTF-8, or a line is not such an object; the line is named.
        InputError: a candidate or reference that cannot be scored; the line is named.
    """
    if not isinstance(source, (str, Path)):
        return _parse("standard input", source)
    try:
        with open(source, "rb") as file:
            return _parse(str(source), file)
    except OSError as error:
        raise DataError(source, f"cannot be read ({error.strerror or error})", "Name a file of JSON lines") from error


def _parse(name: str, lines: Iterable[bytes]) -> Predictions:
    rows, candidates, references, others = [], [], [], []
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put before UTF-8
        if not line.strip():
            continue
        row = f"{name}, line {number}"
        fields = _object(row, line)
        rows.append(row)
        candidates.append(fields.pop("candidate"))
        references.append(fields.pop("references"))
        others.append(fields)
    if not rows:
        raise DataError(name, "holds no predictions", LINE_FORM)
    return Predictions(Captions(candidates, references, rows), others)


def _object(row: str, line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(row, f"is not UTF-8 (byte {error.start + 1})", LINE_FORM) from error
    except json.JSONDecodeError as error:
        raise DataError(row, f"is not JSON ({error.msg}, column {error.colno})", LINE_FORM) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise DataError(row, f"cannot be read as JSON ({error})", LINE_FORM) from error
    if not isinstance(fields, dict):
        raise DataError(row, f"holds a {type(fields).__name__}", LINE_FORM)
    for key in ("candidate", "references"):
        if key not in fields:
            found = ", ".join(map(repr, list(fields)[:5])) or "no fields"
            raise DataError(row, f"lacks {key!r} (it has {found})", LINE_FORM)
    return fields


def write_per_caption(path: str | Path, predictions: Predictions, scores: CaptionScores) -> None:
    """JSON lines in the order of the rows: the other fields, "candidate", and "scores".

    Raises:
        DataError: the file cannot be written.
    """
    columns = {name: values.tolist() for name, values in scores.per_caption.items()}
    try:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for k, (other, candidate) in enumerate(
                zip(predictions.others, predictions.captions.candidates, strict=True)
            ):
                row = {**other, "candidate": candidate, "scores": {name: column[k] for name, column in columns.items()}}
                file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise DataError(path, f"cannot be written ({error.strerror or error})", "Name a file in a folder") from error
