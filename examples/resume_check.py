"""Kills real training runs at random moments (SIGKILL), starts them again, and compares the final weights bit for bit.

``python examples/resume_check.py --stage bridge --kills 20`` trains on small data of its own;
``python examples/resume_check.py --recipe recipe.yaml --kills 5`` on yours.
"""

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.loading import resolve_folder

TRAIN = Path(__file__).with_name("train.py")
WIDTH = 32
WORDS = ("a dog", "rain", "a bell", "wind", "thunder and rain", "a clock", "two people", "an engine")
SMALL = {
    "bridge": {
        "method": "diffusion-link",
        "max_steps": 300,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "checkpoint_every": 4,
        "keep": "best",
        "validate_every": 50,
        "model": {"width": 64, "time_embed_dim": 16, "dropout": 0.1},
    },
    "decoder": {
        "mode": "supervised",
        "max_steps": 60,
        "batch_size": 16,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 3,
        "keep": "best",
        "validate_every": 20,
        "projector": {"num_prefix_tokens": 2, "num_layers": 2},
        "lora": {"r": 4, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]},
    },
}


@dataclass
class Kill:
    """One row of the table."""

    seconds: float
    checkpoint: str
    half_written: bool
    identical: bool


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=list(SMALL), default="bridge", help="of the small run made here")
    parser.add_argument("--recipe", help="a recipe of yours instead; its output folder is not touched")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    if args.kills < 1:
        parser.error("--kills: at least 1")
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        recipe = Path(args.recipe) if args.recipe else small_recipe(args.stage, room)
        expected, seconds = uninterrupted(recipe, room / "whole")
        print(f"uninterrupted: {seconds:.1f} s of training, weights {expected[:16]}", flush=True)
        print("kill | after s | newest checkpoint | half-written folder | weights identical", flush=True)
        moments = random.Random(args.seed)
        kills = []
        while len(kills) < args.kills:
            kill = interrupted(recipe, room / "broken", moments.uniform(0, seconds), expected)
            if kill is None:  # the run was faster than the first one, and had ended
                continue
            kills.append(kill)
            found = [kill.checkpoint, "yes" if kill.half_written else "no", "yes" if kill.identical else "NO"]
            print(f"{len(kills):4d} | {kill.seconds:7.2f} | {' | '.join(found)}", flush=True)
    same = sum(kill.identical for kill in kills)
    print(f"{same} of {len(kills)} runs ended with identical weights")
    return 0 if same == len(kills) else 1


def uninterrupted(recipe: Path, output: Path) -> tuple[str, float]:
    """Hash of the final weights, and the seconds from the first sign of the run in its folder to its end."""
    process = start(recipe, output)
    while not output.is_dir() and process.poll() is None:
        time.sleep(0.01)
    started = time.monotonic()
    if process.wait() != 0:
        sys.exit(f"{recipe}: the uninterrupted run failed; see: python {TRAIN} {recipe}")
    return weights_hash(output), time.monotonic() - started


def interrupted(recipe: Path, output: Path, moment: float, expected: str) -> Kill | None:
    """Kill a run ``moment`` seconds after its start, run it to its end, compare; None if there was nothing to kill."""
    shutil.rmtree(output, ignore_errors=True)
    process = start(recipe, output)
    while not output.is_dir() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    checkpoints = output / "checkpoints"
    newest = max((path.name for path in checkpoints.glob("step-*")), default="none")
    half_written = any(checkpoints.glob(".writing-*"))
    if start(recipe, output).wait() != 0:
        sys.exit(f"{recipe}: the run could not go on after a kill at {moment:.2f} s")
    return Kill(moment, newest, half_written, weights_hash(output) == expected)


def start(recipe: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, str(TRAIN), str(recipe), f"output={output}", "report_to=none"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights_hash(output: Path) -> str:
    """Of all weights that a run wrote as its result."""
    digest = hashlib.sha256()
    for path in sorted(output.rglob("*.safetensors")):
        digest.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return digest.hexdigest()


def small_recipe(stage: str, room: Path) -> Path:
    """A recipe of ``SMALL`` on random embeddings and, for the decoder, a random language model."""
    random_cache().save(room / "cache")
    recipe = {"stage": stage, "cache": str(room / "cache"), "output": str(room / "out"), "validation_fraction": 0.1}
    if stage == "decoder":
        small_language_model(room / "base")
        recipe["base_model"] = str(room / "base")
    path = room / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, **SMALL[stage]}), encoding="utf-8")
    return path


def random_cache(rows: int = 400) -> EmbeddingCache:
    generator = torch.Generator().manual_seed(0)
    audio, text = (
        torch.nn.functional.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1) for _ in range(2)
    )
    captions = [f"{WORDS[k % len(WORDS)]} and {WORDS[k // len(WORDS) % len(WORDS)]}" for k in range(rows)]
    return EmbeddingCache(audio, text, torch.arange(rows), captions, [f"{k}.wav" for k in range(rows)], {})


def small_language_model(folder: Path) -> None:
    """A random LLaMA of two layers with the tokenizer of the embedded pipeline."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve_folder("tiny") / "decoder")
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
