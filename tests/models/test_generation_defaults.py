"""What a base model's own generation_config.json asks for has no part in captions."""

import json

import pytest
import torch
from transformers import GenerationConfig

from diffusion_link_hf import CaptionDecoder
from support.models import HIDDEN_SIZE, make_decoder

SETTINGS = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 1,
    "min_length": 30,
    "min_new_tokens": 30,
    "max_length": 3,
    "max_new_tokens": 1,
    "max_time": 1e-6,
    "suppress_tokens": [*range(40, 160)],
    "begin_suppress_tokens": [*range(4, 130)],
    "bad_words_ids": [[token] for token in range(40, 160)],
    "sequence_bias": [[[50], 50.0]],
    "forced_bos_token_id": 50,
    "forced_eos_token_id": 50,
    "exponential_decay_length_penalty": [1, 5.0],
    "length_penalty": -5.0,
    "do_sample": True,
    "temperature": 3.0,
    "num_beams": 4,
    "num_return_sequences": 2,
    "eos_token_id": [*range(40, 160)],
    "encoder_repetition_penalty": 2.0,
    "guidance_scale": 3.0,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "stop_strings": ["a", "e"],
    "watermarking_config": {"greenlist_ratio": 0.1, "bias": 30.0},
    "return_dict_in_generate": True,
    "cache_implementation": "static",
    "low_memory": True,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folders = {}
    for lora in (False, True):
        folders[lora] = tmp_path_factory.mktemp("decoder")
        make_decoder(lora).save_pretrained(folders[lora])
    return folders


@pytest.fixture(scope="module")
def prefix():
    return torch.randn(3, 4, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_a_setting_of_the_base_changes_no_caption(saved, prefix, name, lora):
    file = saved[lora] / "base" / "generation_config.json"
    options = [{}, {"num_beams": 3}]
    file.unlink(missing_ok=True)
    decoder = CaptionDecoder.from_pretrained(saved[lora])
    expected = [decoder.generate(prefix, max_new_tokens=12, **each) for each in options]
    file.write_text(json.dumps({name: SETTINGS[name]}))
    decoder = CaptionDecoder.from_pretrained(saved[lora])
    assert [decoder.generate(prefix, max_new_tokens=12, **each) for each in options] == expected


def test_a_model_that_is_passed_in_is_no_exception(prefix):
    decoder = make_decoder(lora=False)
    model, expected = decoder.model, decoder.generate(prefix, max_new_tokens=12)
    model.generation_config = GenerationConfig(repetition_penalty=5.0, suppress_tokens=[*range(40, 160)])
    again = CaptionDecoder(model, decoder.tokenizer).eval()
    assert again.generate(prefix, max_new_tokens=12) == expected


def test_what_is_saved_asks_for_nothing(tmp_path):
    make_decoder(lora=False).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "base" / "generation_config.json").read_text())
    assert not set(values) & set(SETTINGS)
