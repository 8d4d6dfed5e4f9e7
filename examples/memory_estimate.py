"""Prints how much memory a GPU needs to train a decoder, from configuration files alone, without downloads.

``python examples/memory_estimate.py hub_configs/audiocaps/decoder --recipe audiocaps-supervised --length 64``

The projector is that of the recipe. The model is built on the meta device, so nothing of its size is allocated.
"""

import argparse
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig

from diffusion_link_hf.commands.options import positive
from diffusion_link_hf.errors import DiffusionLinkError, ModelFolderError
from diffusion_link_hf.loading import read_json
from diffusion_link_hf.models.adapters import ADAPTER_FILE
from diffusion_link_hf.models.decoder_folder import BASE_FOLDER
from diffusion_link_hf.models.prefix_projector import PrefixProjector
from diffusion_link_hf.training.recipes import load_recipe

GIB = 2**30
MODES = {"full": "full, float32", "lora": "LoRA, bfloat16 base", "4bit": "LoRA, 4-bit base"}
Mode = Literal["full", "lora", "4bit"]
Strategy = Literal["ddp", "fsdp"]
# NF4 with double quantization (QLoRA, §3): 4 bits, an 8-bit constant per 64 weights, a 32-bit one per 64 · 256.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
ADAM_BYTES = 8  # two float32 moments
TRAINED_BYTES = 4 + 2  # float32 and a bfloat16 copy
CUDA_BYTES = 2**30  # context, workspaces and fragmentation; about what PyTorch takes before the first tensor of ours


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU.

    Attributes:
        weights: the model, and what FSDP gathers of it at a time.
        gradients: with the buckets of DDP where there are several GPUs.
        optimizer: the moments of AdamW.
        activations: what the backward pass keeps, logits among it.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + CUDA_BYTES


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, and bytes of activations.

    Attributes:
        base, linear, layer: of the base model, of its linear layers within blocks (those that 4 bits apply to), and of
            one block.
        trained: adapter weights.
        projector: weights of the projector, which is trained in all modes.
        kept, kept_by_layer: activation bytes of the whole model, and of one block.
        layers, layer_input: number of blocks, and bytes of what goes into one.
    """

    base: int
    linear: int
    layer: int
    trained: int
    projector: int
    kept: int
    kept_by_layer: int
    layers: int
    layer_input: int


def measure_sizes(
    config: PretrainedConfig, lora: LoraConfig | None, rows: int, length: int, projector: int = 0
) -> Sizes:
    """Build the model on the meta device and count what a forward pass keeps for the backward pass.

    Args:
        config: of the causal LM, such as LLaMA-2 7B's.
        lora: of the adapter; None for full training.
        rows, length: sequences per GPU at a time, and their length with prompt and prefix.
        projector: number of the projector's weights.
    """
    whole = _build(config, config.num_hidden_layers, lora)
    one, two = (_kept_bytes(_build(config, layers, lora), rows, length) for layers in (1, 2))
    blocks = next(m for m in whole.modules() if isinstance(m, nn.ModuleList) and len(m) == config.num_hidden_layers)
    trained = sum(p.numel() for p in whole.parameters() if p.requires_grad) if lora is not None else 0
    adapters = {id(p) for p in whole.parameters() if p.requires_grad} if lora is not None else set()

    def count(module: nn.Module, least_dims: int = 0) -> int:
        return sum(p.numel() for p in module.parameters() if id(p) not in adapters and p.ndim >= least_dims)

    return Sizes(
        base=count(whole),
        linear=count(blocks, 2),
        layer=count(blocks[0]),
        trained=trained,
        projector=projector,
        kept=one + (config.num_hidden_layers - 1) * (two - one),
        kept_by_layer=two - one,
        layers=config.num_hidden_layers,
        layer_input=rows * length * config.hidden_size * 2,
    )


def estimate_memory(
    sizes: Sizes,
    mode: Mode,
    gpus: int = 1,
    strategy: Strategy = "ddp",
    gradient_checkpointing: bool = False,
) -> MemoryEstimate:
    """Memory of one GPU in training with bfloat16 autocast.

    What is trained is kept in float32, with bfloat16 copies (autocast's cache): the projector, and all weights or the
    adapter. A frozen base is in bfloat16 or NF4. Everything but activations is divided by FSDP, which gathers two
    blocks at a time.
    """
    base = sizes.base
    updated = trained_weights(sizes, mode)
    frozen = {"full": 0, "lora": 2 * base, "4bit": round(NF4_BYTES * sizes.linear) + 2 * (base - sizes.linear)}
    weights = frozen[mode] + TRAINED_BYTES * updated
    gradients, optimizer = 4 * updated, ADAM_BYTES * updated
    if gpus > 1 and strategy == "ddp":
        gradients *= 2
    if gpus > 1 and strategy == "fsdp":
        weights = -(-weights // gpus) + 2 * weights * sizes.layer // base
        gradients, optimizer = -(-gradients // gpus), -(-optimizer // gpus)
    activations = sizes.kept
    if gradient_checkpointing:
        outside = sizes.kept - sizes.layers * sizes.kept_by_layer
        activations = outside + sizes.layers * sizes.layer_input + sizes.kept_by_layer
    return MemoryEstimate(weights, gradients, optimizer, activations)


def trained_weights(sizes: Sizes, mode: Mode) -> int:
    """Number of weights that the optimizer updates. A checkpoint has 12 bytes for each: itself and two moments."""
    return sizes.projector + (sizes.base if mode == "full" else sizes.trained)


def _build(config: PretrainedConfig, layers: int, lora: LoraConfig | None) -> nn.Module:
    config = type(config).from_dict({**config.to_dict(), "num_hidden_layers": layers})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        if lora is not None:
            model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    return model.train()


def _kept_bytes(model: nn.Module, rows: int, length: int) -> int:
    """Bytes that autograd keeps after a forward pass, less the weights; a tensor that is kept twice counts once."""
    with torch.device("meta"):
        embeds = torch.empty(rows, length, model.config.hidden_size, dtype=torch.bfloat16).requires_grad_()
        labels = torch.zeros(rows, length, dtype=torch.long)
        mask = torch.zeros(rows, 1, length, length, dtype=torch.bfloat16)  # a ready one: its making asks for values
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    with _kept_storages() as kept:
        logits = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).detach()
    return sum(size for storage, size in kept.items() if storage not in weights)


@contextmanager
def _kept_storages():
    """Storage → bytes of all that autograd keeps within; the tensors are held so that no address is used twice."""
    kept: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoder", type=Path, help="decoder folder with base/config.json and adapter_config.json")
    parser.add_argument("--recipe", default="audiocaps-supervised", help="whose projector it is (default: %(default)s)")
    parser.add_argument("--embedding-dim", type=positive, default=512, help="width of the embeddings (default: 512)")
    parser.add_argument("--batch-size", type=positive, default=4, help="sequences per GPU at a time")
    parser.add_argument("--length", type=positive, default=64, help="tokens of a sequence, with prompt and prefix")
    parser.add_argument("--gpus", type=positive, nargs="+", default=[1, 2, 8])
    args = parser.parse_args(argv)
    try:
        options = load_recipe(args.recipe).projector
        print(table(args.decoder, args.batch_size, args.length, args.gpus, args.embedding_dim, options))
    except DiffusionLinkError as error:
        print(f"memory_estimate.py: {error}", file=sys.stderr)
        return 2
    return 0


def table(
    decoder: Path, batch_size: int, length: int, gpus: list[int], embedding_dim: int, projector: dict[str, Any]
) -> str:
    """Markdown: a row per way of training, number of GPUs and strategy, in GiB per GPU.

    Args:
        projector: arguments of `PrefixProjector`, as recipes have them.
    """
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
    with torch.device("meta"):
        head = PrefixProjector(embedding_dim=embedding_dim, hidden_size=config.hidden_size, **projector)
    count = sum(p.numel() for p in head.parameters())
    full, adapted = (measure_sizes(config, each, batch_size, length, count) for each in (None, lora))
    checkpoint = (4 + ADAM_BYTES) * trained_weights(adapted, "lora")
    lines = [
        f"{full.base:,} weights, {adapted.trained:,} in the adapter, {count:,} in the projector; "
        f"{batch_size} sequences of {length} per GPU; GiB",
        f"A checkpoint of adapter and projector has {checkpoint / 1e9:.1f} GB on the disk.",
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
    lines += ["", "Launch files: diffusion-link train --launch-file ddp or fsdp. 4-bit weights cannot be sharded."]
    return "\n".join(lines)


def cells(estimate: MemoryEstimate) -> str:
    parts = (estimate.weights, estimate.gradients, estimate.optimizer, estimate.activations, estimate.total)
    return " | ".join(f"{part / GIB:.1f}" for part in parts)


if __name__ == "__main__":
    sys.exit(main())
