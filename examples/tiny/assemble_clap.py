"""Puts the CLAP together: network, taggers, joint space and text tower; trains what tells one event from several.

Training scenes are heard by taggers that never heard their recordings, so that what tells is honest.
"""

import argparse
import copy
import json
from pathlib import Path

import joint_space
import numpy as np
import torch
import train_text_tower
from captions import fine_or_none
from feature_scenes import WHOLE
from folds import FOLDS, folds_of_files
from sfx_features import BAND_LIMIT, load_network, load_scenes
from tagger_data import vocabulary
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextModelWithProjection

from diffusion_link_hf import EverydayClapEncoder
from diffusion_link_hf.models.everyday_clap import EverydayClapConfig, EverydayClapModel
from diffusion_link_hf.models.sound_tagger import SoundTagger
from diffusion_link_hf.models.tag_embedding import HeardEvents

FOLDER = Path("clap")
KIND = {"single": 0, "overlap": 1, "three": 1, "sequence": 2, "silence": 3}
STEPS, BATCH, RATE = 2000, 256, 3e-3


def joined(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """State dicts of taggers of one network each, which share their standardization, as one of several networks."""
    out = {name: value for name, value in states[0].items() if not name.startswith("fine.")}
    for number, state in enumerate(states[1:], 1):
        for name, value in state.items():
            part, *rest = name.split(".")
            if part in ("inner", "tags"):
                out[f"{part}.{number}.{rest[-1]}"] = value
    return out


def build(taggers: list[Path], pairs: Path, **config: float) -> EverydayClapModel:
    """All but what tells the relation."""
    names, fine_names = vocabulary()
    classes = json.loads(Path("classes.json").read_text())
    fine = [(name, f) for name, row in classes.items() for f in row["fine"] if fine_or_none(name, f)]
    states, pair = [torch.load(path) for path in taggers], torch.load(pairs)
    tower = ClapTextModelWithProjection.from_pretrained(train_text_tower.FOLDER)
    model = EverydayClapModel(
        EverydayClapConfig(
            list(names),
            [f for _, f in fine],
            num_networks=len(states),
            band_limit=BAND_LIMIT,
            pair_hidden_size=len(pair["inner.bias"]),
            text_config=tower.config,
            **config,
        )
    )
    model.network = load_network()
    model.tagger.load_state_dict(joined(states))
    model.pair_tagger.load_state_dict(pair)
    model.text.load_state_dict(tower.state_dict())
    rows = [fine_names[f] for _, f in fine]
    planes = torch.randn(model.space.planes.shape, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        model.fine.weight.copy_(states[0]["fine.0.weight"][rows])
        model.fine.bias.copy_(states[0]["fine.0.bias"][rows])
        model.space.sentences.copy_(torch.from_numpy(joint_space.class_sentences(list(names))))
        model.space.codes.copy_(torch.from_numpy(np.stack([joint_space.event_code(name) for name in names])))
        model.space.fine_codes.copy_(torch.from_numpy(np.stack([joint_space.event_code(*own) for own in fine])))
        model.space.fine_class.copy_(torch.tensor([names[name] for name, _ in fine]))
        model.space.planes.copy_(planes / planes.shape[0] ** 0.5)
    return model.eval().requires_grad_(False)


def with_fold_unheard(model: EverydayClapModel, fold: int) -> EverydayClapModel:
    """The same with taggers that never heard a fold of the origins."""
    other = copy.deepcopy(model)
    tagger = SoundTagger(len(model.config.tags), model.config.hidden_size)
    tagger.load_state_dict(joined([torch.load(Path("crossfit") / f"{fold}.pt")]))
    other.tagger = tagger.eval()
    other.pair_tagger.load_state_dict(torch.load(Path("pairs") / f"{fold}.pt"))
    return other.requires_grad_(False)


@torch.inference_mode()
def decide(model: EverydayClapModel, features: torch.Tensor) -> HeardEvents:
    """Of features (B, 53, 512)."""
    return model.decide(features, *model.probabilities(features))


def train_relation(model: EverydayClapModel) -> None:
    """On training scenes, each heard by taggers that never heard its recordings."""
    features = np.load(WHOLE, mmap_mode="r")
    rows = [json.loads(line) for line in WHOLE.with_suffix(".jsonl").read_text().splitlines()]
    fold_of = folds_of_files()
    # Only scenes that the taggers know nothing of show how doubt looks.
    unheard = [all(fold_of.get(event["file"], -1) >= 0 for event in row["events"]) for row in rows]
    folds = np.where(unheard, [row["fold"] for row in rows], -1)
    clues, kinds = [], []
    for fold in range(FOLDS):
        own = with_fold_unheard(model, fold)
        for part in np.array_split(np.flatnonzero(folds == fold), max(1, (folds == fold).sum() // 128)):
            clues.append(decide(own, torch.from_numpy(np.array(features[part])).float()).clues)
            kinds += [KIND[rows[k]["layout"]] for k in part]
    clues, kinds = torch.cat(clues).clone(), torch.tensor(kinds)
    mean, scale = clues.mean(0), clues.std(0) + 1e-3
    relation = model.space.relation.requires_grad_(True)
    optimizer = torch.optim.AdamW(relation.parameters(), lr=RATE, weight_decay=0.05)
    for _ in range(STEPS):
        pick = torch.randint(len(clues), (BATCH,))
        loss = F.cross_entropy(relation((clues[pick] - mean) / scale), kinds[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    relation.requires_grad_(False)
    relation.bias -= relation.weight @ (mean / scale)  # the standardization goes into the map
    relation.weight /= scale
    right = (relation(clues).argmax(1) == kinds).float().mean().item()
    print(f"relation told right on training scenes: {right:.3f}", flush=True)


@torch.inference_mode()
def judge(model: EverydayClapModel) -> None:
    """Prints how often the events of unheard scenes are right, told how many and not told."""
    names = {name: k for k, name in enumerate(model.config.tags)}
    for path in sorted(Path("unheard").glob("*.npy")):
        features, rows = load_scenes(path)
        told, both = [], []
        for part, own in zip(features.split(128), [rows[k : k + 128] for k in range(0, len(rows), 128)], strict=True):
            heard = decide(model, part.float())
            several = 1 - model.space.relation(heard.clues).softmax(-1)[:, 0] > model.config.pair_threshold
            single = heard.tags.argmax(1)
            for k, row in enumerate(own):
                truth = {names[event["name"]] for event in row["events"]} or {names["silence"]}
                pair = {int(heard.one[k]), int(heard.two[k])}
                told.append((pair if len(truth) > 1 else {int(single[k])}) == truth)
                both.append((pair if several[k] else {int(single[k])}) == truth)
        print(f"{path.stem}: events right {np.mean(told):.3f}, and how many {np.mean(both):.3f} (n {len(rows)})")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taggers", type=Path, nargs="+", default=[Path("taggers/0.pt"), Path("taggers/1.pt")])
    parser.add_argument("--pairs", type=Path, default=Path("pairs/all.pt"))
    parser.add_argument("--alone-weight", type=float, default=0.3)
    parser.add_argument("--pair-window-weight", type=float, default=0.8)
    parser.add_argument("--pair-threshold", type=float, default=0.7)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = {name: getattr(args, name) for name in ("alone_weight", "pair_window_weight", "pair_threshold")}
    model = build(args.taggers, args.pairs, **weights)
    train_relation(model)
    judge(model)
    tokenizer = AutoTokenizer.from_pretrained("tokenizer")
    EverydayClapEncoder(model, tokenizer).save_pretrained(FOLDER, dtype=torch.float16, include_base=True)


if __name__ == "__main__":
    main()
