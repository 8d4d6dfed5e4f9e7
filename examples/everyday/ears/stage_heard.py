"""Trains what tells one event from several, and writes the embeddings of training and validation scenes for the pen.

    python stage_heard.py --ears work/three --pen ../pen --output heard

Training scenes are heard by tag heads that never heard their origins (the pen's crossfit.py), so that the pen learns
from the doubt that it will meet. Writes audio.npy (N, 512) and labels.jsonl, the same of each validation set below it,
and space.pt for assemble.py.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from ears_head import WINDOW_STEPS, WINDOW_STRIDE, load_tag_head
from everyday_clap import RELATIONS, JointSpace
from torch.nn import functional as F
from train_tagger import load_scenes, silence_features, vocabulary

KIND = {"single": 0, "overlap": 1, "three": 1, "sequence": 2, "silence": 3}


@torch.inference_mode()
def hear(head, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `EverydayClap.probabilities`."""
    features = features.float()
    clip, windows = head(features)
    loud = (features - head.silence).abs().mean(-1).unfold(1, WINDOW_STEPS, WINDOW_STRIDE).mean(-1)
    return clip.softmax(-1), windows.softmax(-1), loud


def class_sentences(pen: Path, names: dict[str, int]) -> torch.Tensor:
    """(C, 384) mean of the unit, centered sentence embeddings of each class's captions."""
    import space

    rows = [json.loads(line) for line in (pen / "text" / "bank.jsonl").read_text().splitlines()]
    vectors = np.load(pen / "text" / "bank.npy").astype(np.float32) - space.sentence_mean()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sums, counts = np.zeros((len(names), 384)), np.zeros(len(names))
    for row, vector in zip(rows, vectors, strict=True):
        if len(row["events"]) == 1:
            sums[names[row["events"][0]]] += vector
            counts[names[row["events"][0]]] += 1
    return torch.from_numpy(sums / np.maximum(counts, 1)[:, None]).float()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ears", type=Path, default=Path("work/three"))
    parser.add_argument("--pen", type=Path, default=Path("../pen"))
    parser.add_argument("--clips", type=Path, default=Path("clips"))
    parser.add_argument("--scenes", type=Path, default=Path("scenes"), help="features of the validation scenes")
    parser.add_argument("--count", type=int, default=24_000)
    parser.add_argument("--output", type=Path, default=Path("heard"))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sys.path.insert(0, str(args.pen))
    import space
    from compose_ears import Clips
    from crossfit import FOLDS, folds_of_files

    args.output.mkdir(exist_ok=True)
    names, _ = vocabulary(Path("classes.json"))
    head = load_tag_head(torch.load(args.ears / "tagger.pt")["head"]).eval()
    joint = JointSpace(len(names), names["silence"], space.ENERGY)
    joint.sentences.copy_(class_sentences(args.pen, names))
    joint.codes.copy_(torch.from_numpy(np.stack([space.code(n, space.EVENTS) for n in names])))
    joint.orders.copy_(torch.from_numpy(np.stack([space.code(n, space.ORDER) for n in names])))
    silence = silence_features(args.ears / "network.safetensors")
    fold_of, rng, kept, labels = folds_of_files(Path("splits.csv")), np.random.default_rng(0), [], []
    for fold in range(FOLDS):
        clips = Clips(args.clips, silence, fold_of, fold)
        deaf = load_tag_head(torch.load(args.pen / "crossfit" / f"{fold}.pt")["head"]).eval()
        for _ in range(args.count // 128 // FOLDS):
            scenes = [clips.scene(rng) for _ in range(128)]
            kept.append(tuple(p.half() for p in hear(deaf, torch.stack([s[0] for s in scenes]))))
            labels += [s[1] for s in scenes]
        print(f"fold {fold}: {len(labels)} scenes", flush=True)
    clues = torch.cat([joint.clues(*(p.float() for p in parts)) for parts in kept])
    kinds = torch.tensor([KIND[row["layout"]] for row in labels])
    mean, scale = clues.mean(0), clues.std(0) + 1e-3
    optimizer = torch.optim.AdamW(joint.relation.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(1500):
        pick = torch.randint(len(clues), (256,))
        loss = F.cross_entropy(joint.relation((clues[pick] - mean) / scale), kinds[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    joint.requires_grad_(False)
    first = joint.relation[0]  # the standardization goes into the first layer
    first.bias -= first.weight @ (mean / scale)
    first.weight /= scale
    quiet = torch.tensor([row["layout"] == "silence" for row in labels])
    parts = [tuple(p.float() for p in part) for part in kept]
    audio = torch.cat([joint(*p, s) for p, s in zip(parts, quiet.split(128), strict=True)])
    np.save(args.output / "audio.npy", audio.half().numpy())
    (args.output / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    torch.save({"relation": joint.relation.state_dict(), "sentences": joint.sentences}, args.output / "space.pt")
    for path in sorted(args.scenes.glob("validation-*.npy")):
        features, own = load_scenes(args.scenes, path.name)
        silent = torch.tensor([row["loudest_db"] < -62 for row in own])
        heard = [hear(head, part) for part in features.split(128)]
        rows = torch.cat([joint(*p, s) for p, s in zip(heard, silent.split(128), strict=True)])
        guess = torch.cat([joint.relation(joint.clues(*p)).argmax(1) for p in heard])
        guess[silent] = 3
        scores, right = F.normalize(rows[:, 384:480], dim=-1) @ joint.codes.T, []
        for score, row in zip(scores, own, strict=True):
            truth = {names[event["name"]] for event in row["events"]} or {names["silence"]}
            right.append(set(score.topk(len(truth)).indices.tolist()) == truth)
        right = np.array(right)
        kind = np.array([g == KIND[row["layout"]] for g, row in zip(guess.tolist(), own, strict=True)])
        taken = dict(zip(RELATIONS, torch.bincount(guess, minlength=4).tolist(), strict=True))
        print(f"{path.stem}: events {right.mean():.3f} ± {(right.mean() * (1 - right.mean()) / len(right)) ** 0.5:.3f}, "
              f"relation {kind.mean():.3f}, both {(right & kind).mean():.3f}, taken for {taken}", flush=True)  # fmt: skip
        folder = args.output / path.stem
        folder.mkdir(exist_ok=True)
        np.save(folder / "audio.npy", rows.half().numpy())
        (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))


if __name__ == "__main__":
    main()
