"""Converts LAION's published CLAP checkpoints (``.pt``) to the folder of safetensors that `ClapEncoder` reads."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import ClapConfig, ClapModel

from ..errors import InputError, ModelFolderError, listed
from ..files import whole_folder
from ..loading import LoadPath, check_vocabulary, load_tokenizer, resolve_folder
from ..pickled_weights import read_tensors
from .clap import ClapEncoder

DEFAULT_TOKENIZER = "FacebookAI/roberta-base"
# laion_clap cuts captions there, so its text tower saw nothing longer.
MAX_TOKENS = 77
# The training wrote NumPy numbers beside the weights. Rebuilding those runs no code of the file.
_NUMBERS = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
]
# LAION's names → those of transformers, the first that fits. `qkv` is one matrix there and three here.
_RENAMED = (
    (r"text_branch\.(.+)", r"text_model.\1"),
    (r"(audio|text)_projection\.0\.(.+)", r"\1_projection.linear1.\2"),
    (r"(audio|text)_projection\.2\.(.+)", r"\1_projection.linear2.\2"),
    (r"(logit_scale_[at])", r"\1"),
    (r"audio_branch\.bn0\.(.+)", r"audio_model.audio_encoder.batch_norm.\1"),
    (r"audio_branch\.((?:patch_embed|norm)\..+)", r"audio_model.audio_encoder.\1"),
    (r"audio_branch\.(layers\.\d+\.downsample\..+)", r"audio_model.audio_encoder.\1"),
    (r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)norm1\.(.+)", r"audio_model.audio_encoder.\1layernorm_before.\2"),
    (r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)norm2\.(.+)", r"audio_model.audio_encoder.\1layernorm_after.\2"),
    (r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)mlp\.fc1\.(.+)", r"audio_model.audio_encoder.\1intermediate.dense.\2"),
    (r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)mlp\.fc2\.(.+)", r"audio_model.audio_encoder.\1output.dense.\2"),
    (
        r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)attn\.proj\.(.+)",
        r"audio_model.audio_encoder.\1attention.output.dense.\2",
    ),
    (
        r"audio_branch\.(layers\.\d+\.blocks\.\d+\.)attn\.(qkv\..+|relative_position_.+)",
        r"audio_model.audio_encoder.\1attention.self.\2",
    ),
)
# What no embedding depends on, and why.
_DROPPED = {
    r"audio_branch\.(spectrogram_extractor|logmel_extractor)\..+": "front end, computed by ClapLogMel",
    r"audio_branch\.(tscam_conv|head)\..+": "classes of AudioSet",
    r"audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask": "computed from the window size",
    r"(audio|text)_transform\..+": "heads of a training loss",
}
# Buffers that follow from the configuration and may be missing in the checkpoint.
_COMPUTED = r".*(position_ids|token_type_ids|relative_position_index|num_batches_tracked)"


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint was.

    Attributes:
        architecture: "HTSAT-tiny", "HTSAT-base" or "HTSAT-large"; "HTSAT" of another width.
        fused: whether it fuses views of long audio.
        used: number of tensors that were taken over.
        dropped: name → why it was left out.
    """

    architecture: str
    fused: bool
    used: int
    dropped: dict[str, str]


