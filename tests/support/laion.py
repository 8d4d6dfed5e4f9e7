"""Folders with the files of LAION's repositories on the Hub, with a tiny random CLAP in them.

The lists are those of laion/clap-htsat-fused and laion/clap-htsat-unfused at ``main`` (weights as pytorch_model.bin
alone), and of the revisions to which the Hub's bot added model.safetensors.
"""

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import ClapModel, ClapProcessor

from diffusion_link_hf import ClapEncoder
from support.models import make_clap_model

FILES = frozenset(
    {
        ".gitattributes",
        "README.md",
        "config.json",
        "merges.txt",
        "preprocessor_config.json",
        "pytorch_model.bin",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
SPECIAL |= {"cls_token": "<s>", "mask_token": "<mask>"}
# preprocessor_config.json as LAION published it; fields of former transformers among them.
FRONT_END = {
    "chunk_length_s": 10,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "fft_window_size": 1024,
    "frequency_max": 14000,
    "frequency_min": 50,
    "hop_length": 480,
    "max_length_s": 10,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": 1000,
    "nb_max_samples": 480000,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": 48000,
    "top_db": None,
    "truncation": "rand_trunc",
}


def make_laion_folder(folder: Path, fused: bool = False, safetensors: bool = False, processor: bool = False) -> Path:
    """A repository's files.

    Args:
        fused: as laion/clap-htsat-fused; otherwise as the others.
        safetensors: beside the pickle, as the Hub's bot adds them; the pickle's weights are then others.
        processor: ``processor_config.json`` in place of ``preprocessor_config.json``, as today's transformers saves.
    """
    folder.mkdir(parents=True)
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# CLAP\n")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: k for k, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet, "<mask>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    described = {**SPECIAL, "add_prefix_space": False, "errors": "replace", "model_max_length": 512}
    described |= {"processor_class": "ClapProcessor", "tokenizer_class": "RobertaTokenizer", "trim_offsets": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    front_end = FRONT_END | {"truncation": "fusion" if fused else "rand_trunc"}
    (folder / "preprocessor_config.json").write_text(json.dumps(front_end))
    from transformers import RobertaTokenizer

    RobertaTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = make_clap_model(fused).config
    config.text_config.vocab_size = len(vocabulary)
    model = ClapModel(config).eval()
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["ClapModel"]}))
    if safetensors:
        model.save_pretrained(folder)
        torch.nn.init.normal_(model.audio_projection.linear2.weight)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if processor:
        ClapProcessor.from_pretrained(folder).save_pretrained(folder)
        (folder / "preprocessor_config.json").unlink()
    return folder


def embeddings(clap: ClapEncoder) -> torch.Tensor:
    """(2, D): of a text and of ten seconds of noise."""
    noise = 0.1 * torch.randn(1, 480_000, generator=torch.Generator().manual_seed(0))
    return torch.cat([clap.encode_text(["rain"]), clap.encode_audio(noise)])
