"""What a folder run has done so far, a line per recording, so that it goes on where it was killed."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import DataError
from .captioned import CaptionedFile


class Journal:
    """Finished recordings beside the output: ``<output>.partial-<process>``, appended to, read by all processes.

    The first line of each file says what run it belongs to. A line that a kill cut is dropped.

    Args:
        output: the file that the run will write.
        identity: what captions depend on: model, options.
        process: number of this process.

    Raises:
        DataError: a journal of a run with another identity is there; or it cannot be written.
    """

    def __init__(self, output: Path, identity: dict[str, Any], process: int = 0):
        self.output, self.identity = output, json.loads(json.dumps(identity))
        self.path = output.with_name(f"{output.name}.partial-{process}")
        self._places: dict[str, tuple[Path, int, str]] = {}
        for path in self.files():
            self._read(path)
        try:
            new = not self.path.exists() or not self.path.stat().st_size
            self._file = open(self.path, "ab")  # noqa: SIM115
            if new:
                self._write({"identity": self.identity})
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def files(self) -> list[Path]:
        """The journals of all processes."""
        prefix = f"{self.output.name}.partial-"
        try:
            names = sorted(os.listdir(self.output.parent))
        except OSError as error:
            raise DataError(
                self.output, f"cannot be written ({error.strerror})", "Name a folder that exists"
            ) from error
        return [
            self.output.with_name(name)
            for name in names
            if name.startswith(prefix) and name.removeprefix(prefix).isdigit()
        ]

    def _read(self, path: Path) -> None:
        whole = 0
        with open(path, "rb") as file:
            for k, line in enumerate(file):
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    break
                if k == 0 and row.get("identity") != self.identity:
                    raise DataError(
                        path,
                        "belongs to a run of another model or other options",
                        f"Run it with those again, name another output, or delete {self.output.name}.partial-*",
                    )
                if k:
                    self._places[row["file"]] = (path, whole, row.get("state", ""))
                whole += len(line)
        if path == self.path and whole < path.stat().st_size:
            os.truncate(path, whole)

    def has(self, name: str, state: str) -> bool:
        """Whether a recording is finished, in the state that it has now (`state_of`)."""
        place = self._places.get(name)
        return place is not None and place[2] == state

    def add(self, captioned: CaptionedFile, state: str) -> None:
        """Appends a finished recording.

        Raises:
            DataError: the disk is full.
        """
        self._write(captioned.as_json() | {"state": state})

    def _write(self, row: dict[str, Any]) -> None:
        try:
            place = self._file.tell()
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        if "file" in row:
            self._places[row["file"]] = (self.path, place, row.get("state", ""))

    def refresh(self) -> None:
        """Reads what the other processes have finished."""
        for path in self.files():
            if path != self.path:
                self._read(path)

    def read(self, names: Iterator[str]) -> Iterator[CaptionedFile]:
        """The finished recordings of those names, in their order."""
        with ExitStack() as stack:
            files = {path: stack.enter_context(open(path, "rb")) for path in self.files()}
            for name in names:
                if name in self._places:
                    path, place, _ = self._places[name]
                    files[path].seek(place)
                    yield CaptionedFile.from_json(json.loads(files[path].readline()))

    def close(self) -> None:
        """Closes the file, which stays for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Removes the journals of all processes: the output is there."""
        self._file.close()
        for path in self.files():
            path.unlink(missing_ok=True)


def state_of(name: str) -> str:
    """Size and time of a file, which tell whether it changed; empty for what is no file."""
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(path, f"cannot be written ({error.strerror or error})", "Free some space, or name another output")
