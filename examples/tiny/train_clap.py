"""Trains the small CLAP of the tiny pipeline: first the audio tower as a tagger, then both towers by contrast."""

import argparse
import copy
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from captions import describe
from events import LABELS
from scenes import MelBank, Recordings, Scene, SceneMixer, judged_scenes, load_recordings, synthesized
from tokenizer import build_tokenizer
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from diffusion_link_hf.models.log_mel import ClapLogMel

logger = logging.getLogger(__name__)

TAGGER_STEPS, TAGGER_BATCH, TAGGER_LR = 3600, 32, 1.5e-3
CONTRAST_STEPS, CONTRAST_BATCH, CONTRAST_LR = 500, 64, 1.5e-3
AUDIO_LR_FACTOR = 0.3  # of the contrastive stage, for the audio tower that already hears
FIRST_SCALE, LAST_SCALE = 15.0, 60.0  # logit scale; a high one lets paraphrases differ without losing their meaning
EMA_DECAY = 0.99
CONTRAST_COUNTS = {1: 0.5, 2: 0.4, 3: 0.1}  # half of the scenes single events, or captions name too many


def build_model(vocab_size: int) -> ClapModel:
    """A `ClapModel` of 2.5 M parameters: HTSAT in four stages, two text layers, 512-wide joint space.

    Patches of 16 × 16 overlap by half. Patches side by side train twice as fast; trained on two folds and judged on a
    third, 1,500 steps, they named .300 of overlapped and .497 of sequential pairs, against .333 and .537 (± .03).
    """
    config = ClapConfig(
        audio_config={
            "spec_size": 256, "num_mel_bins": 64, "window_size": 4, "patch_size": 16, "patch_stride": [8, 8],
            "patch_embeds_hidden_size": 24, "depths": [1, 1, 2, 2], "num_attention_heads": [2, 3, 6, 12],
            "hidden_size": 192, "projection_dim": 512, "drop_path_rate": 0.0, "enable_fusion": False,
        },
        text_config={
            "vocab_size": vocab_size, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 512, "max_position_embeddings": 80, "projection_dim": 512, "pad_token_id": 1,
            "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1,
        },
        projection_dim=512,
    )  # fmt: skip
    return ClapModel(config)


def freeze_input_norm(model: ClapModel, mixer: SceneMixer, rng: np.random.Generator, scenes: int = 256) -> None:
    """Sets the input BatchNorm to the statistics of the data and stops its training.

    Left trainable it sends gradients through the patch convolution and the bicubic resize: half of a step's time.
    """
    features, _ = mixer.batch(scenes, rng)
    norm = model.audio_model.audio_encoder.batch_norm
    with torch.no_grad():
        norm.running_mean.copy_(features.mean((0, 1, 2)))
        norm.running_var.copy_(features.var((0, 1, 2)))
    norm.requires_grad_(False)
    norm.eval()


def train_mode(model: ClapModel) -> None:
    model.train()
    model.audio_model.audio_encoder.batch_norm.eval()


class ExponentialAverage:
    """Moving average of a module's parameters, kept as a second module."""

    def __init__(self, module: nn.Module, decay: float = EMA_DECAY):
        self.average, self.decay = copy.deepcopy(module).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        torch._foreach_lerp_(list(self.average.parameters()), list(module.parameters()), 1 - self.decay)


def tagging_loss(logits: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """3 · binary cross-entropy + 0.5 · soft cross-entropy, both with label smoothing .02. (B, C), (B, C) → ()."""
    smooth = tags * 0.98 + 0.02 * tags.mean(1, keepdim=True)
    binary = F.binary_cross_entropy_with_logits(logits, smooth)
    soft = F.cross_entropy(logits, smooth / smooth.sum(1, keepdim=True))
    return 3 * binary + 0.5 * soft


def contrastive_loss(audio: torch.Tensor, text: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
    """Symmetric cross-entropy with several positives per row.

    Args:
        audio, text: (B, D) unit rows.
        targets: (B, B) non-negative affinities; captions of the same meaning are positives of each other, which
            ``ClapModel``'s own ``return_loss`` would count as negatives.
        scale: logit scale (inverse temperature).
    """
    logits = scale * audio @ text.T
    return (F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))
            + F.cross_entropy(logits.T, targets.T / targets.T.sum(1, keepdim=True))) / 2  # fmt: skip


def affinities(scenes: list[Scene]) -> torch.Tensor:
    """(B, B): 1 for equal meaning, 0.3 for the same events in the same relation heard otherwise, else 0."""

    def outline(scene: Scene):
        labels = [event.label for event in scene.events]
        return scene.relation, tuple(labels if scene.relation == "sequence" else sorted(labels))

    out = torch.zeros(len(scenes), len(scenes))
    for i, a in enumerate(scenes):
        for j, b in enumerate(scenes):
            out[i, j] = 1.0 if a.meaning == b.meaning else 0.3 if outline(a) == outline(b) else 0.0
    return out


def _optimizer(groups: list[dict], steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    rates = [group["lr"] for group in groups]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.06)


def train_tagger(model: ClapModel, head: nn.Module, mixer: SceneMixer, rng: np.random.Generator, steps: int) -> None:
    """Stage 1: the audio tower learns which events a scene holds; leaves the averages in ``model`` and ``head``."""
    tower = nn.ModuleDict({"audio": model.audio_model, "head": head})
    trained = [p for p in tower.parameters() if p.requires_grad]
    optimizer, schedule = _optimizer([{"params": trained, "lr": TAGGER_LR}], steps)
    average = ExponentialAverage(tower)
    for _ in (bar := tqdm(range(steps), desc="tagger", mininterval=5)):
        features, scenes = mixer.batch(TAGGER_BATCH, rng)
        tags = torch.from_numpy(np.stack([scene.tags for scene in scenes]))
        train_mode(model)
        loss = tagging_loss(head(model.audio_model(features).pooler_output), tags)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        average.update(tower)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    tower.load_state_dict(average.average.state_dict())


