"""Rows of results as a csv or JSON lines file, whole or not there."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..files import write_whole
from .captioned import csv_lines

EXTENSIONS = (".csv", ".jsonl")


def check_extension(path: str | Path) -> None:
    """Raises InputError for another extension than those of `EXTENSIONS`."""
    if Path(path).suffix.lower() not in EXTENSIONS:
        raise InputError(path, "does not say a format", f"Name a file that ends in {' or '.join(EXTENSIONS)}")


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write rows by the extension of ``path``: a header and a line each, or a JSON object each.

    Args:
        columns: of csv, in order; what a row lacks is empty.

    Raises:
        InputError: another extension.
        DataError: it cannot be written.

    Examples:
        >>> import tempfile, pathlib
        >>> from diffusion_link_hf.applications.written_rows import write_rows
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> write_rows(path, [{"file": "a.wav", "score": 0.5}], ["file", "score"])
        >>> path.read_text().splitlines()
        ['file,score', 'a.wav,0.5']
    """
    path = Path(path)
    check_extension(path)

    def write(file: IO[bytes]) -> None:
        if path.suffix.lower() == ".jsonl":
            for row in rows:
                file.write(json.dumps(row).encode() + b"\n")
            return
        for line in csv_lines(rows, columns):
            file.write(line.encode("utf-8", "surrogateescape"))

    write_whole(path, write)
