"""The recipe of the adapter of a pipeline's decoder."""

import json

from peft import LoraConfig

from diffusion_link_hf.experiments.adapter_recipe import adapter_recipe
from support.models import make_decoder


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
