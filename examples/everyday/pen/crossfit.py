"""Trains taggers that have not heard a third of the origins each, so that training scenes can be heard with honest doubt."""

import argparse
import csv
import json
import os
import sys
import zlib
from collections import defaultdict
from pathlib import Path

import torch

FOLDS = 3


def folds_of_files(splits: Path) -> dict[str, int]:
    """File → fold of its origin; -1 where its class has too few origins to leave one out."""
    rows = [row for row in csv.DictReader(open(splits, newline="")) if row["split"] == "train"]
    groups = defaultdict(set)
    for row in rows:
        groups[row["name"]].add(row["group"])
    place = {}
    for name, own in groups.items():  # as evenly as it goes within a class
        for k, group in enumerate(sorted(own, key=lambda g: zlib.crc32(g.encode()))):
            place.setdefault(group, k % FOLDS)
    out = {row["file"]: place[row["group"]] if len(groups[row["name"]]) >= FOLDS else -1 for row in rows}
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ears", type=Path, default=Path("runs/everyday/ears"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/crossfit"))
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args(argv)
    args.output.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.ears))
    os.chdir(args.ears)
    from ears_head import WINDOW_STEPS, TagHead
    from train_tagger import Clips, silence_features, train, vocabulary

    names, fine = vocabulary(Path("classes.json"))
    silence = silence_features(Path("sfx_network.safetensors"))
    fold = folds_of_files(Path("splits.csv"))
    clips = Clips(Path("clips"), "train-*.npy", names, fine, silence, 0)
    folds = []
    for path in sorted(Path("clips").glob("train-*.npy")):
        for line in path.with_suffix(".jsonl").read_text().splitlines():
            row = json.loads(line)
            own = {fold.get(event["file"], -1) for event in row["events"]}
            folds += [own] * (3 if row["steps"] >= WINDOW_STEPS + 3 else 1)
    assert len(folds) == len(clips.target)
    probability, pairs = clips.probability.clone(), clips.pairs.clone()
    settings = argparse.Namespace(
        lr=1e-3, decay=0.05, steps=args.steps, batch=128, mixup=0.4, noise=0.2, binary=0.4, fine_loss=0.3
    )
    for k in range(FOLDS):
        if (args.output / f"{k}.pt").is_file():
            continue
        known = torch.tensor([k not in own for own in folds])
        clips.probability = probability * known
        clips.cumulative = clips.probability.cumsum(0) / clips.probability.sum()
        clips.pairs = pairs[known[pairs]]
        torch.manual_seed(k)
        head = TagHead(len(names), 768, len(fine))
        with torch.no_grad():
            head.silence.copy_(silence)
            head.fit_scale(torch.cat([clips.batch(500)[0] for _ in range(8)]))
            head.tags.bias.fill_(-5.0)
            head.fine.bias.fill_(-5.0)
        head = train(head, clips, settings, k)
        torch.save({"head": head.state_dict()}, args.output / f"{k}.pt")
        print("fold", k, flush=True)


if __name__ == "__main__":
    main()
