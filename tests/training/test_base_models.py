"""How the base model is held while training: precision, 4 bits, checkpointed activations, full width."""

import importlib.util

import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.decoder import train_decoder
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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
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
