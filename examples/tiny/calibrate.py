"""Fits the pipeline's scorer on its captions of single unheard sounds, and says how well scores of other origins hold.

python calibrate.py --model pipeline
"""

import argparse
import csv
import json
import math
from pathlib import Path

import numpy as np
import torch
from named import event_words

from diffusion_link_hf import CaptionScorer

FITTED, ALSO_JUDGED = "single", ("overlap", "sequence")  # sets of caption_unheard.py
FOLDS, BINS, SURE = 5, 10, 0.8


def is_right(row: dict) -> bool:
    """Whether a caption names something, and nothing that is not there."""
    named = event_words().named(row["caption"])
    return bool(named) and named <= {event["name"] for event in row["events"]}


def load(names: tuple[str, ...]) -> list[dict]:
    """Rows of caption_unheard.py that are no silence."""
    rows = []
    for name in names:
        text = (Path("captioned") / f"{name}.jsonl").read_text(encoding="utf-8")
        rows += [{**json.loads(line), "set": name} for line in text.splitlines()]
    return [row for row in rows if not row["silent"]]


def calibration_error(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean difference of score and share right over ten bins of equally many captions."""
    parts = np.array_split(np.argsort(scores), BINS)
    return float(sum(len(k) * abs(scores[k].mean() - right[k].mean()) for k in parts) / len(scores))


def held_out_scores(features: torch.Tensor, right: torch.Tensor, groups: list[str], fitted: torch.Tensor) -> np.ndarray:
    """(N,) each by a scorer that was fitted on other origins, on those of ``fitted`` (N,) alone."""
    names = sorted(set(groups))
    place = dict(zip(np.random.default_rng(0).permutation(names), np.arange(len(names)) % FOLDS, strict=True))
    fold, scores = np.array([place[group] for group in groups]), np.empty(len(groups))
    for k in range(FOLDS):
        own = torch.from_numpy(fold == k)
        others = ~own & fitted
        scores[fold == k] = CaptionScorer.fit(features[others], right[others]).scores(features[own]).numpy()
    return scores


def report(scores: np.ndarray, right: np.ndarray, unknown_below: float) -> dict[str, float]:
    sure, unknown = scores >= SURE, scores < unknown_below
    return {
        "n": len(scores),
        "right": round(float(right.mean()), 4),
        "calibration_error": round(calibration_error(scores, right), 4),
        "share_sure": round(float(sure.mean()), 4),
        "right_if_sure": round(float(right[sure].mean()), 4) if sure.any() else math.nan,
        "share_unknown": round(float(unknown.mean()), 4),
        "right_if_unknown": round(float(right[unknown].mean()), 4) if unknown.any() else math.nan,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("pipeline"), help="pipeline folder, which gets the scorer")
    parser.add_argument("--unknown-below", type=float, default=0.2, help="score below which captions are hedged")
    parser.add_argument("--output", type=Path, default=Path("calibration.json"))
    args = parser.parse_args(argv)
    rows = load((FITTED, *ALSO_JUDGED))
    with open("splits.csv", newline="") as file:
        group_of = {row["file"]: row["group"] for row in csv.DictReader(file)}
    groups = [group_of.get(row["events"][0]["file"], row["events"][0]["file"]) for row in rows]
    features = torch.tensor([row["features"] for row in rows])
    right = torch.tensor([is_right(row) for row in rows])
    single = torch.tensor([row["set"] == FITTED for row in rows])
    scores = held_out_scores(features, right, groups, single)
    found = {
        name: report(scores[mask.numpy()], right[mask].numpy(), args.unknown_below)
        for name, mask in (("single", single), ("pairs", ~single))
    }
    print(json.dumps(found, indent=2))
    args.output.write_text(json.dumps(found, indent=2) + "\n")
    scorer = CaptionScorer.fit(features[single], right[single], unknown_below=args.unknown_below)
    scorer.save_pretrained(args.model / "scorer")
    index = args.model / "model_index.json"
    values = json.loads(index.read_text()) | {"scorer": ["diffusion_link_hf", "CaptionScorer"]}
    index.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
