"""Caption files read into Arrow tables, checked, and gathered to one row per recording."""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from os import PathLike

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import DataError

CAPTIONS = re.compile(r"captions?|caption_\d+")
CSV_ROWS = 1000  # turned into Arrow at a time
JSON_BLOCK = 16 << 20  # bytes; a line must fit into one


def read_header(path: str | PathLike) -> list[str]:
    """Column names of a CSV file.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    with _csv_rows(path) as rows:
        return next(rows)


def read_csv(path: str | PathLike) -> pa.Table:
    """A CSV file whose columns are all text: a caption "None" or a file named "1" stays what it is.

    Raises:
        DataError: the file cannot be read, is not UTF-8, ends within quotes, or a row has more or fewer fields than
            the header.
    """
    with _csv_rows(path) as rows:
        names = next(rows)
        batches = []
        while part := list(islice(rows, CSV_ROWS)):  # not all at once: rows of Python's text need five times the memory
            columns = [pa.array(column, pa.string()) for column in zip(*part, strict=True)]
            batches.append(pa.record_batch(columns, names=names))
    return pa.Table.from_batches(batches, pa.schema([(name, pa.string()) for name in names]))


def read_json_lines(path: str | PathLike) -> pa.Table:
    """A file with a JSON object in each line.

    Raises:
        DataError: the file cannot be read, a line is no object, or a field changes its type from line to line.
    """
    from pyarrow import json

    try:
        return json.read_json(path, read_options=json.ReadOptions(use_threads=False, block_size=JSON_BLOCK))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(path, f"cannot be read ({error})", "It must hold one JSON object per line, in UTF-8") from error


def require_columns(names: list[str], required: tuple[str, ...], where: object) -> None:
    """Raises DataError if a table lacks one of the columns ``required``."""
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(
            where, f"has the columns {', '.join(names)} and no {', '.join(missing)}", f"Give {', '.join(required)}"
        )


def caption_names(names: list[str]) -> list[str]:
    """Which of the columns ``names`` hold captions."""
    return [name for name in names if CAPTIONS.fullmatch(name)]


def caption_column(rows: pa.Table, where: object) -> pa.ChunkedArray:
    """Text or lists of text: the columns ``caption``, ``captions``, or ``caption_1``, ``caption_2`` … together.

    Raises:
        DataError: none or several of them, or a column of another type.
    """
    found = caption_names(rows.column_names)
    numbered = found[0].startswith("caption_") if found else False
    if not found or (len(found) > 1 and not numbered):
        problem = " and ".join(found) if found else f"{', '.join(rows.column_names)} and no caption"
        raise DataError(where, f"has the columns {problem}", "Give one of caption, captions and caption_1, caption_2 …")
    if not numbered:
        return _as_text(rows[found[0]], found[0], where)
    columns = [_as_text(rows[name], name, where) for name in found]
    for name, column in zip(found, columns, strict=True):
        if not pa.types.is_string(column.type):
            raise DataError(where, f"has a column {name} of {column.type}", "Give one text in each")
    together = zip(*(column.to_pylist() for column in columns), strict=True)
    return pa.chunked_array([pa.array([list(own) for own in together], pa.list_(pa.string()))])


def gather_captions(
    names: pa.ChunkedArray,
    captions: pa.ChunkedArray,
    where: Callable[[int], str],
    left_out: list[dict[str, str]],
    repeated: bool = True,
) -> pa.Table:
    """One row per recording, in the order of their first rows.

    Args:
        names: (R,) text, the recording of each row.
        captions: (R,) text, or lists of text.
        where: how errors call a row, given its index.
        left_out: gets {"audio": name, "reason": text} for every caption that is empty, and every row without one.
        repeated: whether rows of one name are that recording's several captions; never so for lists.

    Returns:
        (N,) rows: ``name``, ``captions`` (stripped, at least one, repeated ones kept) and ``row``, the index of the
        first row with a caption. A recording without any is not among them.

    Raises:
        DataError: no rows, or none with a caption; a row without a name; or a name given twice.
    """
    names, captions = names.combine_chunks(), captions.combine_chunks()
    if not len(names):
        raise DataError(where(0), "there are no rows", "Name at least one recording")
    nameless = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(names), ""), True)
    _refuse(nameless, lambda k: DataError(where(k), "names no recording", "Name the recording of every row"))
    is_list = not pa.types.is_string(captions.type)
    # A list becomes rows of its own, so that both forms are checked, and gathered, by the same steps.
    owner = pc.list_parent_indices(captions) if is_list else pa.array(np.arange(len(names)))
    texts = pc.utf8_trim_whitespace(pc.list_flatten(captions) if is_list else captions)
    empty = pc.fill_null(pc.equal(texts, ""), True)
    rows = owner.filter(empty).to_pylist()
    if is_list:
        rows += pc.indices_nonzero(pc.fill_null(pc.equal(pc.list_value_length(captions), 0), True)).to_pylist()
    for k in sorted(rows):
        left_out.append({"audio": names[k].as_py(), "reason": f"{where(k)}: has an empty caption for {names[k]}"})
    if is_list or not repeated:
        _refuse_repeated(names, where)
    flat = pa.table({"name": names.take(owner), "caption": texts, "row": owner}).filter(pc.invert(empty))
    if not len(flat):
        raise DataError(where(0), "there is no caption in this row, or in any other", "Caption the recordings")
    gathered = flat.group_by("name", use_threads=False).aggregate([("caption", "list"), ("row", "min")])
    gathered = gathered.select(["name", "caption_list", "row_min"]).rename_columns(["name", "captions", "row"])
    return gathered.sort_by("row")


@contextmanager
def _csv_rows(path: str | PathLike) -> Iterator[Iterator[list[str]]]:
    """The header and the rows of a CSV file, all of one length; blank lines are left out."""
    try:
        # Strict, since a quote that is never closed would otherwise swallow the rest of the file into one caption.
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield _regular(csv.reader(file, strict=True), path)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(path, f"cannot be read ({error})", "It must be valid csv, in UTF-8") from error


def _regular(reader, path: str | PathLike) -> Iterator[list[str]]:
    header = next(reader, [])
    if not header:
        raise DataError(path, "cannot be read (it has no header)", "Its first line must name the columns")
    if len(set(header)) < len(header):
        raise DataError(path, f"has the columns {', '.join(header)}, some of them twice", "Name every column once")
    yield header
    for row in reader:
        if len(row) == len(header):
            yield row
        elif row:
            problem = f"has {len(row)} fields, the header {len(header)}"
            raise DataError(f"{path}, line {reader.line_num}", problem, "Quote texts that hold commas")


def _as_text(column: pa.ChunkedArray, name: str, where: object) -> pa.ChunkedArray:
    """Text and lists of text of any Arrow kind (large, view, dictionary) as the plain ones."""
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    value = column.type.value_type if is_list else column.type
    value = value.value_type if pa.types.is_dictionary(value) else value
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value)):
        raise DataError(where, f"has a column {name} of {column.type}", "It must hold text, or lists of text")
    return column.cast(pa.list_(pa.string()) if is_list else pa.string())


def _refuse_repeated(names: pa.Array, where: Callable[[int], str]) -> None:
    counts = pc.value_counts(names)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        first, second = pc.indices_nonzero(pc.equal(names, twice[0])).to_pylist()[:2]
        raise DataError(
            where(second),
            f"names {twice[0]}, as {where(first)} does",
            "Name every recording once, with all its captions",
        )


def _refuse(bad: pa.Array, error: Callable[[int], DataError]) -> None:
    """Raises the error of the first row that is bad."""
    first = pc.index(bad, True).as_py()
    if first >= 0:
        raise error(first)
