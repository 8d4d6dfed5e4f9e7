"""Trains the tag head on the frozen network's features of clips and judges it on unheard origins.

python train_tagger.py --output work/tagger.pt --steps 3000
"""

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from ears_head import WINDOW_STEPS, TagHead, step_weights
from torch.nn import functional as F

LAYOUTS = (0.5, 0.25, 0.25)  # single, mixed, one after the other


def load_scenes(folder: Path, pattern: str) -> tuple[torch.Tensor, list[dict]]:
    """Features (N, 53, 512) float16 and descriptions of all shards of a pattern."""
    paths = sorted(folder.glob(pattern))
    rows = [json.loads(line) for path in paths for line in path.with_suffix(".jsonl").read_text().splitlines()]
    return torch.from_numpy(np.concatenate([np.load(path) for path in paths])), rows


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


def tag_loss(logits: torch.Tensor, target: torch.Tensor, binary: float = 0.4) -> torch.Tensor:
    """Cross-entropy to the shares of the target (label smoothing .05) and binary cross-entropy, summed over classes."""
    total = target.sum(-1, keepdim=True)
    share = target / total.clamp_min(1e-6) * 0.95 + 0.05 / target.shape[-1]
    soft = -(share * F.log_softmax(logits, -1)).sum(-1) * total[..., 0].clamp(max=1)
    return (soft + binary * F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1)).mean()


def standard_error(share: float, n: int) -> float:
    return (share * (1 - share) / max(1, n)) ** 0.5


@torch.inference_mode()
def scores(heads: list[TagHead], features: torch.Tensor, window_weight: float = 0.35) -> torch.Tensor:
    """(N, C) logits of clips: those of the whole, and the best of the windows; averaged over heads."""
    total = 0.0
    for head in heads:
        head.eval()
        out = []
        for part in features.split(128):
            clip, windows = head(part.float())
            out.append((1 - window_weight) * clip + window_weight * windows.amax(1))
        total = total + torch.cat(out)
    return total / len(heads)


def judge(score, sets: dict[str, tuple[torch.Tensor, list[dict]]], names: dict[str, int]) -> dict[str, dict]:
    """``score`` maps features to (N, C). Top-k for singles, "both right" for scenes of several events."""
    order, result = list(names), {}

    def add(key: str, right: np.ndarray) -> None:
        result[key] = {"share": round(float(right.mean()), 4), "se": round(standard_error(right.mean(), len(right)), 4),
                       "n": len(right)}  # fmt: skip

    for set_name, (features, rows) in sets.items():
        ranked = score(features).argsort(1, descending=True)
        truth = targets(rows, names).bool()
        count = truth.sum(1)
        exact = torch.stack([truth[k, ranked[k, : count[k]]].all() for k in range(len(rows))]).numpy()
        if set_name not in ("single", "once"):
            add(set_name, exact)
            continue
        source = np.array([row["source"] for row in rows])
        esc, made = np.char.startswith(source, "esc10"), source == "made"
        bank = ~esc & ~made
        top5 = torch.stack([truth[k, ranked[k, :5]].any() for k in range(len(rows))]).numpy()
        labels = np.array([row["events"][0]["name"] for row in rows])
        guess = np.array([order[k] for k in ranked[:, 0].tolist()])
        speech = bank & np.char.startswith(labels, "speech")
        add(f"{set_name} bank top-1", exact[bank])
        add(f"{set_name} bank top-5", top5[bank])
        add(f"{set_name} esc10 top-1", exact[esc])
        add(f"{set_name} made top-1", exact[made])
        add(f"{set_name} speech as speech", np.char.startswith(guess[speech], "speech"))
        by_class = [exact[bank & (labels == name)].mean() for name in sorted(set(labels[bank]))]
        result[f"{set_name} bank macro"] = {"share": round(float(np.mean(by_class)), 4), "n": len(by_class)}
    return result


