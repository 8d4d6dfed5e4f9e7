"""Makes the vectors that the converter of LAION checkpoints is tested with: laion_clap's own forward, at reduced size.

    python -m venv laion
    laion/bin/pip install torch==2.13.0 "numpy<2" transformers==4.46.3 torchlibrosa h5py safetensors
    laion/bin/pip install --no-deps laion-clap==1.1.7
    laion/bin/python examples/laion_parity/make_vectors.py examples/laion_parity

An environment of its own: laion_clap needs NumPy below 2. Its package imports torchvision and downloads a tokenizer at
import, so only its model classes are imported here. Weights are random, and exact in float16, in which they are stored.
"""

import argparse
import functools
import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ClapFeatureExtractor, RobertaConfig, RobertaModel

RATE, WINDOW = 48_000, 480_000
AUDIO = {"embed_dim": 4, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4]}
WIDTH, JOINT, TEXT_WIDTH = 32, 32, 64  # of the audio tower's end, the joint space, and RoBERTa
FRONT_END = {"model_type": "HTSAT", "model_name": "tiny", "hop_size": 480, "fmin": 50, "class_num": 3}
TEXT = {"context_length": 77, "vocab_size": 60, "width": 64, "heads": 1, "layers": 1, "model_type": "roberta"}


@functools.cache
def import_model_classes() -> types.ModuleType:
    """`laion_clap.clap_module.model` without the packages around it."""
    folder = Path(importlib.util.find_spec("laion_clap").submodule_search_locations[0])
    for name, path in (("laion_clap", folder), ("laion_clap.clap_module", folder / "clap_module")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    # Named by a function that freezes layers for training, and by nothing that runs here.
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.misc"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = nn.BatchNorm2d
    return importlib.import_module("laion_clap.clap_module.model")


def make_model(fused: bool) -> nn.Module:
    """A `CLAP` of laion_clap whose towers are narrow."""
    module = import_model_classes()
    htsat = importlib.import_module("laion_clap.clap_module.htsat")
    fusion = {"enable_fusion": fused, "fusion_type": "aff_2d" if fused else "None"}

    def narrow_audio(config, *_):
        sizes = {"spec_size": 256, "patch_size": 4, "patch_stride": (4, 4), "window_size": 8, "num_classes": 3}
        return htsat.HTSAT_Swin_Transformer(config=config, **sizes, **AUDIO, **fusion)

    text = RobertaConfig(
        vocab_size=TEXT["vocab_size"],
        hidden_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=96,
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-5,  # of roberta-base
    )
    module.create_htsat_model = narrow_audio
    module.RobertaModel = types.SimpleNamespace(from_pretrained=lambda name: RobertaModel(text))
    model = module.CLAP(WIDTH, FRONT_END, TEXT, joint_embed_shape=JOINT, **fusion)
    model.text_projection[0] = nn.Linear(TEXT_WIDTH, JOINT)  # 768 wide there, whatever the tower
    return model.eval()


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Weights under which every tensor matters to the output, exact in float16."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if "_extractor" in name or not value.is_floating_point() or name.endswith("attn_mask"):
            continue
        if name.endswith("running_var"):
            value.uniform_(100, 400) if "bn0" in name else value.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            value.normal_(-20 if "bn0" in name else 0, 5 if "bn0" in name else 0.2)
        elif value.ndim >= 2 and "table" not in name:
            value.normal_(0, value[0].numel() ** -0.5)
        else:
            value.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        value.copy_(value.half().float())


def recordings() -> np.ndarray:
    """(2, 24000) int16: half a second of a tone that rises, and of noise that fades."""
    seconds = np.arange(RATE // 2) / RATE
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    waves = [0.5 * np.sin(2 * np.pi * (300 + 3000 * seconds) * seconds), 0.1 * noise * np.exp(-4 * seconds)]
    return (np.stack(waves) * 32767).astype(np.int16)


@torch.no_grad()
def make_vectors(fused: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(int(fused))
    model = make_model(fused)
    randomize(model)
    waves = recordings()
    windows = np.tile(waves.astype(np.float32) / 32767, (1, WINDOW // waves.shape[1]))
    ids = torch.tensor([[0, 5, 17, 42, 2, 1, 1], [0, 9, 8, 7, 30, 59, 2]])
    text = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    vectors = {"waves": torch.from_numpy(waves), "ids": ids, "text": model.get_text_embedding(dict(text))}
    if not fused:
        vectors["audio"] = model.get_audio_embedding([{"waveform": torch.from_numpy(window)} for window in windows])
    else:
        extractor = ClapFeatureExtractor(truncation="fusion", frequency_min=FRONT_END["fmin"])

        def mel(window: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(extractor._np_extract_fbank_features(window, extractor.mel_filters)).float()

        short = [{"mel_fusion": mel(window).expand(4, -1, -1), "longer": torch.tensor(False)} for window in windows]
        views = [torch.stack([mel(np.roll(window, 3000 * shift)) for shift in range(4)]) for window in windows]
        long = [{"mel_fusion": view, "longer": torch.tensor(True)} for view in views]
        vectors |= {"audio": model.get_audio_embedding(short), "audio_longer": model.get_audio_embedding(long)}
    for name, value in model.state_dict().items():
        if "_extractor" not in name and not name.endswith("attn_mask"):  # megabytes that the configuration implies
            vectors[f"weights.{name}"] = value.half() if value.is_floating_point() else value.to(torch.uint8)
    return {name: value.contiguous() for name, value in vectors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of unfused.safetensors and fused.safetensors")
    folder = parser.parse_args().output
    for fused in (False, True):
        path = folder / f"{'fused' if fused else 'unfused'}.safetensors"
        save_file(make_vectors(fused), path)
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
