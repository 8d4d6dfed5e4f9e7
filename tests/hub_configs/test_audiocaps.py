"""The paper's configurations: what they build, at full size on the meta device and for real at a reduced one."""

import numpy as np
import pytest
import torch

from diffusion_link_hf import AudioCaptionPipeline, ClapEncoder, DiffusionLinkModel, PrefixProjector
from diffusion_link_hf.loading import BaseReference
from diffusion_link_hf.models.decoder import CaptionDecoder
from diffusion_link_hf.training.methods import METHODS, build_bridge
from diffusion_link_hf.training.recipes import load_recipe
from support.models import make_tokenizer

MODES = {"zeroshot": (1, 1), "supervised": (10, 2)}  # tokens and layers of the projector


@pytest.fixture
def folder(pytestconfig):
    return pytestconfig.rootpath / "hub_configs" / "audiocaps"


def count(module, trainable=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def test_full_size_on_the_meta_device(folder):
    with torch.device("meta"):
        clap = ClapEncoder.from_config(folder / "clap")
        decoder = CaptionDecoder.from_config(folder / "decoder")
    assert clap.embedding_dim == 512
    lora = 32 * 2 * 2 * 16 * 4096  # layers × (q, v) × (A, B) × rank × width
    assert count(decoder, trainable=True) == lora == 8_388_608
    assert count(decoder) - lora == 6_738_415_616  # LLaMA-2 7B
    assert decoder.source == BaseReference("meta-llama/Llama-2-7b-hf", "main")


@pytest.mark.parametrize("mode", MODES)
def test_reduced_size_runs(folder, mode):
    """With the projector of the recipe; the folder's own is that of the zero-shot one."""
    tokenizer = make_tokenizer()
    projector = PrefixProjector(embedding_dim=512, hidden_size=64, **load_recipe(f"audiocaps-{mode}").projector)
    pipe = AudioCaptionPipeline.from_config(
        folder,
        clap={"depths": [1, 1, 1], "num_attention_heads": [1, 2, 4], "patch_embeds_hidden_size": 16, "hidden_size": 64},
        decoder={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 96,
            "vocab_size": len(tokenizer),
        },
        **({} if mode == "zeroshot" else {"projector": projector}),
    )
    pipe.decoder.tokenizer = tokenizer
    # Zero at first: an untrained link predicts nothing.
    torch.nn.init.normal_(pipe.link.denoiser.proj_out[-1].weight, std=0.1)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.projector.config.num_prefix_tokens, pipe.projector.config.num_layers) == MODES[mode]
    assert pipe.link.config.noise_timestep == 100
    assert pipe.link.config.num_inference_steps == 5
    audio = np.random.default_rng(0).uniform(-0.2, 0.2, 48_000).astype(np.float32)
    assert isinstance(pipe(audio, 48_000, max_new_tokens=5).captions[0], str)


def test_the_bridge_is_the_papers(folder):
    bridge = load_recipe(folder / "bridge.yaml")
    assert (bridge.stage, bridge.method, bridge.max_train_timestep) == ("bridge", "diffusion-link", 1000)
    found = (bridge.batch_size, bridge.learning_rate, bridge.lr_decay, bridge.lr_decay_every, bridge.ema_decay)
    assert found == (128, 1e-4, 0.97, 200, 0.995)
    built = build_bridge(bridge.method, 512, **bridge.model).config
    saved = DiffusionLinkModel.load_config(folder / "link")
    assert {name: built[name] for name in bridge.model} == {name: saved[name] for name in bridge.model}


@pytest.mark.parametrize("mode", MODES)
def test_the_decoders_are_the_papers(folder, mode):
    decoder = load_recipe(folder / f"{mode}.yaml")
    assert decoder == load_recipe(f"audiocaps-{mode}")
    found = (decoder.mode, decoder.batch_size, decoder.epochs, decoder.warmup_epochs, decoder.learning_rate)
    assert found == (mode, 4, 50, 2, 5e-6)
    tokens, layers = MODES[mode]
    assert decoder.projector == {"num_prefix_tokens": tokens, "num_layers": layers}
    assert bool(decoder.instruction) == (mode == "zeroshot")


@pytest.mark.parametrize("mode", MODES)
def test_recipes_fit_the_full_size(folder, mode):
    """The frozen base in 16 bits, float32 adapters, and a reference to the base rather than a copy of it."""
    decoder = load_recipe(folder / f"{mode}.yaml")
    assert (decoder.mixed_precision, decoder.base_dtype, decoder.include_base) == ("bf16", "bfloat16", False)
    assert decoder.bucket_batches > 1
    assert (decoder.keep, decoder.patience, decoder.validate_metric) == ("last", 0, "loss")  # as in the paper
    four_bit = load_recipe(folder / f"{mode}.yaml", ["load_in_4bit=true", "gradient_checkpointing=true"])
    assert four_bit.load_in_4bit


def test_the_second_preset_is_the_method_of_the_bridge_zoo():
    link = load_recipe("audiocaps-bridge-shallow")
    method = METHODS["diffusion-link-shallow"]
    assert link.max_train_timestep == method.max_train_timestep
    shared = method.config(512).items() - {("embedding_dim", 512)}
    assert shared <= link.model.items()
