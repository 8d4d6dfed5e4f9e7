"""A small data set with a modality gap, a tiny base model, and recipes that train on them in seconds."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from diffusion_link_hf import EmbeddingCache
from diffusion_link_hf.embeddings.cache import clap_fingerprint
from diffusion_link_hf.training.arguments import BridgeTrainingArguments, DecoderTrainingArguments
from support.models import EMBEDDING_DIM, make_language_model, make_tokenizer

WORDS = ("dog", "rain", "bell", "wind")


def make_cache(n=240, seed=0, clap=None) -> EmbeddingCache:
    """Text clusters by word; audio is a rotated, shifted, noisy copy: a modality gap in miniature."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(len(WORDS), EMBEDDING_DIM, generator=generator)
    kind = torch.arange(n) % len(WORDS)
    text = centers[kind] + 0.5 * torch.randn(n, EMBEDDING_DIM, generator=generator)
    rotation = torch.linalg.qr(torch.randn(EMBEDDING_DIM, EMBEDDING_DIM, generator=generator))[0]
    audio = text @ rotation + 2.0 + 0.3 * torch.randn(n, EMBEDDING_DIM, generator=generator)
    unit = torch.nn.functional.normalize
    return EmbeddingCache(
        unit(audio, dim=1),
        unit(text, dim=1),
        torch.arange(n),
        [WORDS[k] for k in kind],
        [f"{i}.wav" for i in range(n)],
        {"clap": clap_fingerprint(clap) if clap else None},
    )


def make_uneven_cache() -> EmbeddingCache:
    """`make_cache` with captions of one to seven words."""
    cache = make_cache()
    cache.captions = [f"{caption} {'again ' * (k % 7)}" for k, caption in enumerate(cache.captions)]
    return cache


def make_base(folder: Path) -> Path:
    """A causal LM's folder."""
    torch.manual_seed(0)
    model = make_language_model()
    model.lm_head.weight.data *= 50  # as sharp as a trained one: an adapter cannot sharpen a frozen output layer
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def bridge_arguments(cache, output, **changes):
    """Of Diffusion-Link, small."""
    options = {
        "method": "diffusion-link",
        "max_steps": 300,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "max_train_timestep": 150,
        "validation_fraction": 0.2,
        "checkpoint_every": 100,
        "validate_every": 100,
        "report_to": "none",
        "ema_decay": 0.98,
        "model": {"width": 64, "time_embed_dim": 16, "add_noise": False, "num_inference_steps": 1},
    }
    return BridgeTrainingArguments(cache=str(cache), output=str(output), **{**options, **changes})


def decoder_arguments(cache, base, output, **changes):
    options = {
        "mode": "supervised",
        "projector": {"num_prefix_tokens": 2, "num_layers": 2},
        "max_steps": 250,
        "warmup_steps": 10,
        "batch_size": 32,
        "learning_rate": 2e-2,
        "max_grad_norm": 1.0,
        "lora": {"r": 8, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]},
        "validation_fraction": 0.2,
        "report_to": "none",
        "checkpoint_every": 80,
        "validate_every": 100,
    }
    return DecoderTrainingArguments(
        cache=str(cache), output=str(output), base_model=str(base), **{**options, **changes}
    )


def relative_difference(a: Path, b: Path) -> float:
    """The largest ‖a − b‖ / ‖a‖ of the files that two runs wrote; a frozen base in a file of its own hides nothing."""
    found = []
    for path in sorted(a.rglob("*.safetensors")):
        ours, theirs = load_file(path), load_file(b / path.relative_to(a))
        assert set(ours) == set(theirs)
        difference = sum((ours[name] - theirs[name]).double().square().sum() for name in ours)
        found.append(float(difference / sum(value.double().square().sum() for value in ours.values())) ** 0.5)
    return max(found)
