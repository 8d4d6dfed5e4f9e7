"""The recipes for SmolLM2: the paper's heads, and every field acts on a base of the same kind."""

import json

import pytest
import yaml
from safetensors.torch import load_file

from diffusion_link_hf.training.bridge import train_bridge
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.recipes import load_recipe
from support.models import EMBEDDING_DIM, HIDDEN_SIZE, make_clap
from support.training import make_base, make_cache

HEADS = {"zeroshot": (1, 1), "supervised": (10, 2)}  # tokens and layers of the projector


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    root, clap = tmp_path_factory.mktemp("room"), make_clap()
    clap.save_pretrained(root / "clap")
    cache = make_cache(60, clap=clap)
    cache.save(root / "cache")
    train_bridge("centering", cache, root / "link", progress=False)
    make_base(root / "base")
    return root


@pytest.mark.parametrize("mode", HEADS)
def test_the_recipe_trains(room, tmp_path, fresh_accelerator, mode):
    changes = {
        "cache": room / "cache",
        "link": room / "link" / "link",
        "clap": room / "clap",
        "base_model": room / "base",
        "output": tmp_path / "out",
    }
    small = {"max_steps": 2, "include_base": None, "report_to": "none", "weights_dtype": "bfloat16"}
    args = load_recipe(f"smollm2-{mode}", {name: str(path) for name, path in changes.items()} | small)
    train_decoder(args, progress=False)
    projector = json.loads((tmp_path / "out" / "projector" / "config.json").read_text())
    assert (projector["num_prefix_tokens"], projector["num_layers"]) == HEADS[mode]
    assert (projector["embedding_dim"], projector["hidden_size"]) == (EMBEDDING_DIM, HIDDEN_SIZE)
    adapter = load_file(tmp_path / "out" / "decoder" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in adapter} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    assert {min(weight.shape) for weight in adapter.values()} == {8}
    decoder = json.loads((tmp_path / "out" / "decoder" / "decoder_config.json").read_text())
    assert decoder["instruction"] == ("Describe the sound:" if mode == "zeroshot" else None)


def test_both_recipes_differ_in_what_the_paper_says(pytestconfig):
    folder = pytestconfig.rootpath / "hub_configs" / "smollm2"
    recipes = [yaml.safe_load((folder / f"{mode}.yaml").read_text()) for mode in HEADS]
    differ = {name for name in recipes[0] if recipes[0][name] != recipes[1][name]}
    assert differ == {"mode", "output", "instruction", "projector"}
    assert {recipe["base_model"] for recipe in recipes} == {"HuggingFaceTB/SmolLM2-135M-Instruct"}