def show(result: dict[str, dict]) -> str:
    return "\n".join(
        f"{key:28} {row['share']:.3f} ± {row.get('se', 0):.3f} (n {row['n']})" for key, row in result.items()
    )


class Clips:
    """Pooled features of clips and of windows in them, put together to training examples.

    Attributes:
        largest, weighted: (N, 512) the largest value, and the sum over steps of weight times value.
        weight: (N, 1) sum of weights.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        names: dict[str, int],
        fine: dict[str, int],
        silence: torch.Tensor,
        seed: int = 0,
        exponent: float = 0.5,
        windows: int = 2,
    ):
        largest, weighted, weight, rows = [], [], [], []
        rng = np.random.default_rng(seed)
        for path in sorted(folder.glob(pattern)):
            features, at = torch.from_numpy(np.load(path)), 0
            for line in path.with_suffix(".jsonl").read_text().splitlines():
                row = json.loads(line)
                clip = features[at : at + row["steps"]].float()
                at += row["steps"]
                parts = [clip]
                if len(clip) >= WINDOW_STEPS + 3:
                    starts = rng.integers(0, len(clip) - WINDOW_STEPS + 1, windows)
                    parts += [clip[first : first + WINDOW_STEPS] for first in starts]
                for part in parts:
                    weights = step_weights(part, silence)
                    largest.append(part.amax(0))
                    weighted.append((part * weights).sum(0))
                    weight.append(weights.sum(0))
                    rows.append(row)
        self.largest, self.weighted, self.weight = torch.stack(largest), torch.stack(weighted), torch.stack(weight)
        self.target, self.fine = targets(rows, names), targets(rows, fine, "fine")
        single = torch.tensor([len(row["events"]) == 1 for row in rows])
        self.pairs = torch.nonzero(~single)[:, 0]
        # As scenes.Bank draws: classes by the square root of their origins, origins alike.
        with open("splits.csv", newline="") as file:
            import csv

            group_of = {row["file"]: row["group"] for row in csv.DictReader(file)}
        keys = [
            (row["events"][0]["name"], group_of.get(row["events"][0]["file"], "made"))
            if len(row["events"]) == 1
            else None
            for row in rows
        ]
        in_group, groups = Counter(key for key in keys if key), defaultdict(set)
        for key in filter(None, keys):
            groups[key[0]].add(key[1])
        self.probability = torch.tensor(
            [len(groups[key[0]]) ** exponent / len(groups[key[0]]) / in_group[key] if key else 0.0 for key in keys],
            dtype=torch.float64,
        )
        self.cumulative = self.probability.cumsum(0) / self.probability.sum()
        self.generator = torch.Generator().manual_seed(seed)

    def singles(self, n: int) -> torch.Tensor:
        draws = torch.rand(n, generator=self.generator, dtype=torch.float64)
        return torch.searchsorted(self.cumulative, draws).clamp(max=len(self.cumulative) - 1)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pooled features (B, 1024), tags (B, C), fine tags (B, F)."""
        mixed, follow = (int(share * size) if len(self.pairs) else 0 for share in LAYOUTS[1:])
        alone = size - mixed - follow
        index = self.singles(alone + follow)
        if mixed:
            index = torch.cat([index, self.pairs[torch.randint(len(self.pairs), (mixed,), generator=self.generator)]])
        largest, weighted, weight = self.largest[index], self.weighted[index], self.weight[index]
        target, fine = self.target[index], self.fine[index]
        if follow:
            other = self.singles(follow)
            largest[:follow] = torch.maximum(largest[:follow], self.largest[other])
            weighted[:follow] += self.weighted[other]
            weight[:follow] += self.weight[other]
            target[:follow] = torch.maximum(target[:follow], self.target[other])
            fine[:follow] = torch.maximum(fine[:follow], self.fine[other])
        order = torch.randperm(size, generator=self.generator)
        return torch.cat([largest, weighted / weight], 1)[order], target[order], fine[order]


