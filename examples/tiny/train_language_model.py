"""Pre-trains the small LLaMA of the tiny pipeline on captions alone: the base model that the decoder stage adapts."""

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from captions import random_caption
from tokenizer import build_tokenizer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

STEPS, BATCH, LEARNING_RATE = 1500, 64, 2e-3
HELD_OUT_SEED = 1_000_003  # a stream of captions that no training seed draws


def build_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A LLaMA of 4 layers, 192 wide: 2 M parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
            max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, pad_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Endless fresh captions: input_ids and attention_mask, (B, L) int64, each row BOS … EOS."""
    rng = np.random.default_rng(seed)
    while True:
        yield tokenizer([random_caption(rng) for _ in range(size)], return_tensors="pt", padding=True)


def next_token_loss(model: LlamaForCausalLM, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy over the tokens of a batch, in nats; padding does not count."""
    logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], use_cache=False).logits[:, :-1]
    targets = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> float:
    """Trains in place.

    Returns:
        Loss on captions drawn from another stream, nats per token.
    """
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.06)
    model.train()
    source = batches(tokenizer, seed, BATCH)
    for _ in (bar := tqdm(range(steps), desc="language model", mininterval=5)):
        loss = next_token_loss(model, next(source))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()
    with torch.no_grad():
        return next_token_loss(model, next(batches(tokenizer, HELD_OUT_SEED, 512))).item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_language_model(tokenizer)
    started = time.perf_counter()
    loss = train(model, tokenizer, args.steps, args.seed)
    logger.info("%d parameters, %.3f nats per token, %.0f s", model.num_parameters(), loss, time.perf_counter() - started)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
