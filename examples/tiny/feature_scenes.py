"""Puts ten-second training scenes together from features of clips: pooled ones, and whole ones to be heard.

The pair tagger is trained on the pooled ones. The whole ones are of one fold of origins each (see folds.py), so that
they can be heard by taggers that never heard their recordings.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from folds import FOLDS, folds_of_files
from sfx_features import silence_features
from tagger_data import read_clips

from diffusion_link_hf.models.pair_tagger import PairTagger

STEPS = 53  # of ten seconds
POOLED, WHOLE = Path("pooled.npy"), Path("whole.npy")
POOLED_SHARES = {"single": 0.35, "overlap": 0.45, "sequence": 0.2}
WHOLE_SHARES = {"single": 0.45, "overlap": 0.27, "sequence": 0.26, "silence": 0.02}


class Clips:
    """Features of clips, and of mixtures of two, drawn by class.

    Args:
        fold: whose origins are taken, and those of no fold; None takes all.
    """

    def __init__(self, silence: torch.Tensor, fold_of: dict[str, int], fold: int | None):
        self.silence, self.alone, self.pairs, self.by_file = silence, {}, [], {}
        for clip, row in read_clips():
            if fold is not None and any(fold_of.get(event["file"], -1) not in (-1, fold) for event in row["events"]):
                continue
            if len(row["events"]) == 1:
                self.alone.setdefault(row["events"][0]["name"], []).append((clip, row["events"][0]))
                self.by_file.setdefault(row["events"][0]["file"], []).append(clip)
            else:
                self.pairs.append((clip, row["events"]))
        self.names = sorted(self.alone)
        weight = np.array([len({event["file"] for _, event in self.alone[name]}) ** 0.4 for name in self.names])
        self.weight = weight / weight.sum()

    def draw(self, rng: np.random.Generator, but: str = "") -> tuple[torch.Tensor, dict]:
        """A clip (T, 512) of one event, of another class than ``but``."""
        name = but
        while name == but:
            name = self.names[rng.choice(len(self.names), p=self.weight)]
        return self.alone[name][rng.integers(len(self.alone[name]))]

    def stretch(self, clip: torch.Tensor, length: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        """(T, 512) in ``length`` steps: once, in bouts, or as long as needed; and the number of bouts."""
        out, clip = self.silence.expand(length, -1).clone(), clip.float()
        way = rng.choice(["fill", "once", "bouts"], p=[0.6, 0.2, 0.2])
        if len(clip) >= length or way == "fill":
            return torch.cat([clip] * (length // len(clip) + 1))[:length], 1
        if way == "once":
            first = int(rng.integers(length - len(clip) + 1))
            out[first : first + len(clip)] = clip
            return out, 1
        at, bouts = int(rng.integers(0, 4)), 0
        while at + min(len(clip), 3) <= length and bouts < 8:
            part = clip[: int(rng.integers(3, 16))][: length - at]
            out[at : at + len(part)] = part
            bouts += 1
            at += len(part) + int(rng.integers(1, 8))
        return out, max(1, bouts)

    def scene(self, rng: np.random.Generator, shares: dict[str, float]) -> tuple[torch.Tensor, dict]:
        """Features (53, 512), and what is heard."""
        layout = str(rng.choice(list(shares), p=list(shares.values())))
        if layout == "silence":
            return self.silence.expand(STEPS, -1).clone(), {"layout": layout, "events": []}
        if layout == "overlap":
            clip, events = self.pairs[rng.integers(len(self.pairs))]
            return self._overlap(clip, events, rng), {"layout": layout, "events": [dict(event) for event in events]}
        clip, event = self.draw(rng)
        if layout == "single":
            features, bouts = self.stretch(clip, STEPS, rng)
            return features, {"layout": layout, "events": [{**event, "bouts": bouts}]}
        other, second = self.draw(rng, event["name"])
        cut = int(rng.integers(18, 36))
        (before, bouts), (after, more) = self.stretch(clip, cut, rng), self.stretch(other, STEPS - cut, rng)
        events = [{**event, "bouts": bouts}, {**second, "bouts": more}]
        return torch.cat([before, after]), {"layout": layout, "events": events}

    def _overlap(self, clip: torch.Tensor, events: list[dict], rng: np.random.Generator) -> torch.Tensor:
        features, _ = self.stretch(clip, STEPS, rng)
        solo = [self.by_file[event["file"]] for event in events if event["file"] in self.by_file]
        if solo and rng.random() < 0.4:  # one of them goes on alone before and after
            own = solo[rng.integers(len(solo))]
            features = self.stretch(own[rng.integers(len(own))], STEPS, rng)[0]
            first = int(rng.integers(STEPS - len(clip) + 1))
            features[first : first + len(clip)] = clip.float()
        return features


def write_rows(path: Path, rows: list[dict]) -> None:
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(path.stem, dict(Counter(row["layout"] for row in rows)), flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pooled", type=int, default=36_000, help="scenes")
    parser.add_argument("--whole", type=int, default=18_000, help="scenes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    silence, fold_of, rng = silence_features(), folds_of_files(), np.random.default_rng(5)
    pooling = PairTagger(1)
    pooling.silence.copy_(silence)
    clips, out, rows = Clips(silence, fold_of, None), [], []
    for _ in range(args.pooled // 100):
        scenes = [clips.scene(rng, POOLED_SHARES) for _ in range(100)]
        out.append(pooling.pool(torch.stack([features for features, _ in scenes])).half().numpy())
        rows += [row for _, row in scenes]
    np.save(POOLED, np.concatenate(out))
    write_rows(POOLED, rows)

    rows, count = [], args.whole // FOLDS
    unfinished = WHOLE.with_suffix(".part.npy")
    memory = np.lib.format.open_memmap(unfinished, "w+", np.float16, (count * FOLDS, STEPS, silence.shape[0]))
    for fold in range(FOLDS):
        clips = Clips(silence, fold_of, fold)
        for k in range(count):
            features, row = clips.scene(rng, WHOLE_SHARES)
            memory[fold * count + k] = features.half().numpy()
            rows.append({**row, "fold": fold})
    memory.flush()
    write_rows(WHOLE, rows)
    unfinished.rename(WHOLE)


if __name__ == "__main__":
    main()
