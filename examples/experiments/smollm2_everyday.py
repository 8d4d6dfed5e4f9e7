"""The paper's protocol in small, with a pretrained language model: SmolLM2 captions embedded scenes of everyday sounds.

Takes embeddings of scenes that a CLAP has heard, and makes embedding caches of them. Then:

- a zero-shot decoder learns from text embeddings alone, of AudioCaps captions and of the captions of training scenes;
- for each seed, each bridge is fitted on the training scenes, with one caption of each;
- from that decoder, for each bridge and seed, one goes on with text through the bridge (zero-shot), and one with the
  training scenes through it (supervised); "none" goes on without a bridge;
- all of them caption the same held-out scenes.

A folder of scenes holds ``audio.npy``, (N, D) embeddings, and ``captions.jsonl`` with N lines {"captions": ["…", …]}.
The text tower is a `ClapTextModelWithProjection` with its tokenizer, of the same CLAP. AudioCaps is a folder with its
train.csv. Writes report.md, results.json and captions.jsonl. Started again, the command goes on where it was stopped.
"""

import argparse
import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextModelWithProjection

from diffusion_link_hf import EmbeddingCache, train_bridge
from diffusion_link_hf.analysis.bootstrap import GroupBootstrap
from diffusion_link_hf.analysis.captioning import (
    CaptionResult,
    EventAccuracy,
    HeldOut,
    check_scoring,
    installed_metrics,
    measure_captions,
)
from diffusion_link_hf.analysis.event_words import EventWords
from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.experiments.caption_runs import CaptioningRecipe, CaptionRuns, plan_runs
from diffusion_link_hf.experiments.captioning import describe_caches
from diffusion_link_hf.experiments.choices import Budget, DataChoice
from diffusion_link_hf.reports.captioning import captioning_document, captioning_markdown, write_captions
from diffusion_link_hf.reports.markdown import write_document
from diffusion_link_hf.training.arguments import DecoderTrainingArguments
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.parts import locate_base

METHODS = ("none", "centering", "ridge", "diffusion-bridge", "diffusion-link", "diffusion-link-shallow")
DECODER = {
    "instruction": "Describe the sound:",
    "projector": {"num_prefix_tokens": 1, "num_layers": 1},
    "lora": {"r": 8, "lora_alpha": 8, "target_modules": "all-linear"},
    "batch_size": 16,
    "max_grad_norm": 1.0,
    "mixed_precision": "bf16",
    "base_dtype": "bfloat16",
    "include_base": False,
    "checkpoint_every": 20,
    "log_every": 10,
}


@dataclass(frozen=True)
class WarmRecipe(CaptioningRecipe):
    """Decoders that go on from one that has learned from text without a bridge.

    Attributes:
        text: folder of that decoder.
    """

    text: Path = Path()

    def arguments(self, mode: str, seed: int, cache: Path, output: Path, link: Path | None) -> DecoderTrainingArguments:
        return replace(super().arguments(mode, seed, cache, output, link), init_from=str(self.text))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", type=Path, required=True, metavar="FOLDER", help="training scenes")
    add("--test", type=Path, required=True, metavar="FOLDER", help="held-out scenes")
    add("--text-tower", type=Path, required=True, metavar="FOLDER", help="of the CLAP that heard the scenes")
    add("--audiocaps", type=Path, required=True, metavar="FOLDER", help="with train.csv")
    add("--events", type=Path, required=True, help='JSON {"label": ["stem", …]}: which words name an event')
    add("--base-model", default="smollm2", metavar="LM", help="default: smollm2")
    add("--methods", nargs="+", default=list(METHODS), metavar="NAME", help=f"default: {' '.join(METHODS)}")
    add("--modes", nargs="+", default=["zeroshot", "supervised"], metavar="MODE", help="default: both")
    add("--seeds", nargs="+", type=int, default=[0, 1], metavar="N", help="default: 0 1")
    add("--text-steps", type=int, default=250, metavar="N", help="of the decoder that learns from text (default: 250)")
    add("--steps", type=int, default=25, metavar="N", help="of each decoder after that (default: 25)")
    add("--bridge-steps", type=int, default=300, metavar="N", help="of each trained bridge (default: 300)")
    add("--scenes", type=int, default=8000, metavar="N", help="training scenes, and as many AudioCaps captions")
    add("--captioned", type=int, default=160, metavar="N", help="held-out scenes (default: 160)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the caches, the runs and the report")
    args = parser.parse_args(argv)
    train, test = make_caches(args)
    run_protocol(args, train, test)
    print(args.output / "report.md")


