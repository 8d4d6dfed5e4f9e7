"""Trains the pen: a small LLaMA behind a soft prefix, on captions' own places in the joint space, then on heard scenes."""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import text_data
import torch
from diffusion_link_hf.decoder import CaptionDecoder
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from diffusion_link_hf.models.prefix_projector import PrefixProjector

BATCH, RATE, PREFIX = 64, 2e-3, 6
GROUP, LONGEST = 8, 32  # batches drawn together; tokens
NOISE = 0.045  # most, per dimension, of unit rows 512 wide


def build_language_model(vocabulary: int) -> LlamaForCausalLM:
    """A LLaMA of four layers, 256 wide, with tied embeddings: 4.1 M parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0, pad_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


class Pen(nn.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.decoder = CaptionDecoder(build_language_model(len(tokenizer)), tokenizer)
        self.projector = PrefixProjector(512, 256, PREFIX, num_layers=2)

    def forward(self, embeds: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return self.decoder(self.projector(embeds), *self.decoder.tokenize(captions)).loss

    @torch.no_grad()
    def write(self, embeds: torch.Tensor, **options) -> list[str]:
        return [own[0] for part in embeds.split(128) for own in self.decoder.generate(self.projector(part), **options)]


def noised(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Unit rows, moved by Gaussian noise whose size differs from row to row."""
    size = NOISE * torch.rand(len(rows), 1, generator=generator)
    return F.normalize(rows + size * torch.randn(rows.shape, generator=generator), dim=-1)


def load_link(folder: Path):
    """A trained bridge and the scheduler beside its folder."""
    from diffusers import DDIMScheduler
    from diffusion_link_hf.models.bridge import BridgeModel

    return BridgeModel.from_pretrained(folder).eval(), DDIMScheduler.from_pretrained(folder.parent / "scheduler")


@torch.no_grad()
def bridged(link, scheduler, rows: torch.Tensor, modality: str) -> torch.Tensor:
    """(N, 512) → (N, 512) unit rows after the link."""
    parts = [link.bridge(F.normalize(part, dim=-1), modality, scheduler=scheduler) for part in rows.split(4096)]
    return F.normalize(torch.cat(parts), dim=-1)


class Heard:
    """Embedded scenes of the ears with the captions that fit them (see embed_heard.py), drawn row by row."""

    def __init__(self, folder: Path):
        self.audio = torch.from_numpy(np.load(folder / "audio.npy").astype(np.float32))
        rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        self.captions = [row["styled"] for row in rows]
        assert len(self.captions) == len(self.audio)

    def batch(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
        rows = rng.integers(len(self.audio), size=count)
        return F.normalize(self.audio[rows], dim=-1), [str(rng.choice(self.captions[i])) for i in rows]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/everyday/pen/tokenizer"))
    parser.add_argument("--output", type=Path, default=Path("runs/everyday/pen/pen_text"))
    parser.add_argument("--start", type=Path, help="state.pt of an earlier stage")
    parser.add_argument("--heard", type=Path, help="folder of embedded scenes: half of each batch")
    parser.add_argument("--heard-share", type=float, default=0.5)
    parser.add_argument("--words", type=Path, help="text tower: texts at its embeddings instead of at their targets")
    parser.add_argument("--link", type=Path, help="folder of a trained link: texts and scenes go through it")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    train, val = text_data.load("train"), text_data.load("val")
    full, plain = torch.from_numpy(train.targets), torch.from_numpy(train.plain)
    val_rows = torch.from_numpy(val.targets)
    if args.words:
        import train_words
        from transformers import ClapTextModelWithProjection

        tower = ClapTextModelWithProjection.from_pretrained(args.words).eval()
        cached = args.words / "train_embeds.pt"
        if not cached.is_file():
            torch.save(train_words.embed(tower, tokenizer, train.texts).half(), cached)
        full = plain = torch.load(cached).float()
        val_rows = train_words.embed(tower, tokenizer, val.texts)
    heard = Heard(args.heard) if args.heard else None
    if args.link:
        link, scheduler = load_link(args.link)
        full = plain = bridged(link, scheduler, full, "text")
        val_rows = bridged(link, scheduler, val_rows, "text")
        if heard is not None:
            heard.audio = bridged(link, scheduler, heard.audio, "audio")
    pen = Pen(tokenizer)
    average = None
    if args.start:
        pen.load_state_dict(torch.load(args.start)["average"])
    print({n: sum(p.numel() for p in part.parameters()) / 1e6 for n, part in pen.named_children()}, flush=True)
    decay = [p for p in pen.parameters() if p.ndim > 1]
    rest = [p for p in pen.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.rate
    )
    warm = 100
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, k / args.steps))))
    )
    average = {k: v.clone() for k, v in pen.state_dict().items()}
    args.output.mkdir(parents=True, exist_ok=True)
    checkpoint, step = args.output / "state.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        pen.load_state_dict(state["pen"])
        average = state["average"]
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        step = state["step"]
    lengths = np.array([len(ids) for ids in tokenizer(train.texts, add_special_tokens=False)["input_ids"]])
    held: dict[int, list] = {}

    def bucket(step: int) -> tuple[torch.Tensor, list[str]]:
        """Batches of captions of like length, eight drawn together: half as much padding."""
        group = step // GROUP
        if group not in held:
            held.clear()
            rng = np.random.default_rng([args.seed, 1, group])
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + group)
            count = BATCH * GROUP if heard is None else round(BATCH * GROUP * (1 - args.heard_share))
            rows = text_data.balanced_rows(train, rng, count, 0.5)
            rows = np.where(lengths[rows] > LONGEST, rng.choice((lengths <= LONGEST).nonzero()[0], count), rows)
            embeds = torch.where(torch.from_numpy(rng.random((count, 1)) < 0.8), full[rows], plain[rows])
            embeds, captions = noised(embeds, generator), [train.texts[i] for i in rows]
            if heard is not None:
                more, their = heard.batch(rng, BATCH * GROUP - count)
                embeds, captions = torch.cat([embeds, more]), captions + their
            order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
            parts = [order[k * BATCH : (k + 1) * BATCH] for k in range(GROUP)]
            held[group] = [(embeds[parts[k]], [captions[i] for i in parts[k]]) for k in rng.permutation(GROUP)]
        return held[group][step % GROUP]

    started = time.time()
    while step < args.steps:
        embeds, captions = bucket(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = pen(embeds, captions)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(pen.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        step += 1
        with torch.no_grad():
            keep = min(0.998, step / (step + 10))
            for name, value in pen.state_dict().items():
                average[name].lerp_(value, 1 - keep)
        if step % 50 == 0:
            print(step, round(loss.item(), 4), f"{time.time() - started:.0f} s", flush=True)
        if step % 300 == 0 or step == args.steps:
            torch.save(
                {
                    "pen": pen.state_dict(),
                    "average": average,
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step,
                },
                checkpoint,
            )
            own = {k: v.clone() for k, v in pen.state_dict().items()}
            pen.load_state_dict(average)
            with torch.no_grad():
                losses = {}
                for name, mask in (("human", val.is_human), ("bank", ~val.is_human)):
                    chosen = mask.nonzero()[0][:512]
                    losses[name] = round(pen(val_rows[chosen], [val.texts[i] for i in chosen]).item(), 4)
                shown = [5, 17, 29, 41, -7, -19, -31]
                written = pen.write(val_rows[shown])
            print(
                "validation", losses, *(f"\n   {val.texts[i]}\n     → {w}" for i, w in zip(shown, written)), flush=True
            )
            pen.load_state_dict(own)


if __name__ == "__main__":
    main()
