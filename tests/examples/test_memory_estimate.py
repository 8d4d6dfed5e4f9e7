"""The estimate of a decoder's memory: counted against real models, and printed from configuration files."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "memory_estimate.py"
spec = importlib.util.spec_from_file_location("memory_estimate", SCRIPT)
memory_estimate = importlib.util.module_from_spec(spec)
sys.modules["memory_estimate"] = memory_estimate
spec.loader.exec_module(memory_estimate)
estimate_memory, measure_sizes = memory_estimate.estimate_memory, memory_estimate.measure_sizes


def tiny_config(layers=3):
    size = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 100}
    return LlamaConfig(num_hidden_layers=layers, **size)


LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_memory_counts_weights_exactly():
    sizes = measure_sizes(tiny_config(), LORA, rows=2, length=5)
    model = LlamaForCausalLM(tiny_config())
    blocks = list(model.model.layers)
    assert sizes.base == sum(p.numel() for p in model.parameters())
    assert sizes.linear == sum(p.numel() for block in blocks for p in block.parameters() if p.ndim == 2)
    assert sizes.trained == 3 * 2 * (64 * 4 + 4 * 64)
    full = estimate_memory(measure_sizes(tiny_config(), None, 2, 5), "full")
    assert (full.weights, full.gradients, full.optimizer) == (6 * sizes.base, 4 * sizes.base, 8 * sizes.base)
    lora, four = (estimate_memory(sizes, mode) for mode in ("lora", "4bit"))
    # As in full training, autocast has copies of what is trained: 2 bytes that the estimate left out before.
    assert lora.weights == 2 * sizes.base + 6 * sizes.trained
    assert lora.weights - four.weights == pytest.approx(sizes.linear * (2 - 0.5 - 0.016), rel=0.01)


def test_the_projector_is_trained_in_every_mode():
    for mode, lora in (("full", None), ("lora", LORA), ("4bit", LORA)):
        without, with_it = (measure_sizes(tiny_config(), lora, 2, 5, count) for count in (0, 1000))
        more = estimate_memory(with_it, mode).total - estimate_memory(without, mode).total
        assert more == 1000 * (4 + 2 + 4 + 8)  # weight, copy, gradient, moments
        trained = [memory_estimate.trained_weights(sizes, mode) for sizes in (without, with_it)]
        assert trained[1] - trained[0] == 1000


def test_memory_counts_what_a_real_forward_keeps():
    """Against saved tensors of a real model on the CPU, of another depth than those that were counted."""
    rows, length = 3, 7
    sizes = measure_sizes(tiny_config(), None, rows, length)
    model = LlamaForCausalLM(tiny_config()).to(torch.bfloat16).train()
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    embeds = torch.randn(rows, length, 64, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bfloat16)
    with sdpa_kernel(SDPBackend.MATH), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), torch.zeros(rows * length, dtype=torch.long))
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    assert sizes.kept == pytest.approx(real, rel=0.02)


def test_memory_is_divided_as_it_should_be():
    full, adapted = (measure_sizes(tiny_config(12), lora, 8, 32) for lora in (None, LORA))
    one, ddp, fsdp = (estimate_memory(full, "full", *case) for case in ((1,), (8, "ddp"), (8, "fsdp")))
    assert ddp.weights == one.weights
    assert ddp.gradients == 2 * one.gradients
    assert fsdp.optimizer == one.optimizer / 8
    assert one.weights / 8 < fsdp.weights < one.weights / 2
    for sizes in (full, adapted):
        plain, checkpointed = (estimate_memory(sizes, "lora", gradient_checkpointing=flag) for flag in (False, True))
        assert checkpointed.activations < plain.activations / 2
        assert checkpointed.weights == plain.weights


def test_the_estimate_is_printed_from_configuration_files(tmp_path, capsys):
    tiny_config().save_pretrained(tmp_path / "base")
    assert memory_estimate.main([str(tmp_path)]) == 2
    assert "adapter_config.json: is missing" in capsys.readouterr().err
    LORA.save_pretrained(str(tmp_path))
    assert memory_estimate.main([str(tmp_path), "--gpus", "1", "4"]) == 0
    table = capsys.readouterr().out
    projector = 512 * 64 + 64 + 64 * 640 + 640  # ten tokens, two layers: that of the supervised recipe
    start = f"{measure_sizes(tiny_config(), LORA, 4, 64).base:,} weights, 3,072 in the adapter"
    assert table.startswith(f"{start}, {projector:,} in the projector")
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")][1:]
    full = [["| full, float32", gpus] for gpus in ("1", "4 DDP", "4 FSDP")]
    assert [*full, ["| LoRA, bfloat16 base", "1"]] == rows[:4]
    assert len(rows) == 8
