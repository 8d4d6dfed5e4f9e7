"""Recipes: what is out of range is refused, and overrides reach where they say."""

import pytest

from diffusion_link_hf.errors import RecipeError
from diffusion_link_hf.training.arguments import BridgeTrainingArguments
from diffusion_link_hf.training.recipes import launch_file, list_recipes, load_recipe, parse_fields, translate_recipe

COMMON = "cache: a\noutput: b\n"
STAGES = {
    "link": f"stage: bridge\nmethod: diffusion-link\n{COMMON}",
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
        ("link", "loss.topology_weight", [-1, ".inf"]),
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
    assert caught.value.item in (override, override.partition("=")[0])
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


def test_fields_are_yaml():
    texts = ["width=64", "dropout=0.1", "kind=procrustes", "snr_weight=true", "max_snr=null", "model.width=8"]
    assert parse_fields(texts) == {
        "width": 64,
        "dropout": 0.1,
        "kind": "procrustes",
        "snr_weight": True,
        "max_snr": None,
        "model.width": 8,
    }


def test_changes_may_be_a_mapping(tmp_path):
    (tmp_path / "r.yaml").write_text(STAGES["bridge"])
    changes = {"model.width": 64, "output": "c", "loss": {"topology_weight": 0}}
    texts = ["model.width=64", "output=c", "loss={topology_weight: 0}"]
    assert load_recipe(tmp_path / "r.yaml", changes) == load_recipe(tmp_path / "r.yaml", texts)


def test_recipes_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = list_recipes()
    assert set(known) == {
        "audiocaps-bridge",
        "audiocaps-bridge-shallow",
        "audiocaps-supervised",
        "audiocaps-zeroshot",
        "smollm2-supervised",
        "smollm2-zeroshot",
        "tiny-bridge",
        "tiny-decoder",
    }
    assert all(len(about) > 20 and not about.startswith("#") for about in known.values())
    for name in known:
        assert load_recipe(name, {"output": "x"}).output == "x"
    with pytest.raises(RecipeError, match="neither a file nor the name of a recipe") as caught:
        load_recipe("audiocaps-zerosot")
    assert "audiocaps-zeroshot" in caught.value.remedy
    (tmp_path / "tiny-bridge").write_text(STAGES["decoder"])  # a file of that name comes first
    assert load_recipe("tiny-bridge").stage == "decoder"


def test_launch_files_go_by_name():
    assert launch_file("fsdp").is_file()
    with pytest.raises(RecipeError, match="is 'dp'") as caught:
        launch_file("dp")
    assert "ddp_cpu" in caught.value.remedy


def test_the_link_stage_of_earlier_versions(tmp_path):
    """Its loss options move into ``loss``, and what it did not say keeps its old default."""
    old = f"stage: link\n{COMMON}topology_source: both\nmodel: {{width: 8}}\n"
    new = BridgeTrainingArguments(
        cache="a",
        output="b",
        method="diffusion-link",
        max_steps=20_000,
        learning_rate=1e-4,
        max_train_timestep=1000,
        model={"width": 8},
        loss={
            "topology_weight": 2.0,
            "topology_source": "both",
            "topology_reduction": "mean",
            "dim_reduction": "sum",
            "text_to_text": True,
        },
    )
    assert load(tmp_path, old, "topology_weight=2.0") == new
    assert load(tmp_path, old, "max_steps=7", "topology_weight=2.0").max_steps == 7
    with pytest.raises(RecipeError, match="lerning_rate: is no field"):
        load(tmp_path, old, "lerning_rate=1")


def test_other_words_of_earlier_versions(tmp_path):
    assert load(tmp_path, STAGES["decoder"] + "mode: text_only\n").mode == "zeroshot"
    assert load(tmp_path, f"stage: bridge\nmethod: centring\n{COMMON}").method == "centering"
    today = {"stage": "bridge", "method": "mlp", "loss": {}}
    assert translate_recipe(today) == today


def test_a_choice_is_checked_without_a_file():
    with pytest.raises(RecipeError, match="mixed_precision: is 'fp8'"):
        BridgeTrainingArguments(method="mlp", cache="a", output="b", mixed_precision="fp8")
