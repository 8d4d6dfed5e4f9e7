"""Folds of the training origins, so that scenes can be heard by taggers that never heard their recordings."""

import csv
import zlib
from collections import defaultdict
from pathlib import Path

FOLDS = 3


def folds_of_files(splits: Path = Path("splits.csv")) -> dict[str, int]:
    """File → fold of its origin; -1 where its class has too few origins to leave one out."""
    with open(splits, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    groups = defaultdict(set)
    for row in rows:
        groups[row["name"]].add(row["group"])
    place: dict[str, int] = {}
    for own in groups.values():  # as evenly as it goes within a class
        for k, group in enumerate(sorted(own, key=lambda g: zlib.crc32(g.encode()))):
            place.setdefault(group, k % FOLDS)
    return {row["file"]: place[row["group"]] if len(groups[row["name"]]) >= FOLDS else -1 for row in rows}
