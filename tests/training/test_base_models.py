"""How the base model is held while training: precision, 4 bits, checkpointed activations, full width."""

import importlib.util
import runpy

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training import parts
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.memory import estimate_memory, measure_sizes
from diffusion_link_hf.training.parts import build_decoder, locate_base
from support.models import make_tokenizer
from support.training import decoder_arguments, make_base, make_cache

SHORT = {"max_steps": 6, "warmup_steps": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    make_cache().save(folder / "cache")
    make_base(folder / "base")
    return folder


def arguments(room, output, **changes):
    return decoder_arguments(room / "cache", room / "base", output, **{**SHORT, **changes})


def adapter(output):
    return load_file(output / "decoder" / "adapter_model.safetensors")


def test_checkpointed_activations_change_nothing(room, tmp_path):
    lora = {"r": 4, "lora_dropout": 0.2, "target_modules": ["q_proj", "v_proj"]}
    for name in (True, False):
        train_decoder(arguments(room, tmp_path / str(name), gradient_checkpointing=name, lora=lora))
    torch.testing.assert_close(adapter(tmp_path / "True"), adapter(tmp_path / "False"), rtol=1e-5, atol=1e-7)


def test_a_bfloat16_base_has_a_float32_adapter(room, tmp_path, fresh_accelerator):
    args = arguments(room, tmp_path / "16", base_dtype="bfloat16", mixed_precision="bf16", weights_dtype="bfloat16")
    decoder = build_decoder(args, locate_base(str(room / "base"), None), LoraConfig(task_type="CAUSAL_LM", **args.lora))
    dtypes = {(p.dtype, p.requires_grad) for p in decoder.parameters()}
    assert dtypes == {(torch.bfloat16, False), (torch.float32, True)}
    loss = train_decoder(args)["loss"]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert loss == pytest.approx(train_decoder(arguments(room, tmp_path / "32"))["loss"], rel=0.02)


def test_a_rounded_base_is_not_written_as_if_it_were_whole(room, tmp_path):
    with pytest.raises(RecipeError, match="base_dtype: is bfloat16, but the base is to be copied"):
        train_decoder(arguments(room, tmp_path, base_dtype="bfloat16"))


def test_4_bits_without_bitsandbytes_are_refused(room, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(RecipeError, match="load_in_4bit: is true, but bitsandbytes is not installed"):
        train_decoder(arguments(room, tmp_path, load_in_4bit=True))


def test_4_bit_weights_are_no_base_to_be_written(room, tmp_path):
    """Refused before the training, whatever is installed: the folder would hold weights that are not the base's."""
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    with pytest.raises(RecipeError, match="load_in_4bit: is true, but the base model's weights are to be copied"):
        train_decoder(arguments(room, tmp_path, load_in_4bit=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"load_in_4bit": True, "lora": None}, "load_in_4bit"), ({"base_dtype": "bfloat16", "lora": None}, "base_dtype")],
)
def test_a_base_that_is_trained_is_float32(room, tmp_path, changes, words):
    with pytest.raises(RecipeError, match=words):
        arguments(room, tmp_path, **changes)


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
    assert lora.weights == 2 * sizes.base + 4 * sizes.trained
    assert lora.weights - four.weights == pytest.approx(sizes.linear * (2 - 0.5 - 0.016), rel=0.01)


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


def test_the_estimate_is_printed_from_configuration_files(tmp_path, pytestconfig, capsys):
    main = runpy.run_path(str(pytestconfig.rootpath / "examples" / "memory_estimate.py"))["main"]
    tiny_config().save_pretrained(tmp_path / "base")
    assert main([str(tmp_path)]) == 2
    assert "adapter_config.json: is missing" in capsys.readouterr().err
    LORA.save_pretrained(str(tmp_path))
    assert main([str(tmp_path), "--gpus", "1", "4"]) == 0
    table = capsys.readouterr().out
    assert table.startswith(f"{measure_sizes(tiny_config(), LORA, 4, 64).base:,} weights, 3,072 in the adapter")
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")][1:]
    full = [["| full, float32", gpus] for gpus in ("1", "4 DDP", "4 FSDP")]
    assert [*full, ["| LoRA, bfloat16 base", "1"]] == rows[:4]
    assert len(rows) == 8


@pytest.mark.slow
def test_full_width_of_llama_2_trains(tmp_path, fresh_accelerator):
    """Hidden 4096, 32 heads, MLP 11008, one layer, random float32 weights: 20 steps, and the loss falls.

    Not in bfloat16, for which most CPUs have no instructions: one step took longer than all of this.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **special)  # the rest is LLaMA-2 7B's
    assert (config.hidden_size, config.intermediate_size, config.num_attention_heads) == (4096, 11008, 32)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    make_cache().save(tmp_path / "cache")
    changes = {
        "max_steps": 20,
        "warmup_steps": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
        "projector": {"num_prefix_tokens": 10, "num_layers": 2},
        "validate_every": 1000,
    }
    losses = []
    real = torch.Tensor.backward

    def noted(loss, *args, **kwargs):
        losses.append(loss.item())
        return real(loss, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "backward", noted)
        train_decoder(decoder_arguments(tmp_path / "cache", tmp_path / "base", tmp_path / "out", **changes))
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
