"""Trains the writer, projector and a small LLaMA: on captions' own places in the joint space and on imagined sounds."""

import argparse
import math
import time
from pathlib import Path

import joint_space
import numpy as np
import text_data
import torch
import train_text_tower
from imagined_sounds import ImaginedSounds
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapTextModelWithProjection, LlamaConfig, LlamaForCausalLM

from diffusion_link_hf import CaptionDecoder, PrefixProjector

FOLDER = Path("writer")
EMBEDDING_DIM, HIDDEN, NUM_PREFIX_TOKENS = 512, 256, 6
BATCH, WEIGHT_DECAY, WARM_UP, AVERAGE = 64, 0.05, 60, 0.998
GROUP, LONGEST = 8, 32  # batches drawn together; tokens
HUMAN_SHARE = 0.6  # of the captions that are no imagined sounds
FULL_SHARE = 0.8  # of places with the parts of known events; the others are like captions of unknown events
NOISE = 0.02  # most, per dimension, of unit rows


class Writer(nn.Module):
    """A projector (0.5 M parameters) and a LLaMA of four layers, 256 wide, with tied embeddings (4.1 M)."""

    def __init__(self, tokenizer):
        super().__init__()
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                intermediate_size=640,
                num_hidden_layers=4,
                num_attention_heads=4,
                max_position_embeddings=128,
                tie_word_embeddings=True,
                bos_token_id=0,
                pad_token_id=1,
                eos_token_id=2,
            )
        )
        self.decoder = CaptionDecoder(model, tokenizer)
        # Each event gets a prefix of its own: behind one for both, pairs that were heard were often not named.
        slots = [[place.start, place.stop] for place in (joint_space.FIRST, joint_space.SECOND)]
        self.projector = PrefixProjector(EMBEDDING_DIM, HIDDEN, NUM_PREFIX_TOKENS, num_layers=2, slots=slots)

    def forward(self, embeds: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """(B, 512) and B captions → loss."""
        return self.decoder(self.projector(embeds), *self.decoder.tokenize(captions)).loss


class Batches:
    """Batches of captions of like length, eight drawn together: half as much padding; the same for the same step."""

    def __init__(self, train: text_data.Captions, full: torch.Tensor, lengths: np.ndarray, share: float, seed: int):
        self.train, self.full, self.plain = train, full, torch.from_numpy(train.plain)
        self.short, self.share, self.seed = lengths <= LONGEST, share, seed
        self.imagined, self.held, self.group = ImaginedSounds(train), [], -1

    def __call__(self, step: int) -> tuple[torch.Tensor, list[str]]:
        if step // GROUP != self.group:
            self.group = step // GROUP
            self.held = self._draw(np.random.default_rng([self.seed, self.group]))
        return self.held[step % GROUP]

    def _draw(self, rng: np.random.Generator) -> list[tuple[torch.Tensor, list[str]]]:
        count = round(BATCH * GROUP * (1 - self.share))
        rows = text_data.balanced_rows(self.train, rng, count, HUMAN_SHARE)
        rows = np.where(self.short[rows], rows, rng.choice(self.short.nonzero()[0], count))
        embeds = torch.where(torch.from_numpy(rng.random((count, 1)) < FULL_SHARE), self.full[rows], self.plain[rows])
        more, their = self.imagined.batch(rng, BATCH * GROUP - count)
        embeds, captions = torch.cat([embeds, more]), [self.train.texts[i] for i in rows] + their
        size = torch.from_numpy(NOISE * rng.random((len(embeds), 1))).float()
        noise = torch.from_numpy(rng.standard_normal(embeds.shape)).float()
        embeds = F.normalize(embeds + size * noise, dim=-1)
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        parts = [order[k * BATCH : (k + 1) * BATCH] for k in rng.permutation(GROUP)]
        return [(embeds[part], [captions[i] for i in part]) for part in parts]


def train(writer: Writer, batches: Batches, steps: int, rate: float) -> dict[str, torch.Tensor]:
    """The running average of the weights; goes on where it stopped."""
    matrices = [p for p in writer.parameters() if p.ndim > 1]
    others = [p for p in writer.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / WARM_UP, 0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, k / steps))))
    )
    average = {name: value.clone() for name, value in writer.state_dict().items()}
    parts = {"writer": writer, "optimizer": optimizer, "schedule": schedule}
    checkpoint, step = FOLDER / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        step, average = state["step"], state["average"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    started = time.perf_counter()
    while step < steps:
        with torch.autocast("cpu", torch.bfloat16):
            loss = writer(*batches(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(writer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step += 1
        with torch.no_grad():
            for name, value in writer.state_dict().items():
                average[name].lerp_(value, 1 - min(AVERAGE, step / (step + 10)))
        if step % 300 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"step": step, "average": average, **states}, checkpoint)
    return average


@torch.no_grad()
def losses(writer: Writer, rows: torch.Tensor, val: text_data.Captions, count: int = 512) -> dict[str, float]:
    """Loss per token on held-out captions, human and made."""
    found = {}
    for name, mask in (("human", val.is_human), ("made", ~val.is_human)):
        pick = mask.nonzero()[0][:count]
        found[name] = round(writer(rows[pick], [val.texts[i] for i in pick]).item(), 3)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of audiocaps/")
    parser.add_argument("--imagined", type=float, default=0.85, help="share of imagined sounds in a batch")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained("tokenizer")
    captions, val = text_data.load("train", args.data), text_data.load("val", args.data)
    tower = ClapTextModelWithProjection.from_pretrained(train_text_tower.FOLDER).eval()
    full = train_text_tower.embed(tower, tokenizer, captions.texts)
    lengths = np.array([len(ids) for ids in tokenizer(captions.texts, add_special_tokens=False)["input_ids"]])
    FOLDER.mkdir(exist_ok=True)
    writer = Writer(tokenizer)
    writer.load_state_dict(
        train(writer, Batches(captions, full, lengths, args.imagined, args.seed), args.steps, args.rate)
    )
    writer.eval()
    print("loss per token:", losses(writer, train_text_tower.embed(tower, tokenizer, val.texts), val))
    writer.projector.save_pretrained(FOLDER / "projector")
    writer.decoder.save_pretrained(FOLDER / "decoder", include_base=True)


if __name__ == "__main__":
    main()
