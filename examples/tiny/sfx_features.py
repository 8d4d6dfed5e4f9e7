"""The frozen network's features over time of scenes, written shard by shard."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from diffusion_link_hf.models.levels import loudest_dbfs
from diffusion_link_hf.models.sfx_network import (
    LARGEST_VALUE,
    LOG_SCALE,
    NUM_MEL_BINS,
    SFX_SAMPLING_RATE,
    SfxLogMel,
    SfxNetwork,
)

BAND_LIMIT = 15_000.0  # Hz; the recordings were stored at 32 kHz
BATCH = 8
NETWORK = Path("sfx_network") / "model.safetensors"


def equalized(spectrogram: torch.Tensor, rng: np.random.Generator, decibel: float = 3.0) -> torch.Tensor:
    """A spectrogram of `SfxLogMel` as if a smooth random equalizer of some dB had been before it."""
    knots = rng.normal(0, decibel, 6)
    gain = torch.from_numpy(10 ** (np.interp(np.linspace(0, 5, NUM_MEL_BINS), np.arange(6), knots) / 10)).float()
    power = (10 ** (LARGEST_VALUE * spectrogram) - 1) / LOG_SCALE
    return torch.log10(1 + LOG_SCALE * power * gain) / LARGEST_VALUE


class Extractor:
    """Samples to features, in 16-bit floats where the processor has them (four times faster here)."""

    def __init__(self):
        self.front_end = SfxLogMel(BAND_LIMIT)
        self.network = load_network().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, samples: list[np.ndarray], rng: np.random.Generator | None = None) -> np.ndarray:
        """Scenes of 441,000 samples → (N, 53, 512) float16."""
        spectrogram = self.front_end(torch.from_numpy(np.stack(samples)))
        if rng is not None:
            spectrogram = torch.stack([equalized(row, rng) if rng.random() < 0.6 else row for row in spectrogram])
        with torch.autocast("cpu", torch.bfloat16):
            return self.network.frame_features(spectrogram).float().numpy().astype(np.float16)


def load_network() -> SfxNetwork:
    """The network that convert_sfx_network.py wrote."""
    network = SfxNetwork().eval()
    network.load_state_dict(load_file(NETWORK))
    return network


@torch.inference_mode()
def silence_features() -> torch.Tensor:
    """(512,) features of digital silence."""
    return load_network().frame_features(torch.zeros(1, 200, NUM_MEL_BINS))[0, 12].clone()


def load_scenes(path: Path) -> tuple[torch.Tensor, list[dict]]:
    """Features (N, 53, 512) float16 of a shard, and a description of each scene."""
    rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
    return torch.from_numpy(np.load(path)), rows


def write_shard(path: Path, scenes, extractor: Extractor, rng: np.random.Generator | None) -> None:
    """``scenes`` yields (samples, description); ``rng`` equalizes them at random."""
    features, rows, waiting = [], [], []
    for samples, row in scenes:
        level = float(loudest_dbfs(torch.from_numpy(samples)[None], SFX_SAMPLING_RATE))
        rows.append({**row, "loudest_db": round(level, 1)})
        waiting.append(samples)
        if len(waiting) == BATCH:
            features.append(extractor(waiting, rng))
            waiting = []
    if waiting:
        features.append(extractor(waiting, rng))
    with open(path.with_suffix(".jsonl"), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, np.concatenate(features))
    temporary.rename(path)
