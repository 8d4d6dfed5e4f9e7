"""Captions of a data set in a folder, batch by batch: each file is whole, so that a killed run goes on where it was.

::

    conditions.json   what the captions depend on
    00003-0001.json   a batch of shard 3: {"rows", "failures", "seconds"}
    00003.json        the number of batches of shard 3, written when all of them are there
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .json_files import read_json_object, record_conditions, write_json

CONDITIONS = "conditions.json"
_BATCH = re.compile(r"(\d{5,})-(\d{4,})\.json")


@dataclass(frozen=True)
class Captioned:
    """What became of recordings.

    Attributes:
        rows: {"recording", "candidate", "references"} of each that was captioned, and, where several captions were
            written, "candidates" and "clap_cosines".
        failures: {"audio", "reason"} of each that could not be read.
        seconds: that captioning took, of all processes together.
    """

    rows: Sequence[Mapping[str, Any]]
    failures: Sequence[Mapping[str, str]]
    seconds: float


class WrittenCaptions:
    """The folder; several processes may write into it, each its own shards.

    Args:
        folder: created if absent.
        conditions: all that the captions depend on, as JSON holds it.

    Raises:
        InputError: the folder has captions that depend on something else; the message says what differs.
        DataError: it cannot be written, or a file in it is damaged.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any]):
        self.folder = folder
        record_conditions(folder / CONDITIONS, conditions, "captions")

    def is_complete(self, shard: int) -> bool:
        return self._end(shard).is_file()

    def batches(self, shard: int) -> int:
        """How many batches of a shard are there, from the first."""
        numbers = {
            int(match[2])
            for path in self.folder.iterdir()
            if (match := _BATCH.fullmatch(path.name)) and int(match[1]) == shard
        }
        return next(number for number in range(len(numbers) + 1) if number not in numbers)

    def add(self, shard: int, batch: int, captioned: Captioned) -> None:
        """Write a batch.

        Raises:
            DataError: it cannot be written.
        """
        content = {"rows": captioned.rows, "failures": captioned.failures, "seconds": round(captioned.seconds, 3)}
        write_json(self._file(shard, batch), content)

    def complete(self, shard: int, batches: int) -> None:
        """Say that a shard has all of its batches."""
        write_json(self._end(shard), {"batches": batches})

    def read(self, shards: int) -> Captioned | None:
        """All captions in the order of the data, or None where some shard is not complete.

        Raises:
            DataError: a file is missing or damaged.
        """
        if not all(self.is_complete(shard) for shard in range(shards)):
            return None
        parts = []
        for shard in range(shards):
            for batch in range(read_json_object(self._end(shard), "batches")["batches"]):
                parts.append(read_json_object(self._file(shard, batch), "rows", "failures", "seconds"))
        return Captioned(
            [row for part in parts for row in part["rows"]],
            [failure for part in parts for failure in part["failures"]],
            sum(part["seconds"] for part in parts),
        )

    def _file(self, shard: int, batch: int) -> Path:
        return self.folder / f"{shard:05d}-{batch:04d}.json"

    def _end(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.json"
