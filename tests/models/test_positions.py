"""Captions that a base model has too few positions for are refused before anything is computed."""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from diffusion_link_hf import CaptionDecoder
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.training.decoder import train_decoder
from support.models import HIDDEN_SIZE, make_language_model, make_tokenizer
from support.training import decoder_arguments, make_cache

INSTRUCTION = "Hear: "  # 6 bytes, each a token


def gpt2(positions: int) -> GPT2LMHeadModel:
    """Learned positions, of which there are no more."""
    sizes = {"n_embd": HIDDEN_SIZE, "n_layer": 1, "n_head": 2, "n_positions": positions}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(make_tokenizer()), bos_token_id=0, eos_token_id=2, **sizes)).eval()


def test_generation_up_to_the_last_position_and_not_beyond():
    decoder, prefix = CaptionDecoder(gpt2(32), make_tokenizer(), INSTRUCTION), torch.randn(2, 5, HIDDEN_SIZE)
    room = 32 - 1 - 6 - 5
    decoder.generate(prefix, max_new_tokens=room, min_new_tokens=room)
    with pytest.raises(InputError, match=rf"max_new_tokens: needs {room + 1} positions behind 7 .* and 5 .* has 32"):
        decoder.generate(prefix, max_new_tokens=room + 1)


def test_an_architecture_without_limit():
    model = BloomForCausalLM(
        BloomConfig(vocab_size=len(make_tokenizer()), hidden_size=HIDDEN_SIZE, n_layer=1, n_head=2)
    )
    CaptionDecoder(model, make_tokenizer()).generate(torch.randn(1, 5, HIDDEN_SIZE), max_new_tokens=3)


@pytest.mark.parametrize(
    ("positions", "caption", "words"),
    [(54, "a dog", None), (53, "a dog", "max_new_tokens: needs 40"), (60, "a" * 60, "longest caption: needs 61")],
    ids=["enough", "too few to write captions", "too few for a caption of the data"],
)
def test_training_refuses_before_its_first_step(tmp_path, monkeypatch, positions, caption, words):
    """1 BOS, 11 of the instruction, 2 of the prefix; captions of 40 tokens are what a pipeline writes by default."""
    gpt2(positions).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    cache = make_cache(20)
    cache.captions[3] = caption
    cache.save(tmp_path / "cache")
    changes = {"lora": None, "include_base": True, "max_steps": 1, "warmup_steps": 0, "instruction": "Describe it"}
    args = decoder_arguments(tmp_path / "cache", tmp_path / "base", tmp_path / "out", **changes, validation_fraction=0)
    if words is None:
        train_decoder(args, progress=False)
        return
    monkeypatch.setattr("diffusion_link_hf.training.decoder.optimize", None)
    with pytest.raises(InputError, match=words):
        train_decoder(args, progress=False)


def test_a_tokenizer_larger_than_its_embeddings_is_refused_before_the_first_step(tmp_path, monkeypatch):
    make_language_model().save_pretrained(tmp_path / "base")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(tmp_path / "base")
    make_cache(20).save(tmp_path / "cache")
    monkeypatch.setattr("diffusion_link_hf.training.decoder.optimize", None)
    with pytest.raises(ModelFolderError, match="ids up to 260, its model a vocabulary of 260"):
        train_decoder(decoder_arguments(tmp_path / "cache", tmp_path / "base", tmp_path / "out", max_steps=20), False)
