"""Trains one network of the tagger on features of clips, and says how many unheard sounds it tags right.

python train_tagger.py --seed 0 --output taggers/0.pt
python train_tagger.py --without 0 --steps 2000 --rate 1e-3 --output crossfit/0.pt    # a fold of origins unheard
"""

import argparse
import time
from pathlib import Path

import torch
from folds import folds_of_files
from sfx_features import load_scenes, silence_features
from tagger_data import PooledClips, targets, vocabulary
from torch.nn import functional as F

from diffusion_link_hf.models.sound_tagger import SoundTagger

BATCH, WEIGHT_DECAY, MIXUP, NOISE = 128, 0.05, 0.4, 0.2
BINARY, FINE = 0.4, 0.3  # weights of the binary cross-entropy and of the finer classes in the loss
SMOOTHING = 0.05
RARE = -5.0  # bias that a tag starts from
JUDGED = ("single", "esc10-overlap", "esc10-sequence")


def tag_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to the shares of the target, and binary cross-entropy summed over classes."""
    total = target.sum(-1, keepdim=True)
    share = target / total.clamp_min(1e-6) * (1 - SMOOTHING) + SMOOTHING / target.shape[-1]
    soft = -(share * F.log_softmax(logits, -1)).sum(-1) * total[..., 0].clamp(max=1)
    binary = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)
    return (soft + BINARY * binary).mean()


def train(tagger: SoundTagger, clips: PooledClips, steps: int, rate: float) -> SoundTagger:
    """The running average of the weights."""
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(
        tagger, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    started, beta = time.perf_counter(), torch.distributions.Beta(MIXUP, MIXUP)
    for step in range(1, steps + 1):
        tagger.train()
        pooled, target, fine = clips.batch(BATCH)
        x = tagger.normalized(pooled)
        weight = beta.sample((len(x), 1))
        weight = torch.maximum(weight, 1 - weight)
        x, target, fine = (weight * each + (1 - weight) * each.roll(1, 0) for each in (x, target, fine))
        x = x + NOISE * torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits, fine_logits = tagger.logits(x).float(), tagger.logits(x, fine=True).float()
        loss = tag_loss(logits, target.expand_as(logits)) + FINE * tag_loss(fine_logits, fine.expand_as(fine_logits))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(tagger)
        if step % 500 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    return average.module.eval()


@torch.inference_mode()
def judge(tagger: SoundTagger, names: dict[str, int]) -> None:
    """Prints the share of unheard scenes whose likeliest tags, told how many, are the right ones."""
    for name in JUDGED:
        features, rows = load_scenes(Path("unheard") / f"{name}.npy")
        logits = torch.cat([tagger(part.float())[0] for part in features.split(128)])
        truth = targets(rows, names).bool()
        right = [bool(own[row.topk(int(own.sum())).indices].all()) for row, own in zip(logits, truth, strict=True)]
        share = sum(right) / len(right)
        error = (share * (1 - share) / len(right)) ** 0.5
        print(f"{name}: all tags right {share:.3f} ± {error:.3f} (n {len(right)})", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", type=int, help="fold of training origins to leave out")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    names, fine = vocabulary()
    tagger = SoundTagger(len(names), num_fine=len(fine))
    tagger.silence.copy_(silence_features())
    without = None if args.without is None else (folds_of_files(), args.without)
    clips = PooledClips(tagger, names, fine, without, args.seed)
    print(f"{len(clips.target)} clips and windows, {len(clips.pairs)} of pairs", flush=True)
    with torch.no_grad():
        tagger.fit_scale(torch.cat([clips.batch(500)[0] for _ in range(8)]))
        for outer in (*tagger.tags, *tagger.fine):
            outer.bias.fill_(RARE)
    tagger = train(tagger, clips, args.steps, args.rate)
    judge(tagger, names)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tagger.state_dict(), args.output)


if __name__ == "__main__":
    main()
