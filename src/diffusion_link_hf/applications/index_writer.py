"""Appends to a sound index: windows gathered into parts, and an index with many dead rows written anew."""

import time
from pathlib import Path

import torch

from .index_files import Entry, Manifest, Part, next_number, part_name, read_part, write_manifest, write_part

PART_ROWS = 4096  # 8 MB at 512 dimensions: all that a writer holds
PART_SECONDS = 60.0  # what a kill loses at most, beside the recording at work
MOST_DEAD = 0.25  # share of rows of removed and changed recordings
SPARE_PARTS = 16  # beyond which parts are merged, as every update adds one

# Name of a recording → its state, and where its windows are: (part, first row, last row + 1).
Catalog = dict[str, tuple[str, list[tuple[int, int, int]]]]


class IndexWriter:
    """Writes windows into parts, and names each in the manifest.

    Args:
        folder: of the index.
        manifest: is extended in place.
        part_rows, part_seconds: after so many windows or seconds, a part is written.
        announce: whether each part counts at once; otherwise the manifest is left to who uses this.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        part_rows: int = PART_ROWS,
        part_seconds: float = PART_SECONDS,
        announce: bool = True,
    ):
        self.folder, self.manifest, self.part_rows = folder, manifest, part_rows
        self.part_seconds, self.announce = part_seconds, announce
        self._number = next_number(folder)
        self._embeds = torch.empty(part_rows, manifest.embedding_dim)
        self._times = torch.empty(2, part_rows, dtype=torch.float64)
        self._empty()

    def _empty(self) -> None:
        self._used, self._entries, self._begun = 0, [], time.monotonic()

    def begin(self, name: str, state: str) -> None:
        """A recording, whose windows follow."""
        self._entries.append(Entry(name, state))

    def add(self, embeds: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> None:
        """Windows of the recording: (n, D) unit rows, (n,) and (n,) seconds."""
        while len(embeds):
            if self._used == self.part_rows:
                self.flush()
            count = min(len(embeds), self.part_rows - self._used)
            rows = slice(self._used, self._used + count)
            self._embeds[rows], self._times[0, rows], self._times[1, rows] = embeds[:count], start[:count], end[:count]
            embeds, start, end = embeds[count:], start[count:], end[count:]
            self._used += count
            self._entries[-1].rows += count

    def end(self) -> None:
        """The recording is whole."""
        entry = self._entries[-1]
        entry.windows = entry.first + entry.rows
        if len(self._entries) >= self.part_rows or time.monotonic() - self._begun >= self.part_seconds:
            self.flush()

    def drop(self) -> None:
        """The recording failed: what was written of it never counts."""
        self._used -= self._entries.pop().rows

    def flush(self) -> None:
        """Writes a part, if there is anything to write.

        Raises:
            DataError: it cannot be written.
        """
        if not self._entries:
            return
        last, used = self._entries[-1], self._used
        name = part_name(self._number)
        self._number += 1
        start, end = self._times[:, :used]
        write_part(self.folder, name, Part(self._embeds[:used], start.contiguous(), end.contiguous(), self._entries))
        self.manifest.parts.append(name)
        names = {entry.name for entry in self._entries}
        self.manifest.removed = [name for name in self.manifest.removed if name not in names]
        if self.announce:
            write_manifest(self.folder, self.manifest)
        self._empty()
        if last.windows is None:
            self._entries.append(Entry(last.name, last.state, last.first + last.rows))


def read_catalog(parts: list[list[Entry]], removed: list[str]) -> Catalog:
    """The recordings that are whole, by the entries of all parts; a later one replaces an earlier one of its name."""
    catalog: Catalog = {}
    open_ones: Catalog = {}
    for number, entries in enumerate(parts):
        row = 0
        for entry in entries:
            place = (number, row, row + entry.rows)
            row += entry.rows
            state, places = (entry.state, []) if entry.first == 0 else open_ones.pop(entry.name, ("", []))
            held = sum(last - first for _, first, last in places)
            if state != entry.state or held != entry.first:
                continue
            places.append(place)
            if entry.windows is None:
                open_ones[entry.name] = (state, places)
            elif entry.windows == held + entry.rows:
                catalog[entry.name] = (state, places)
    for name in removed:
        catalog.pop(name, None)
    return catalog


def needs_repacking(parts: list[list[Entry]], catalog: Catalog, part_rows: int = PART_ROWS) -> bool:
    """Whether many rows are dead, or many parts small."""
    rows = sum(entry.rows for entries in parts for entry in entries)
    live = sum(last - first for _, places in catalog.values() for _, first, last in places)
    return rows - live > MOST_DEAD * rows or len(parts) > live // part_rows + SPARE_PARTS


def repack(folder: Path, manifest: Manifest, catalog: Catalog, part_rows: int = PART_ROWS) -> Manifest:
    """Writes the live recordings into new parts, one old part at a time, and then a manifest that names these alone.

    Raises:
        DataError: a part is damaged, or nothing can be written.
    """
    new = Manifest(manifest.clap, manifest.embedding_dim, manifest.hop_seconds, unfinished=False)
    writer = IndexWriter(folder, new, part_rows, float("inf"), announce=False)
    number, part = -1, None
    for name in sorted(catalog, key=lambda name: catalog[name][1]):
        state, places = catalog[name]
        writer.begin(name, state)
        for at, first, last in places:
            if at != number:
                number, part = at, read_part(folder, manifest.parts[at], manifest.embedding_dim)
            writer.add(part.embeds[first:last], part.start[first:last], part.end[first:last])
        writer.end()
    writer.flush()
    write_manifest(folder, new)
    return new
