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

STEPS, BATCH, RATE, SCALE = 4000, 128, 1.5e-3, 25.0


def build_tower(vocabulary: int) -> ClapTextModelWithProjection:
    """RoBERTa of three layers, 192 wide, with CLAP's projection to 512: 2.5 M parameters."""
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=vocabulary, hidden_size=192, num_hidden_layers=3, num_attention_heads=4, intermediate_size=768,
            max_position_embeddings=80, projection_dim=512, pad_token_id=1, bos_token_id=0, eos_token_id=2,
            type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


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
    """Participation ratio of the spectrum of centred rows."""
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
        "cosine_bank": F.cosine_similarity(rows, target)[~people].mean().item(),
        "own_target_first": hits.float().mean().item(),
        "effective_dimension": effective_dimension(rows),
        "effective_dimension_targets": effective_dimension(target),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/everyday/pen/tokenizer"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/clap_text"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    train, val = text_data.load("train"), text_data.load("val")
    tower = build_tower(len(tokenizer))
    print(sum(p.numel() for p in tower.parameters()) / 1e6, "M parameters", flush=True)
    optimiser = torch.optim.AdamW(tower.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=args.steps, pct_start=0.06)
    args.output.mkdir(parents=True, exist_ok=True)
    checkpoint, step = args.output / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        tower.load_state_dict(state["tower"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        step = state["step"]
    started = time.time()
    targets = torch.from_numpy(train.targets)
    while step < args.steps:
        rng = np.random.default_rng([args.seed, step])
        pool = text_data.balanced_rows(train, rng, BATCH, 0.55)
        tokens = tokenizer(
            [varied(train.texts[i], rng) for i in pool], return_tensors="pt", padding=True, truncation=True
        )
        tower.train()
        with torch.autocast("cpu", torch.bfloat16):
            embeds = tower(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).text_embeds
        rows, wanted = F.normalize(embeds.float(), dim=-1), targets[pool]
        labels = torch.arange(len(pool))
        logits = SCALE * rows @ wanted.T
        loss = (1 - (rows * wanted).sum(1)).mean() * 4 + 0.5 * F.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        step += 1
        if step % 100 == 0:
            print(step, round(loss.item(), 4), f"{time.time() - started:.0f} s", flush=True)
        if step % 500 == 0:
            print(report(tower, tokenizer, val), flush=True)
            torch.save(
                {
                    "tower": tower.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step,
                },
                checkpoint,
            )
            tower.save_pretrained(args.output)
            tokenizer.save_pretrained(args.output)
    (args.output / "training.json").write_text(json.dumps(report(tower, tokenizer, val), indent=2) + "\n")


if __name__ == "__main__":
    main()