def convert_laion(
    checkpoint: LoadPath,
    output: LoadPath,
    tokenizer: LoadPath | None = DEFAULT_TOKENIZER,
    token: str | bool | None = None,
    cache_dir: LoadPath | None = None,
    local_files_only: bool = False,
) -> Conversion:
    """Write ``output``: config.json, preprocessor_config.json, model.safetensors and the tokenizer's files.

    The architecture is read off the shapes of the weights. Every tensor is used or in `Conversion.dropped`, and every
    parameter of `ClapModel` gets one. Captions are cut at 77 tokens, as laion_clap cuts them.

    Args:
        checkpoint: ``.pt`` of HTSAT and RoBERTa, fused (aff_2d) or not; read by ``torch.load(weights_only=True)``.
        output: a folder that does not exist yet, or is empty.
        tokenizer: RoBERTa's, a folder or a Hub id; None for a CLAP that embeds audio only.
        token, cache_dir, local_files_only: for a tokenizer from the Hub.

    Raises:
        InputError: no such file, or ``output`` holds something already.
        ModelFolderError: no such checkpoint, one that could run code, one with tensors that are not known or are
            missing, and a tokenizer of another vocabulary.
        HubAccessError: the tokenizer cannot be had.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(output, "exists and is not empty", "Name a new folder")
    state = read_checkpoint(checkpoint)
    model, conversion = convert_state(state, checkpoint)
    encoder = ClapEncoder(
        model, None if tokenizer is None else _tokenizer(tokenizer, token, cache_dir, local_files_only)
    )
    if encoder.tokenizer is not None:
        check_vocabulary(encoder.tokenizer, model.config.text_config.vocab_size, tokenizer)
        encoder.tokenizer.model_max_length = MAX_TOKENS
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(output) as folder:
        encoder.save_pretrained(folder)
        ClapEncoder.from_pretrained(folder)  # strictly, as it will be read
    return conversion


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a LAION checkpoint, without the prefix that distributed training adds.

    Raises:
        InputError: no such file.
        ModelFolderError: not a checkpoint of tensors, or one that could run code.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise InputError(path, problem, "Name a .pt file of LAION-CLAP")
    state = read_tensors(path, "Use a checkpoint that LAION published", _NUMBERS)
    return {name.removeprefix("module."): value for name, value in state.items()}


def convert_state(state: dict[str, torch.Tensor], item: object) -> tuple[ClapModel, Conversion]:
    """(model, what it was) of the tensors of a checkpoint.

    Raises:
        ModelFolderError: naming ``item``; unknown, missing or misshapen tensors.
    """
    converted, dropped, unknown = {}, {}, []
    for name, value in state.items():
        reason = next((why for pattern, why in _DROPPED.items() if re.fullmatch(pattern, name)), None)
        target = next((re.sub(old, new, name) for old, new in _RENAMED if re.fullmatch(old, name)), None)
        if reason is not None:
            dropped[name] = reason
        elif target is not None:
            converted |= _split_qkv(target, value)
        else:
            unknown.append(name)
    remedy = "Only HTSAT with RoBERTa is known, fused by aff_2d or not"
    if unknown:
        raise ModelFolderError(item, f"has tensors that no part of ClapModel takes: {listed(unknown)}", remedy)
    try:
        config = infer_config(state)
    except (KeyError, IndexError, ValueError, StopIteration, ZeroDivisionError) as error:
        raise ModelFolderError(item, f"is no LAION-CLAP of HTSAT and RoBERTa ({error!r} is missing)", remedy) from error
    model = ClapModel(config).eval()
    own = model.state_dict()
    missing = [name for name in own if name not in converted and not re.fullmatch(_COMPUTED, name)]
    unexpected = [name for name in converted if name not in own and not re.fullmatch(_COMPUTED, name)]
    shapes = [name for name, value in converted.items() if name in own and own[name].shape != value.shape]
    for names, problem in (
        (missing, "lacks"),
        (unexpected, "has tensors that no part of ClapModel takes:"),
        (shapes, "has other shapes for"),
    ):
        if names:
            raise ModelFolderError(item, f"{problem} {listed(names)}", remedy)
    model.load_state_dict({name: value for name, value in converted.items() if name in own}, strict=False)
    audio = config.audio_config
    size = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}.get(audio.patch_embeds_hidden_size, "HTSAT")
    return model, Conversion(size, audio.enable_fusion, len(state) - len(dropped), dropped)


def infer_config(state: dict[str, torch.Tensor]) -> ClapConfig:
    """The configuration that the shapes of LAION's tensors tell.

    They do not tell the number of attention heads of the text tower; RoBERTa's are 64 wide. Raises KeyError and the
    like for tensors that are not there.
    """
    patches = state["audio_branch.patch_embed.proj.weight"]
    width, stages = patches.shape[0], list(_indices(state, r"audio_branch\.layers\.(\d+)\.blocks\..+"))
    tables = [state[f"audio_branch.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages]
    depths = [len(list(_indices(state, rf"audio_branch\.layers\.{i}\.blocks\.(\d+)\..+"))) for i in stages]
    first = "audio_branch.layers.0.blocks.0.mlp.fc1.weight"
    fusion = state.get("audio_branch.patch_embed.fusion_model.local_att.0.weight")
    projection = state["audio_projection.0.weight"].shape[0]
    audio = {
        "spec_size": 256,
        "num_mel_bins": state["audio_branch.bn0.weight"].shape[0],
        "window_size": (math.isqrt(tables[0].shape[0]) + 1) // 2,
        "patch_size": patches.shape[-1],
        "patch_stride": [patches.shape[-1]] * 2,
        "patch_embeds_hidden_size": width,
        "hidden_size": width * 2 ** (len(stages) - 1),
        "depths": depths,
        "num_attention_heads": [table.shape[1] for table in tables],
        "num_hidden_layers": len(stages),
        "mlp_ratio": state[first].shape[0] / state[first].shape[1],
        "enable_fusion": fusion is not None,
        "fusion_type": None if fusion is None else "aff_2d",
        "aff_block_r": 4 if fusion is None else width // fusion.shape[0],
    }
    words = state["text_branch.embeddings.word_embeddings.weight"]
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": len(list(_indices(state, r"text_branch\.encoder\.layer\.(\d+)\..+"))),
        "num_attention_heads": max(1, words.shape[1] // 64),
        "intermediate_size": state["text_branch.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state["text_branch.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": state["text_branch.embeddings.token_type_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-5,  # RoBERTa's; the default of ClapTextConfig is another
    }
    return ClapConfig(audio_config=audio, text_config=text, projection_dim=projection)


def _indices(state: dict[str, torch.Tensor], pattern: str) -> Iterator[int]:
    """The different numbers that a pattern finds in the names, counted from 0."""
    return iter(sorted({int(match[1]) for name in state if (match := re.fullmatch(pattern, name))}))


def _split_qkv(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    if ".qkv." not in name:
        return {name: value}
    parts = value.chunk(3, dim=0)
    return {
        name.replace(".qkv.", f".{part}."): piece.clone()
        for part, piece in zip(("query", "key", "value"), parts, strict=True)
    }


def _tokenizer(name: LoadPath, token, cache_dir, local_files_only):
    patterns = ["config.json", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json"]
    folder = resolve_folder(
        name, token=token, cache_dir=cache_dir, local_files_only=local_files_only, allow_patterns=patterns
    )
    return load_tokenizer(folder, "Name a folder or Hub id of RoBERTa's tokenizer")
