"""Trains the pair tagger on pooled scenes of feature_scenes.py: of all origins, or of those without a fold.

python train_pair_tagger.py --output pairs/all.pt
python train_pair_tagger.py --without 0 --output pairs/0.pt
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from feature_scenes import POOLED
from folds import folds_of_files
from sfx_features import load_scenes, silence_features
from tagger_data import vocabulary
from torch.nn import functional as F

from diffusion_link_hf.models.pair_tagger import PairTagger

BATCH, RATE, WEIGHT_DECAY, NOISE, SMOOTHING = 192, 2e-3, 0.1, 0.1, 0.05
DROPOUT = (0.15, 0.3)
CANDIDATES = 4
JUDGED = ("single", "esc10-overlap", "esc10-sequence", "overlap", "sequence")


def loss_of(tagger: PairTagger, x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``first``, ``second`` (B,): tags; of a single event, the second is none (C)."""
    none = tagger.num_tags
    target = (F.one_hot(first, none + 1) + F.one_hot(second, none + 1)).float()
    target[:, none] = 0
    target = (1 - SMOOTHING) * target / target.sum(1, keepdim=True) + SMOOTHING / none
    nothing = torch.full_like(first, none)
    swap = (torch.rand(len(first)) < 0.5) & (second != none)
    given, other = torch.where(swap, second, first), torch.where(swap, first, second)
    logits = tagger(x, torch.stack([nothing, given], 1))
    alone = -(target * logits[:, 0].log_softmax(-1)).sum(1).mean()
    return alone + F.cross_entropy(logits[:, 1], other, label_smoothing=SMOOTHING)


def best_pairs(tagger: PairTagger, features: torch.Tensor) -> list[set[int]]:
    """Of clips (B, 53, 512) the likeliest two tags."""
    x = tagger.normalized(tagger.pool(features))
    alone = tagger(x, torch.full((len(x),), tagger.num_tags))[:, :-1].log_softmax(-1)
    value, first = alone.topk(CANDIDATES, 1)
    other = tagger(x, first).log_softmax(-1)[..., :-1].scatter(2, first[..., None], -torch.inf)
    best, second = other.max(-1)
    row = (value + best).argmax(1, keepdim=True)
    return [{int(a), int(b)} for a, b in zip(first.gather(1, row)[:, 0], second.gather(1, row)[:, 0], strict=True)]


@torch.inference_mode()
def judge(tagger: PairTagger, names: dict[str, int]) -> None:
    """Prints the share of unheard scenes of two events whose likeliest pair is the right one."""
    for name in JUDGED[1:]:
        features, rows = load_scenes(Path("unheard") / f"{name}.npy")
        found = [pair for part in features.split(128) for pair in best_pairs(tagger, part.float())]
        truth = [{names[event["name"]] for event in row["events"]} for row in rows]
        share = float(np.mean([pair == own for pair, own in zip(found, truth, strict=True)]))
        print(f"{name}: both right {share:.3f} ± {(share * (1 - share) / len(rows)) ** 0.5:.3f}", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", type=int, help="fold of training origins to leave out")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    names, _ = vocabulary()
    pooled = torch.from_numpy(np.load(POOLED))
    rows = [json.loads(line) for line in POOLED.with_suffix(".jsonl").read_text().splitlines()]
    fold_of = folds_of_files()
    unheard = [any(fold_of.get(event["file"], -1) == args.without for event in row["events"]) for row in rows]
    kept = torch.arange(len(rows)) if args.without is None else (~torch.tensor(unheard)).nonzero()[:, 0]
    first = torch.tensor([names[row["events"][0]["name"]] for row in rows])
    second = torch.tensor([names[row["events"][1]["name"]] if row["events"][1:] else len(names) for row in rows])
    tagger = PairTagger(len(names), dropout=DROPOUT)
    tagger.silence.copy_(silence_features())
    tagger.fit_scale(pooled[kept[torch.randint(len(kept), (4000,))]].float())
    optimizer = torch.optim.AdamW(tagger.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=args.steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(
        tagger, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    started = time.perf_counter()
    for step in range(1, args.steps + 1):
        tagger.train()
        pick = kept[torch.randint(len(kept), (BATCH,))]
        x = tagger.normalized(pooled[pick].float())
        x = x + NOISE * torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(tagger, x, first[pick], second[pick])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(tagger)
        if step % 400 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    tagger = average.module.eval()
    judge(tagger, names)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tagger.state_dict(), args.output)


if __name__ == "__main__":
    main()
