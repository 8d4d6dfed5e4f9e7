"""What the tagger is trained on: pooled features of clips, and of windows in them, put together to batches."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from diffusion_link_hf.models.sound_tagger import WINDOW_STEPS, SoundTagger

LAYOUTS = (0.5, 0.25, 0.25)  # of a batch: single, mixed, one after the other


def vocabulary() -> tuple[dict[str, int], dict[str, int]]:
    """Class → number, and the same of finer classes; see vocabulary.py."""
    classes = json.loads(Path("classes.json").read_text())
    fine = sorted({f for entry in classes.values() for f in [*entry["fine"], *entry["made"]]})
    return {name: entry["index"] for name, entry in classes.items()}, {name: k for k, name in enumerate(fine)}


def read_clips():
    """Yields every clip of clips.py: features (T, 512) float16, and its description."""
    for path in sorted(Path("clips").glob("*.npy")):
        features, at = torch.from_numpy(np.load(path)), 0
        for line in path.with_suffix(".jsonl").read_text().splitlines():
            row = json.loads(line)
            yield features[at : at + row["steps"]], row
            at += row["steps"]


def targets(rows: list[dict], names: dict[str, int], key: str = "name") -> torch.Tensor:
    """(N, C) float32, 1 where the class is heard in the clip."""
    out = torch.zeros(len(rows), len(names))
    for k, row in enumerate(rows):
        if key == "name" and row.get("layout") == "silence":
            out[k, names["silence"]] = 1
        for event in row["events"]:
            if event[key] in names:
                out[k, names[event[key]]] = 1
    return out


class PooledClips:
    """Pooled features of clips and of windows in them.

    Args:
        tagger: pools as it will.
        without: file → fold, and the fold whose origins are left out; None keeps all.

    Attributes:
        largest, weighted: (N, 512) the largest value, and the sum over steps of weight times value.
        weight: (N, 1) sum of weights.
    """

    def __init__(
        self,
        tagger: SoundTagger,
        names: dict[str, int],
        fine: dict[str, int],
        without: tuple[dict[str, int], int] | None = None,
        seed: int = 0,
        windows: int = 2,
    ):
        largest, weighted, weight, rows = [], [], [], []
        rng = np.random.default_rng(seed)
        for features, row in read_clips():
            if without and any(without[0].get(event["file"], -1) == without[1] for event in row["events"]):
                continue
            clip = features.float()
            parts = [clip]
            if len(clip) >= WINDOW_STEPS + 3:
                starts = rng.integers(0, len(clip) - WINDOW_STEPS + 1, windows)
                parts += [clip[first : first + WINDOW_STEPS] for first in starts]
            for part in parts:
                weights = tagger.loudness(part)[:, None] + 1e-3
                largest.append(part.amax(0))
                weighted.append((part * weights).sum(0))
                weight.append(weights.sum(0))
                rows.append(row)
        self.largest, self.weighted, self.weight = torch.stack(largest), torch.stack(weighted), torch.stack(weight)
        self.target, self.fine = targets(rows, names), targets(rows, fine, "fine")
        self.pairs = torch.tensor([k for k, row in enumerate(rows) if len(row["events"]) > 1])
        self.cumulative = _probabilities(rows).cumsum(0)
        self.generator = torch.Generator().manual_seed(seed)

    def _singles(self, n: int) -> torch.Tensor:
        draws = torch.rand(n, generator=self.generator, dtype=torch.float64)
        return torch.searchsorted(self.cumulative, draws).clamp(max=len(self.cumulative) - 1)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pooled features (B, 1024), tags (B, C), fine tags (B, F)."""
        mixed, follow = (int(share * size) if len(self.pairs) else 0 for share in LAYOUTS[1:])
        index = self._singles(size - mixed)
        if mixed:
            index = torch.cat([index, self.pairs[torch.randint(len(self.pairs), (mixed,), generator=self.generator)]])
        largest, weighted, weight = self.largest[index], self.weighted[index], self.weight[index]
        target, fine = self.target[index], self.fine[index]
        if follow:
            other = self._singles(follow)
            largest[:follow] = torch.maximum(largest[:follow], self.largest[other])
            weighted[:follow] += self.weighted[other]
            weight[:follow] += self.weight[other]
            target[:follow] = torch.maximum(target[:follow], self.target[other])
            fine[:follow] = torch.maximum(fine[:follow], self.fine[other])
        order = torch.randperm(size, generator=self.generator)
        return torch.cat([largest, weighted / weight], 1)[order], target[order], fine[order]


def _probabilities(rows: list[dict]) -> torch.Tensor:
    """(N,) as scenes.Bank draws: classes by the square root of their origins, origins alike; no pairs."""
    with open("splits.csv", newline="") as file:
        group_of = {row["file"]: row["group"] for row in csv.DictReader(file)}
    events = [row["events"][0] if len(row["events"]) == 1 else None for row in rows]
    keys = [event and (event["name"], group_of.get(event["file"], "made")) for event in events]
    in_group, groups = Counter(filter(None, keys)), defaultdict(set)
    for name, group in filter(None, keys):
        groups[name].add(group)
    weights = [len(groups[key[0]]) ** -0.5 / in_group[key] if key else 0.0 for key in keys]
    total = torch.tensor(weights, dtype=torch.float64)
    return total / total.sum()
