"""A second stand-in for the ears: the tagger's scores over time, put into the joint space as events, order and relation.

Scenes are put together from the frozen network's features of clips: alone, one after the other, or overlapped (real
mixtures). What the tagger says of a scene becomes what a caption's target would be, with all its doubt.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import space
import torch
from crossfit import FOLDS, folds_of_files
from torch import nn
from torch.nn import functional as F

STEPS = 53
SHARES = {"single": 0.42, "sequence": 0.29, "overlap": 0.27, "silence": 0.02}


class Clips:
    """Features of all training clips, and of mixtures of two, drawn by class."""

    def __init__(self, folder: Path, silence: torch.Tensor, fold_of: dict[str, int], fold: int):
        """Only clips of origins in ``fold``, or in no fold (-1)."""
        self.silence, self.alone, self.pairs = silence, {}, []
        fits = lambda events: all(fold_of.get(event["file"], -1) in (-1, fold) for event in events)
        for path in sorted(folder.glob("train-*.npy")):
            features, at = torch.from_numpy(np.load(path)), 0
            for line in path.with_suffix(".jsonl").read_text().splitlines():
                row = json.loads(line)
                clip = features[at : at + row["steps"]]
                at += row["steps"]
                if not fits(row["events"]):
                    continue
                if len(row["events"]) == 1:
                    self.alone.setdefault(row["events"][0]["name"], []).append((clip, row["events"][0]))
                else:
                    self.pairs.append((clip, row["events"]))
        self.by_file: dict[str, list] = {}
        for own in self.alone.values():
            for clip, event in own:
                self.by_file.setdefault(event["file"], []).append(clip)
        self.names = sorted(self.alone)
        weight = np.array([len({e["file"] for _, e in self.alone[n]}) ** 0.4 for n in self.names])
        self.weight = weight / weight.sum()

    def clip(self, rng: np.random.Generator, but: str = ""):
        while (name := self.names[rng.choice(len(self.names), p=self.weight)]) == but:
            pass
        return self.alone[name][rng.integers(len(self.alone[name]))]

    def stretch(self, clip: torch.Tensor, length: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        """(T, 512) in ``length`` steps: once, in bouts, or as long as needed; and the number of bouts."""
        out, clip = self.silence.expand(length, -1).clone(), clip.float()
        way = rng.choice(["fill", "once", "bouts"], p=[0.5, 0.25, 0.25])
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

    def scene(self, rng: np.random.Generator) -> tuple[torch.Tensor, dict]:
        layout = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        if layout == "silence":
            return self.silence.expand(STEPS, -1).clone(), {"layout": "silence", "events": []}
        if layout == "overlap":
            clip, events = self.pairs[rng.integers(len(self.pairs))]
            features, _ = self.stretch(clip, STEPS, rng)
            solo = [self.by_file[e["file"]] for e in events if e["file"] in self.by_file]
            if solo and rng.random() < 0.65:  # one of them goes on alone before and after
                own = solo[rng.integers(len(solo))]
                features = self.stretch(own[rng.integers(len(own))], STEPS, rng)[0]
                first = int(rng.integers(STEPS - len(clip) + 1))
                features[first : first + len(clip)] = clip.float()
            return features, {"layout": "overlap", "events": [dict(e) for e in events]}
        clip, event = self.clip(rng)
        if layout == "single":
            features, bouts = self.stretch(clip, STEPS, rng)
            return features, {"layout": "single", "events": [{**event, "bouts": bouts}]}
        other, second = self.clip(rng, event["name"])
        cut = int(rng.integers(18, 36))
        parts = (self.stretch(clip, cut, rng), self.stretch(other, STEPS - cut, rng))
        return torch.cat([parts[0][0], parts[1][0]]), {
            "layout": "sequence", "events": [{**event, "bouts": parts[0][1]}, {**second, "bouts": parts[1][1]}],
        }  # fmt: skip


class Hearing(nn.Module):
    """Features (B, 53, 512) → (B, 512) unit rows: what the tagger's probabilities say, and which relation it is."""

    def __init__(self, tagger, names: list[str], sentences: torch.Tensor, temperature: float = 1.0):
        super().__init__()
        self.tagger, self.names, self.temperature = tagger, names, temperature
        self.register_buffer("sentences", sentences)
        self.register_buffer("codes", torch.from_numpy(np.stack([space.code(n, space.EVENTS) for n in names])).float())
        self.register_buffer("orders", torch.from_numpy(np.stack([space.code(n, space.ORDER) for n in names])).float())
        self.relation = nn.Sequential(
            nn.Linear(27, 48), nn.GELU(), nn.Linear(48, 4)
        )  # single, overlap, sequence, silence

    def tags(self, features: torch.Tensor):
        """Probabilities of the clip (B, C) and of windows (B, W, C); loudness of windows (B, W)."""
        clip, windows = self.tagger(features.float())
        loud = (features.float() - self.tagger.silence).abs().mean(-1).unfold(1, 9, 4).mean(-1)
        return (clip * self.temperature).softmax(-1), (windows * self.temperature).softmax(-1), loud

    def clues(self, clip, windows, loud) -> torch.Tensor:
        """(B, 27) signs of one event or several."""
        weight = loud / loud.sum(1, keepdim=True).clamp_min(1e-6)
        mean = (windows * weight[..., None]).sum(1)
        halves = [self.part(windows, loud, slice(0, 6)), self.part(windows, loud, slice(6, None))]
        top = [p.topk(4, -1).values for p in (clip, mean, windows.amax(1), *halves)]
        alike = [F.cosine_similarity(halves[0], halves[1], dim=-1), F.cosine_similarity(clip, mean, dim=-1)]
        entropy = [-(p * p.clamp_min(1e-9).log()).sum(-1) for p in (clip, mean)]
        spread = -(mean * mean.clamp_min(1e-9).log()).sum(-1) + (
            (windows * windows.clamp_min(1e-9).log()).sum(-1) * weight
        ).sum(1)
        quiet = [loud.mean(1) * 10, loud.amax(1) * 10]
        return torch.cat([*top, torch.stack([*alike, *entropy, spread, *quiet], 1)], 1)

    @staticmethod
    def part(windows, loud, some: slice) -> torch.Tensor:
        weight = loud[:, some] / loud[:, some].sum(1, keepdim=True).clamp_min(1e-6)
        return (windows[:, some] * weight[..., None]).sum(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        clip, windows, loud = self.tags(features)
        relation = self.relation(self.clues(clip, windows, loud)).softmax(-1)
        first, last = self.part(windows, loud, slice(0, 6)), self.part(windows, loud, slice(6, None))
        after = 0.25 * clip + 0.75 * (first + last) / 2
        p = relation[:, :1] * clip + relation[:, 1:2] * (0.7 * clip + 0.3 * after) + relation[:, 2:3] * after
        silent = F.one_hot(torch.tensor(self.names.index("silence")), len(self.names)).float()
        p = p * (1 - relation[:, 3:]) + relation[:, 3:] * silent
        e = space.ENERGY
        # Two events: what is likely besides the first is let through.
        sentence = F.normalize(p @ self.sentences, dim=-1) * e["sentence"] ** 0.5
        events = F.normalize(p @ self.codes, dim=-1) * e["events"] ** 0.5
        order = F.normalize((first - last) @ self.orders, dim=-1) * e["order"] ** 0.5 * relation[:, 2:3]
        kinds = relation[:, :3] / relation[:, :3].norm(dim=-1, keepdim=True).clamp_min(1e-6) * e["relation"] ** 0.5
        return F.normalize(torch.cat([sentence, events, order, 2 * kinds], 1), dim=-1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ears", type=Path, default=Path("runs/everyday/ears"))
    parser.add_argument("--tagger", type=Path, default=Path("runs/everyday/ears/work/tagger.pt"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/composed"))
    parser.add_argument("--text", type=Path, default=Path("runs/everyday/pen/text"))
    parser.add_argument("--scenes", type=int, default=16_000)
    parser.add_argument("--crossfit", type=Path, default=Path("runs/everyday/pen/crossfit"))
    args = parser.parse_args(argv)
    args.output, args.crossfit = args.output.resolve(), args.crossfit.resolve()
    args.output.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.ears))
    os.chdir(args.ears)
    from ears_head import TagHead
    from train_tagger import load_scenes, silence_features, vocabulary

    names, fine = vocabulary(Path("classes.json"))
    order = list(names)
    silence = silence_features(Path("sfx_network.safetensors"))
    tagger = TagHead(len(names), 768, len(fine))
    tagger.load_state_dict(torch.load(args.tagger)["head"])
    rows = [json.loads(line) for line in (args.text / "bank.jsonl").read_text().splitlines()]
    vectors = np.load(args.text / "bank.npy").astype(np.float32) - space.sentence_mean()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sums, counts = np.zeros((len(names), 384)), np.zeros(len(names))
    for row, vector in zip(rows, vectors):
        if len(row["events"]) == 1:
            sums[names[row["events"][0]]] += vector
            counts[names[row["events"][0]]] += 1
    hearing = Hearing(tagger, order, torch.from_numpy(sums / np.maximum(counts, 1)[:, None]).float())
    rng = np.random.default_rng(0)
    torch.manual_seed(0)

    # Relation: learned from scenes of origins that the tagger has not heard.
    clues, kinds, kept, labels = [], [], [], []
    kind_of = {"single": 0, "overlap": 1, "three": 1, "sequence": 2, "silence": 3}
    fold_of = folds_of_files(Path("splits.csv"))
    whole = hearing.tagger
    with torch.inference_mode():
        for fold in range(FOLDS):
            clips = Clips(Path("clips"), silence, fold_of, fold)
            print("fold", fold, sum(map(len, clips.alone.values())), "clips", len(clips.pairs), "pairs", flush=True)
            hearing.tagger = TagHead(len(names), 768, len(fine)).eval()
            hearing.tagger.load_state_dict(torch.load(args.crossfit / f"{fold}.pt")["head"])
            for _ in range(args.scenes // 128 // FOLDS):
                scenes = [clips.scene(rng) for _ in range(128)]
                parts = hearing.tags(torch.stack([s[0] for s in scenes]))
                clues.append(hearing.clues(*parts))
                kept.append(tuple(p.half() for p in parts))
                kinds += [kind_of[s[1]["layout"]] for s in scenes]
                labels += [s[1] for s in scenes]
    hearing.tagger = whole.eval()
    clues, kinds = torch.cat(clues).clone(), torch.tensor(kinds)
    mean, scale = clues.mean(0), clues.std(0) + 1e-3
    optimiser = torch.optim.AdamW(hearing.relation.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(1500):
        pick = torch.randint(len(clues), (256,))
        loss = F.cross_entropy(hearing.relation((clues[pick] - mean) / scale), kinds[pick])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():  # the scale goes into the first layer
        first = hearing.relation[0]
        first.bias -= first.weight @ (mean / scale)
        first.weight /= scale
    guess = hearing.relation(clues).argmax(1)
    for kind, number in kind_of.items():
        print(kind, "taken for", torch.bincount(guess[kinds == number], minlength=4).tolist())
    print("relation on training scenes", (hearing.relation(clues).argmax(1) == kinds).float().mean().item(), flush=True)
    hearing.eval()
    audio = []
    plain = hearing.tags
    with torch.inference_mode():
        for parts in kept:
            hearing.tags = lambda _, parts=parts: tuple(p.float() for p in parts)
            audio.append(hearing(None))
        hearing.tags = plain
        np.save(args.output / "audio.npy", torch.cat(audio).half().numpy())
        (args.output / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
        for path in sorted(Path("scenes").glob("validation-*.npy")):
            features, own = load_scenes(Path("scenes"), path.name)
            rows = torch.cat([hearing(part) for part in features.split(128)])
            guess = torch.cat(
                [hearing.relation(hearing.clues(*hearing.tags(part))).argmax(1) for part in features.split(128)]
            )
            score = F.normalize(rows[:, 384:480], dim=-1) @ hearing.codes.T
            right = []
            for row, label in zip(score, own):
                truth = {names[e["name"]] for e in label["events"]} or {names["silence"]}
                right.append(set(row.topk(len(truth)).indices.tolist()) == truth)
            kind = np.mean([g == kind_of[o["layout"]] for g, o in zip(guess.tolist(), own)])
            print(path.stem, "events", round(float(np.mean(right)), 3), "relation", round(float(kind), 3), flush=True)
            folder = args.output / path.stem
            folder.mkdir(exist_ok=True)
            np.save(folder / "audio.npy", rows.half().numpy())
            (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    torch.save({"relation": hearing.relation.state_dict(), "sentences": hearing.sentences}, args.output / "hearing.pt")


if __name__ == "__main__":
    main()