def vocabulary(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    classes = json.loads(path.read_text())
    fine = sorted({f for entry in classes.values() for f in [*entry["fine"], *entry["made"]]})
    return {name: entry["index"] for name, entry in classes.items()}, {name: k for k, name in enumerate(fine)}


def train(head: TagHead, clips: Clips, args, seed: int, report=None) -> TagHead:
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=args.lr, weight_decay=args.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    started, beta = time.perf_counter(), torch.distributions.Beta(args.mixup, args.mixup)
    for step in range(args.steps):
        head.train()
        pooled, target, fine = clips.batch(args.batch)
        x = head.normalized(pooled)
        weight = beta.sample((len(x), 1))
        weight = torch.maximum(weight, 1 - weight)
        x = weight * x + (1 - weight) * x.roll(1, 0) + args.noise * torch.randn_like(x)
        target = weight * target + (1 - weight) * target.roll(1, 0)
        fine = weight * fine + (1 - weight) * fine.roll(1, 0)
        with torch.autocast("cpu", torch.bfloat16):
            logits, fine_logits = head.each(x).float(), head.each(x, fine=True).float()
        loss = tag_loss(logits, target.expand_as(logits), args.binary) + args.fine_loss * tag_loss(
            fine_logits, fine.expand_as(fine_logits), args.binary
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(head)
        if step % 500 == 499 or step == args.steps - 1:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            if report and step != args.steps - 1 and step % 1000 == 999:
                report(average.module)
    return average.module


def silence_features(weights: Path) -> torch.Tensor:
    """(512,) features of digital silence."""
    from safetensors.torch import load_file
    from sfx_network import SfxNetwork

    network = SfxNetwork().eval()
    network.load_state_dict(load_file(weights))
    with torch.inference_mode():
        return network.frame_features(torch.zeros(1, 200, 96))[0, 12].clone()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("clips"))
    parser.add_argument("--scenes", type=Path, default=Path("scenes"))
    parser.add_argument("--pattern", default="train-*.npy")
    parser.add_argument("--classes", type=Path, default=Path("classes.json"))
    parser.add_argument("--weights", type=Path, default=Path("sfx_network.safetensors"))
    parser.add_argument("--output", type=Path, default=Path("work/tagger.pt"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--mixup", type=float, default=0.4)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--binary", type=float, default=0.4)
    parser.add_argument("--fine-loss", type=float, default=0.3)
    parser.add_argument("--exponent", type=float, default=0.5)
    parser.add_argument("--transform", default="sqrt", choices=("sqrt", "raw", "log1p"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    names, fine = vocabulary(args.classes)
    silence = silence_features(args.weights)
    clips = Clips(args.clips, args.pattern, names, fine, silence, args.seed, args.exponent)
    print(f"{len(clips.target)} clips and windows, {len(clips.pairs)} of pairs", flush=True)
    torch.manual_seed(args.seed)
    head = TagHead(len(names), args.hidden, len(fine), transform=args.transform)
    with torch.no_grad():
        head.silence.copy_(silence)
        head.fit_scale(torch.cat([clips.batch(500)[0] for _ in range(8)]))
        for outer in (*head.tags, *head.fine):
            outer.bias.fill_(-5.0)
    sets = {path.stem.removeprefix("validation-"): load_scenes(args.scenes, path.name)
            for path in sorted(args.scenes.glob("validation-*.npy"))}  # fmt: skip
    few = {key: sets[key] for key in ("single", "esc10-overlap") if key in sets}
    head = train(
        head, clips, args, args.seed, lambda h: print(show(judge(lambda f: scores([h], f), few, names)), flush=True)
    )
    torch.save({"head": head.state_dict(), "names": list(names), "fine": list(fine),
                "args": {key: str(value) for key, value in vars(args).items()}}, args.output)  # fmt: skip
    for weight in (0.0, 0.35, 0.7):
        result = judge(lambda f, w=weight: scores([head], f, w), sets, names)
        print(f"windows weigh {weight}\n{show(result)}", flush=True)


if __name__ == "__main__":
    main()