def run_protocol(args: argparse.Namespace, train: Path, test: Path) -> None:
    """Train, caption, score and write what is not there yet."""
    cache, captioned = EmbeddingCache.load(train), EmbeddingCache.load(test)
    held_out, pairs = HeldOut.from_cache(captioned), EmbeddingPairs.from_cache(cache)
    names, missing = installed_metrics()
    check_scoring(held_out.references, names)
    budget = Budget(steps=args.bridge_steps)
    fields = {**DECODER, "max_steps": args.steps, "warmup_steps": 3, "learning_rate": 1e-3}
    recipe = WarmRecipe(
        args.base_model,
        bridge=asdict(budget),
        decoder=fields,
        generation={"max_new_tokens": 20},
        text=args.output / "text",
    )

    def fit(method: str, seed: int, output: Path) -> None:
        train_bridge(method, pairs, output, seed=seed, validation_fraction=0.0, progress=False, **asdict(budget))

    runs = CaptionRuns(args.output / "runs", recipe, fit, keep=True)
    base = locate_base(args.base_model, None).fingerprint
    runs.record({**recipe.conditions(cache, captioned, base), "text_steps": args.text_steps})
    if not (recipe.text / "metrics.json").is_file():
        learn_from_text(args, train, recipe.text)
    finished = []
    for run in plan_runs(args.methods, args.modes, args.seeds):
        print(run.name, flush=True)
        done = runs.is_finished(run)
        finished.append(runs.finished(run, len(held_out)) if done else runs.do(run, train, held_out))
    boot = GroupBootstrap(np.arange(len(held_out)), 1000, 0)
    accuracy = EventAccuracy(EventWords.load(args.events), held_out.references)
    results: dict[str, dict[str, list]] = {}
    for found in finished:
        figures = measure_captions(found.captions, runs.scores(found, held_out.references, names), boot, accuracy)
        results.setdefault(found.run.mode, {}).setdefault(found.run.method, []).append(figures)
    document = captioning_document(
        {
            mode: {method: CaptionResult(tuple(figures)) for method, figures in methods.items()}
            for mode, methods in results.items()
        },
        finished,
        describe_caches(DataChoice(train, test=test), cache, captioned, held_out),
        {
            "base_model": args.base_model,
            "base_was_trained": False,
            "instruction": DECODER["instruction"],
            "bridge": recipe.bridge,
            "decoder": recipe.decoder,
            "generation": recipe.generation,
        },
        {"resamples": 1000, "seed": 0, "metrics": names, "missing": missing, "events": accuracy.counts},
        held_out,
    )
    write_document(document, captioning_markdown(document), args.output)
    write_captions(finished, held_out, args.output / "captions.jsonl")


def learn_from_text(args: argparse.Namespace, cache: Path, output: Path) -> None:
    """The zero-shot decoder that all others go on from."""
    budget = {"max_steps": args.text_steps, "warmup_steps": args.text_steps // 20, "learning_rate": 2e-3}
    fixed = {"mode": "zeroshot", "validation_fraction": 0.0, "report_to": "none", "base_model": args.base_model}
    train_decoder(DecoderTrainingArguments(cache=str(cache), output=str(output), **DECODER, **budget, **fixed))


def make_caches(args: argparse.Namespace) -> tuple[Path, Path]:
    """Write the caches of training and held-out scenes where they are not there yet; their folders."""
    train, test = args.output / "train", args.output / "test"
    if (train / "manifest.json").is_file() and (test / "manifest.json").is_file():
        return train, test
    embed = TextTower(args.text_tower)
    audio, captions = read_scenes(args.train, args.scenes, seed=0)
    chance = np.random.default_rng(0)
    captions = [[own[int(chance.integers(len(own)))]] for own in captions]  # one each, as in AudioCaps
    written = read_audiocaps(args.audiocaps / "train.csv", args.scenes, seed=0)
    scene_cache(embed, audio, captions, written, "everyday scenes and AudioCaps captions").save(train)
    audio, captions = read_scenes(args.test, args.captioned, seed=0)
    scene_cache(embed, audio, captions, [], "held-out everyday scenes").save(test)
    return train, test


class TextTower:
    """Embeds captions: N texts → (N, D) unit rows."""

    def __init__(self, folder: Path):
        self.model = ClapTextModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, texts: list[str], batch_size: int = 256) -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # so that little is padded
        rows = []
        for first in range(0, len(order), batch_size):
            batch = [texts[row] for row in order[first : first + batch_size]]
            tokens = self.tokenizer(batch, return_tensors="pt", padding=True, truncation=True)
            embeds = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds
            rows.append(F.normalize(embeds, dim=-1))
        return torch.cat(rows)[torch.tensor(order).argsort()].clone()


def read_scenes(folder: Path, count: int, seed: int) -> tuple[torch.Tensor, list[list[str]]]:
    """(N, D) unit rows and the captions of ``count`` scenes by chance, those without an event left out."""
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row, line in enumerate(lines) if line.get("events", True)]
    rows = np.random.default_rng(seed).permutation(rows)[:count].tolist()
    audio = torch.from_numpy(np.load(folder / "audio.npy")[rows]).float()
    return F.normalize(audio, dim=-1), [lines[row]["captions"] for row in rows]


def read_audiocaps(path: Path, count: int, seed: int) -> list[str]:
    """``count`` captions by chance."""
    with open(path, encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    return [captions[row] for row in np.random.default_rng(seed).permutation(len(captions))[:count]]


def scene_cache(
    embed: TextTower, audio: torch.Tensor, captions: list[list[str]], texts_alone: list[str], name: str
) -> EmbeddingCache:
    """A cache of scenes with their captions, and of captions without a scene."""
    flat = [caption for own in captions for caption in own]
    owners = [row for row, own in enumerate(captions) for _ in own] + [-1] * len(texts_alone)
    texts = flat + texts_alone
    names = [f"scene {row}" for row in range(len(audio))]
    return EmbeddingCache(audio, embed(texts), torch.tensor(owners), texts, names, {"data": name})


if __name__ == "__main__":
    main()
