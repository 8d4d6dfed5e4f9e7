"""The base model and the adapter of a pipeline's decoder, whether inside of its folder or on the Hub."""

import json

import torch
from peft import LoraConfig

from diffusion_link_hf.analysis.base_model import adapter_recipe, base_of
from diffusion_link_hf.decoder import load_causal_lm, load_tokenizer
from factories import make_decoder


def test_a_base_inside_is_copied_with_its_tokenizer(tmp_path):
    decoder = make_decoder(instruction="Say: ")
    decoder.save_pretrained(tmp_path / "decoder")
    folder, revision = base_of(tmp_path / "decoder", tmp_path / "copy")
    assert (folder, revision) == (str(tmp_path / "copy"), None)
    weights = load_causal_lm(tmp_path / "copy").state_dict()
    for name, tensor in decoder._base_state().items():
        assert torch.equal(weights[name], tensor), name
    ids = load_tokenizer(tmp_path / "copy")("a dog")["input_ids"]
    assert ids == decoder.tokenizer("a dog")["input_ids"]


def test_a_base_on_the_hub_is_referenced(tmp_path):
    decoder = make_decoder()
    decoder.source = {"id": "owner/model", "revision": "abc"}
    decoder.save_pretrained(tmp_path / "decoder")
    assert base_of(tmp_path / "decoder", tmp_path / "copy") == ("owner/model", "abc")
    assert not (tmp_path / "copy").exists()


def test_the_adapter_is_made_again_from_its_recipe(tmp_path):
    make_decoder().save_pretrained(tmp_path / "decoder")
    recipe = adapter_recipe(tmp_path / "decoder")
    assert recipe["r"] == 4
    assert sorted(recipe["target_modules"]) == ["q_proj", "v_proj"]
    json.dumps(recipe)
    again, saved = LoraConfig(**recipe).to_dict(), json.loads((tmp_path / "decoder/adapter_config.json").read_text())
    for name in ("lora_alpha", "lora_dropout", "bias", "use_rslora", "modules_to_save", "rank_pattern"):
        assert again[name] == saved[name]


def test_a_decoder_without_adapter_has_no_recipe(tmp_path):
    make_decoder(lora=False).save_pretrained(tmp_path / "decoder")
    assert adapter_recipe(tmp_path / "decoder") is None
