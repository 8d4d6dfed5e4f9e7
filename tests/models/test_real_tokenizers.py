"""Tokenizers as real language models have them: SentencePiece of LLaMA-2's kind, byte-level BPE without padding."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diffusion_link_hf import CaptionDecoder
from diffusion_link_hf.training.recipes import list_recipes, load_recipe
from support.models import HIDDEN_SIZE

sentencepiece = pytest.importorskip("sentencepiece")
TEXT = "a dog barks while rain falls and the wind howls then describe sound bell rings woman speaks car passes"
WORDS = TEXT.split(" ")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As LLaMA-2's: BPE with byte fallback, a space in front of each text, no padding token."""
    from transformers import LlamaTokenizer

    folder, chance = tmp_path_factory.mktemp("llama"), random.Random(0)
    lines = [" ".join(chance.choices(WORDS, k=7)).capitalize() + ":" for _ in range(400)]
    (folder / "text").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return LlamaTokenizer.from_pretrained(folder)


def make(tokenizer, instruction=None):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN_SIZE, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return CaptionDecoder(LlamaForCausalLM(config), tokenizer, instruction).eval()


def test_it_is_of_llamas_kind(tokenizer):
    assert tokenizer.pad_token is None
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer.convert_ids_to_tokens(tokenizer("a dog", add_special_tokens=False)["input_ids"])[0].startswith("▁")
    unseen = tokenizer("Überschall 猫", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(unseen) == "Überschall 猫"  # by bytes


def test_captions_become_targets_with_eos_alone(tokenizer):
    decoder = make(tokenizer)
    ids, mask = decoder.tokenize(["A dog barks", "Rain"])
    for row, own, caption in zip(ids, mask, ["A dog barks", "Rain"], strict=True):
        row = row[: int(own.sum())]
        assert row[-1] == tokenizer.eos_token_id
        assert tokenizer.bos_token_id not in row
        assert tokenizer.decode(row, skip_special_tokens=True).strip() == caption


def test_captions_have_no_space_in_front(tokenizer):
    """Each token that stands for a word has its space in front, the first one, too."""
    decoder, (token, *_) = make(tokenizer), tokenizer("dog", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(token) == "▁dog"
    written = decoder.generate(torch.randn(1, 2, HIDDEN_SIZE), max_new_tokens=2, sequence_bias=[[[token], 100.0]])
    assert written == [["dog dog"]]


def test_the_instructions_of_the_recipes_end_with_no_token_of_a_space(tokenizer):
    """A text that ends in a space would end in a token of its own, which no caption has in front of it."""
    assert tokenizer.convert_ids_to_tokens(make(tokenizer, "Describe the sound: ")._instruction_ids())[-1] == "▁"
    found = {}
    for name in list_recipes():
        if name.startswith(("audiocaps", "smollm2")) and getattr(args := load_recipe(name), "instruction", None):
            found[name] = args.instruction
    assert {"audiocaps-zeroshot", "smollm2-zeroshot"} <= set(found)
    for instruction in found.values():
        assert "▁" not in tokenizer.convert_ids_to_tokens(make(tokenizer, instruction)._instruction_ids())
        assert instruction == instruction.strip()


def test_it_round_trips(tokenizer, tmp_path):
    decoder, prefix = make(tokenizer, "Describe the sound:"), torch.randn(2, 3, HIDDEN_SIZE)
    expected = decoder.generate(prefix, max_new_tokens=12)
    decoder.save_pretrained(tmp_path)
    again = CaptionDecoder.from_pretrained(tmp_path)
    assert torch.equal(again._instruction_ids(), decoder._instruction_ids())
    assert torch.equal(again.tokenize(["A dog barks"])[0], decoder.tokenize(["A dog barks"])[0])
    assert again.generate(prefix, max_new_tokens=12) == expected
