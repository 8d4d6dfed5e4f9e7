"""Trains the text tower: captions to their places in the joint space, distilled from MiniLM and the events named."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import text_data
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextConfig, ClapTextModelWithProjection

BATCH, RATE, SCALE = 128, 1.5e-3, 25.0
HUMAN_SHARE = 0.45  # of a batch
FOLDER = Path("text_tower")


def build_tower(vocabulary: int) -> ClapTextModelWithProjection:
    """RoBERTa of three layers, 192 wide, with CLAP's projection to 512: 2.5 M parameters."""
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=vocabulary,
            hidden_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=768,
            max_position_embeddings=80,
            projection_dim=512,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def embed(tower, tokenizer, texts: list[str], batch: int = 256) -> torch.Tensor:
    """(N, 512) unit rows."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.empty(len(texts), 512)
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            rows = order[first : first + batch]
            tokens = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, truncation=True)
            out[rows] = forward(tower, tokens)
    return out


def forward(tower, tokens) -> torch.Tensor:
    return F.normalize(
        tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds, dim=-1
    )


def varied(text: str, rng: np.random.Generator) -> str:
    """Case and full stop as users write them."""
    if rng.random() < 0.2:
        text = text[:1].lower() + text[1:]
    return text + "." if rng.random() < 0.15 else text


def effective_dimension(rows: torch.Tensor) -> float:
    """Participation ratio of the spectrum of centered rows."""
    values = torch.linalg.eigvalsh(torch.cov(rows.double().T))
    return float(values.sum() ** 2 / (values**2).sum())


def report(tower, tokenizer, val: text_data.Captions) -> dict[str, float]:
    tower.eval()
    rows = embed(tower, tokenizer, val.texts)
    target = torch.from_numpy(val.targets)
    people = torch.from_numpy(val.is_human)
    hits = (rows @ target.T).argmax(1) == torch.arange(len(rows))
    return {
        "cosine_human": F.cosine_similarity(rows, target)[people].mean().item(),
        "cosine_made": F.cosine_similarity(rows, target)[~people].mean().item(),
        "own_target_first": hits.float().mean().item(),
        "effective_dimension": effective_dimension(rows),
        "effective_dimension_targets": effective_dimension(target),
    }


def train(tower, tokenizer, train: text_data.Captions, val: text_data.Captions, steps: int, seed: int) -> None:
    """Cosine to the targets, and each caption's own target first among those of its batch; goes on where it stopped."""
    optimizer = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.06)
    parts = {"tower": tower, "optimizer": optimizer, "schedule": schedule}
    checkpoint, step = FOLDER / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        step = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    targets, started = torch.from_numpy(train.targets), time.perf_counter()
    while step < steps:
        rng = np.random.default_rng([seed, step])
        pick = text_data.balanced_rows(train, rng, BATCH, HUMAN_SHARE)
        texts = [varied(train.texts[i], rng) for i in pick]
        tower.train()
        with torch.autocast("cpu", torch.bfloat16):
            rows = forward(tower, tokenizer(texts, return_tensors="pt", padding=True, truncation=True))
        rows, wanted = rows.float(), targets[pick]
        cosine = (rows * wanted).sum(1)
        loss = 4 * (1 - cosine).mean() + 0.5 * F.cross_entropy(SCALE * rows @ wanted.T, torch.arange(len(pick)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        if step % 400 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, checkpoint)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of audiocaps/")
    parser.add_argument("--steps", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained("tokenizer")
    captions, val = text_data.load("train", args.data), text_data.load("val", args.data)
    tower = build_tower(len(tokenizer))
    FOLDER.mkdir(exist_ok=True)
    train(tower, tokenizer, captions, val, args.steps, args.seed)
    found = report(tower, tokenizer, val)
    print(json.dumps(found))
    tower.save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)
    (FOLDER / "training.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
