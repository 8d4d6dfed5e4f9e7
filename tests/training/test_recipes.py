"""Recipes: what is out of range is refused, and overrides reach where they say."""

import pytest

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.recipes import BridgeTrainingArguments, load_recipe

COMMON = "cache: a\noutput: b\n"
STAGES = {
    "link": f"stage: link\n{COMMON}",
    "bridge": f"stage: bridge\nmethod: mlp\n{COMMON}",
    "decoder": f"stage: decoder\nbase_model: c\nlora: null\n{COMMON}",
}


def load(folder, text, *overrides):
    (folder / "r.yaml").write_text(text)
    return load_recipe(folder / "r.yaml", list(overrides))


@pytest.mark.parametrize(
    ("stage", "field", "values"),
    [
        ("decoder", "max_steps", [-5]),
        ("decoder", "warmup_steps", [-3]),
        ("decoder", "warmup_epochs", [-1, ".nan"]),
        ("decoder", "epochs", [-1, 0, ".inf"]),
        ("decoder", "weight_decay", [-0.1, ".inf"]),
        ("decoder", "gradient_accumulation_steps", [0]),
        ("decoder", "bucket_batches", [0]),
        ("decoder", "patience", [-1]),
        ("decoder", "validation_captions", [0, 1]),
        ("decoder", "validate_metric", ["spice"]),
        ("decoder", "load_in_4bit", ["true", 4]),
        ("link", "gradient_accumulation_steps", [0]),
        ("link", "keep", ["first"]),
        ("link", "lr_schedule", ["linear"]),
        ("link", "rows_on", ["disk"]),
        ("link", "max_steps", [0, -1]),
        ("link", "lr_decay", [0, -1, 1.5, ".nan"]),
        ("link", "lr_decay_every", [0]),
        ("link", "ema_decay", [-0.1, 1, ".nan"]),
        ("link", "topology_weight", [-1, ".inf"]),
        ("link", "max_grad_norm", [-1]),
        ("link", "learning_rate", [0, ".inf", ".nan"]),
        ("link", "seed", [-1, 2**32]),
        ("bridge", "max_train_timestep", [0, 1001]),
        ("bridge", "ema_decay", [1]),
        ("bridge", "method", ['""']),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, stage, field, values):
    load(tmp_path, STAGES[stage])
    for value in values:
        with pytest.raises(RecipeError) as caught:
            load(tmp_path, STAGES[stage], f"{field}={value}")
        assert field in caught.value.item
        assert caught.value.remedy


def test_overrides_make_a_mapping_where_there_is_none(tmp_path):
    arguments = load(tmp_path, STAGES["decoder"], "lora.r=16", "lora.target_modules=[q_proj]", "projector.num_layers=2")
    assert arguments.lora == {"r": 16, "target_modules": ["q_proj"]}
    assert arguments.projector == {"num_layers": 2}


@pytest.mark.parametrize("override", ["model=[1", "cache.x=1", "batch_size.a.b=1", "=1", "model.=1", ".x=1", "model"])
def test_broken_overrides_are_refused(tmp_path, override):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, STAGES["link"] + "batch_size: 8\n", override)
    assert caught.value.item == override
    assert caught.value.remedy


def test_the_bridge_stage(tmp_path):
    arguments = load(tmp_path, STAGES["bridge"], "model.width=64", "loss.topology_weight=0")
    assert arguments == BridgeTrainingArguments(
        cache="a", output="b", method="mlp", model={"width": 64}, loss={"topology_weight": 0}
    )


def test_what_would_be_without_effect_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="warmup_steps: is 11"):
        load(tmp_path, STAGES["decoder"], "max_steps=10", "warmup_steps=11")
    with pytest.raises(RecipeError, match="validate_every: is 500"):
        load(tmp_path, STAGES["decoder"], "max_steps=10", "patience=2")