def train_contrast(
    model: ClapModel, head: nn.Module, mixer: SceneMixer, tokenizer, rng: np.random.Generator, steps: int
) -> None:
    """Stage 2: captions meet their scenes; the tagging loss stays, so that the tower does not forget to hear."""
    joint_head = nn.Linear(512, len(LABELS))  # of both modalities, so that an event has one direction in the space
    audio = [p for p in model.audio_model.parameters() if p.requires_grad]
    rest = [*model.text_model.parameters(), *model.text_projection.parameters(), *model.audio_projection.parameters()]
    rest += [*head.parameters(), *joint_head.parameters()]
    optimizer, schedule = _optimizer(
        [{"params": audio, "lr": CONTRAST_LR * AUDIO_LR_FACTOR}, {"params": rest, "lr": CONTRAST_LR}], steps
    )
    both = nn.ModuleDict({"model": model, "head": head})
    average = ExponentialAverage(both)
    for step in (bar := tqdm(range(steps), desc="contrast", mininterval=5)):
        features, scenes = mixer.batch(CONTRAST_BATCH, rng)
        captions = [describe(scene.events, scene.relation, rng) for scene in scenes]
        tags = torch.from_numpy(np.stack([scene.tags for scene in scenes]))
        tokens = tokenizer(captions, return_tensors="pt", padding=True)
        train_mode(model)
        pooled = model.audio_model(features).pooler_output
        audio_embeds = F.normalize(model.audio_projection(pooled), dim=-1)
        text_embeds = F.normalize(
            model.text_projection(model.text_model(tokens.input_ids, tokens.attention_mask).pooler_output), dim=-1
        )
        scale = FIRST_SCALE * (LAST_SCALE / FIRST_SCALE) ** min(1.0, step / (0.7 * steps))
        loss = contrastive_loss(audio_embeds, text_embeds, affinities(scenes), scale)
        loss = loss + 2 * F.binary_cross_entropy_with_logits(head(pooled), tags)
        for embeds in (audio_embeds, text_embeds):
            loss = loss + F.binary_cross_entropy_with_logits(joint_head(10 * embeds), tags)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*audio, *rest], 1.0)
        optimizer.step()
        schedule.step()
        average.update(both)
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    both.load_state_dict(average.average.state_dict())
    with torch.no_grad():
        model.logit_scale_a.fill_(float(np.log(LAST_SCALE)))
        model.logit_scale_t.fill_(float(np.log(LAST_SCALE)))


@torch.no_grad()
def tagging_accuracy(
    model: ClapModel, head: nn.Module, recordings: Recordings, n: int = 200, seed: int = 7
) -> dict[str, float]:
    """Share of test scenes whose k most probable tags are exactly the k events in them."""
    model.eval()
    front_end, result = ClapLogMel(), {}
    for relation in ("single", "overlap", "sequence"):
        scenes, right = judged_scenes(recordings, relation, n, seed), 0
        for k in range(0, len(scenes), 32):
            part = scenes[k : k + 32]
            features = front_end(torch.from_numpy(np.stack([samples for samples, _ in part])))
            logits = head(model.audio_model(features).pooler_output)
            for row, (_, events) in zip(logits, part, strict=True):
                right += {LABELS[i] for i in row.topk(len(events)).indices.tolist()} == events
        result[relation] = right / len(scenes)
    return result


def save_encoder(model: ClapModel, tokenizer, folder: Path) -> None:
    """Writes the folder that `ClapEncoder.from_pretrained` reads: model, tokenizer, feature extractor."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14_000).save_pretrained(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv: file_name, label, fold")
    parser.add_argument("--folds", type=int, nargs="+", required=True, help="folds to train on")
    parser.add_argument("--judge-folds", type=int, nargs="*", default=[], help="folds to judge the tagger on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tagger-steps", type=int, default=TAGGER_STEPS)
    parser.add_argument("--contrast-steps", type=int, default=CONTRAST_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    recorded = load_recordings(args.data, set(args.folds))
    bank = MelBank(Recordings({**recorded.by_label, **synthesized(args.seed).by_label}))
    judged = load_recordings(args.data, set(args.judge_folds)) if args.judge_folds else None
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer))
    head = nn.Linear(model.config.audio_config.hidden_size, len(LABELS))
    mixer = SceneMixer(bank)
    freeze_input_norm(model, mixer, rng)
    report: dict = {"folds": args.folds, "judge_folds": args.judge_folds, "parameters": model.num_parameters()}

    started = time.perf_counter()
    train_tagger(model, head, mixer, rng, args.tagger_steps)
    report["tagger_seconds"] = round(time.perf_counter() - started)
    if judged:
        report["tagger"] = tagging_accuracy(model, head, judged)
        logger.info("tagger, judged: %s", report["tagger"])

    started = time.perf_counter()
    mixer = SceneMixer(bank, CONTRAST_COUNTS)
    train_contrast(model, head, mixer, tokenizer, rng, args.contrast_steps)
    report["contrast_seconds"] = round(time.perf_counter() - started)
    if judged:
        report["contrast"] = tagging_accuracy(model, head, judged)
        logger.info("after contrast, judged: %s", report["contrast"])
    save_encoder(model, tokenizer, args.output)
    (args.output / "training.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
