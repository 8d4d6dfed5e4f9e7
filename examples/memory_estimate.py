"""Prints what a GPU needs to train a decoder, from configuration files alone; nothing is downloaded or allocated.

``python examples/memory_estimate.py hub_configs/audiocaps-zeroshot/decoder --batch-size 4 --length 64``
"""

import argparse
import sys
from pathlib import Path

from peft import PeftConfig
from transformers import CONFIG_MAPPING, AutoConfig

from diffusion_link_hf.commands.options import positive
from diffusion_link_hf.errors import DiffusionLinkError, ModelFolderError
from diffusion_link_hf.loading import read_json
from diffusion_link_hf.models.decoder import ADAPTER_FILE, BASE_FOLDER
from diffusion_link_hf.training.memory import MemoryEstimate, estimate_memory, measure_sizes

GIB = 2**30
MODES = {"full": "full, float32", "lora": "LoRA, bfloat16 base", "4bit": "LoRA, 4-bit base"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoder", type=Path, help="decoder folder with base/config.json and adapter_config.json")
    parser.add_argument("--batch-size", type=positive, default=4, help="sequences per GPU at a time")
    parser.add_argument("--length", type=positive, default=64, help="tokens of a sequence, with prompt and prefix")
    parser.add_argument("--gpus", type=positive, nargs="+", default=[1, 2, 8])
    args = parser.parse_args(argv)
    try:
        print(table(args.decoder, args.batch_size, args.length, args.gpus))
    except DiffusionLinkError as error:
        print(f"memory_estimate.py: {error}", file=sys.stderr)
        return 2
    return 0


def table(decoder: Path, batch_size: int, length: int, gpus: list[int]) -> str:
    """Markdown: a row per way of training, number of GPUs and strategy, in GiB per GPU."""
    base = decoder / BASE_FOLDER / "config.json"
    values = read_json(base)
    if values.get("model_type") not in CONFIG_MAPPING:
        problem = f"has model_type {values.get('model_type')!r}, which transformers does not know"
        raise ModelFolderError(base, problem, "Name the configuration of a causal language model")
    config = AutoConfig.for_model(**values)
    if not (decoder / ADAPTER_FILE).is_file():
        remedy = "Save a LoraConfig there: the estimate compares full training with LoRA"
        raise ModelFolderError(decoder / ADAPTER_FILE, "is missing", remedy)
    lora = PeftConfig.from_pretrained(str(decoder))
    full, adapted = (measure_sizes(config, each, batch_size, length) for each in (None, lora))
    lines = [
        f"{full.base:,} weights, {adapted.trained:,} in the adapter; {batch_size} sequences of {length} per GPU; GiB",
        "",
        "| training | GPUs | weights | gradients | AdamW | activations | total | total, checkpointing |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mode, name in MODES.items():
        sizes = full if mode == "full" else adapted
        for count in gpus:
            for strategy in ("ddp", "fsdp") if count > 1 and mode != "4bit" else ("ddp",):
                plain = estimate_memory(sizes, mode, count, strategy)
                checkpointed = estimate_memory(sizes, mode, count, strategy, gradient_checkpointing=True)
                where = f"{count} {strategy.upper()}" if count > 1 else "1"
                lines.append(f"| {name} | {where} | {cells(plain)} | {checkpointed.total / GIB:.1f} |")
    lines += ["", "DDP and FSDP: hub_configs/accelerate/ddp.yaml and fsdp.yaml. 4-bit weights cannot be sharded."]
    return "\n".join(lines)


def cells(estimate: MemoryEstimate) -> str:
    parts = (estimate.weights, estimate.gradients, estimate.optimizer, estimate.activations, estimate.total)
    return " | ".join(f"{part / GIB:.1f}" for part in parts)


if __name__ == "__main__":
    sys.exit(main())
