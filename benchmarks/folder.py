"""A folder of recordings to CLAP embeddings: decode, resample, log-mel, HTSAT; against a plain transformers loop."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch.nn import functional as F
from transformers import ClapConfig, ClapModel

from diffusion_link_hf import ClapEncoder, ClapLogMel
from diffusion_link_hf.audio import load_audio, split_windows
from features import extractor
from harness import Row, Settings, agree, interleave, needs_gpu

CLIPS, BATCH, RATE = 16, 8, 44_100
TOLERANCE = 1e-5  # of unit rows
WANTED = "≥ 1.5× the loop, HTSAT ≥ 85 % of the time"
WANTED_GPU = "≥ 8× the loop, GPU busy ≥ 80 % of the time"
TEXT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def rows(settings: Settings) -> Iterator[Row]:
    name = f"folder of {CLIPS} recordings, 10 s, 44.1 kHz stereo"
    on_gpu = settings.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        yield needs_gpu("folder", f"{name}, GPU", WANTED_GPU)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = synthesize(Path(folder), settings.scaled(CLIPS))
        yield _row(f"{name}, GPU" if on_gpu else name, paths, settings)


def synthesize(folder: Path, count: int) -> list[Path]:
    """``count`` stereo flac files of colored noise and tones."""
    generator, paths = np.random.default_rng(0), []
    time = np.arange(10 * RATE) / RATE
    for k in range(count):
        noise = np.cumsum(generator.standard_normal((10 * RATE, 2)), axis=0)
        noise -= np.linspace(0, 1, 10 * RATE)[:, None] * noise[-1]
        tone = np.sin(2 * np.pi * generator.uniform(100, 4000) * time)[:, None]
        paths.append(folder / f"{k:03}.flac")
        soundfile.write(paths[-1], 0.4 * noise / np.abs(noise).max() + 0.2 * tone, RATE)
    return paths


def make_clap() -> ClapModel:
    """The audio tower of laion/clap-htsat-unfused with random weights, beside a small text tower that is not used."""
    torch.manual_seed(0)
    return ClapModel(ClapConfig(text_config=TEXT)).eval()


def resample(samples: np.ndarray) -> tuple[np.ndarray, str]:
    """To 48 kHz by `librosa.resample`, or, where librosa is not installed, by the soxr that it calls; and which."""
    try:
        import librosa
    except ImportError:
        return soxr.resample(samples, RATE, 48_000, quality="HQ"), "soxr (librosa is not installed)"
    return librosa.resample(samples, orig_sr=RATE, target_sr=48_000), "librosa.resample"


@torch.no_grad()
def plain_loop(model: ClapModel, theirs, paths: list[Path]) -> torch.Tensor:
    """(N, D) unit rows, as one writes it with transformers."""
    parts = []
    for first in range(0, len(paths), BATCH):
        waveforms = []
        for path in paths[first : first + BATCH]:
            samples, _ = soundfile.read(path, dtype="float32")
            # librosa rounds lengths up; of one sample more than ten seconds the extractor would crop at random.
            waveforms.append(resample(samples.mean(axis=1))[0][:480_000])
        inputs = theirs(waveforms, sampling_rate=48_000, return_tensors="pt").to(model.device)
        inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
        parts.append(model.get_audio_features(**inputs).pooler_output)
    return F.normalize(torch.cat(parts).float(), dim=-1)


def embed(clap: ClapEncoder, paths: list[Path]) -> torch.Tensor:
    """The same by this package. (N, D) unit rows."""
    parts = []
    for first in range(0, len(paths), BATCH):
        windows = [split_windows(load_audio(path))[0].samples for path in paths[first : first + BATCH]]
        parts.append(clap.encode_audio(np.stack(windows)))
    return torch.cat(parts)


def _row(name: str, paths: list[Path], settings: Settings) -> Row:
    model = make_clap().to(settings.device)
    clap, theirs = ClapEncoder(model, front_end=ClapLogMel()), extractor()
    features = torch.randn(BATCH, 1, 1001, 64, device=settings.device)
    batches = [min(BATCH, len(paths) - first) for first in range(0, len(paths), BATCH)]

    def tower():
        for count in batches:
            clap(input_features=features[:count])

    difference = agree(name, embed(clap, paths), plain_loop(model, theirs, paths), TOLERANCE)
    times, repeats = interleave(
        {"ours": lambda: embed(clap, paths), "peer": lambda: plain_loop(model, theirs, paths), "floor": tower}, settings
    )
    share = times["floor"] / times["ours"]
    on_gpu = settings.device == "cuda"
    met = times["peer"] >= (8 if on_gpu else 1.5) * times["ours"] and share >= (0.8 if on_gpu else 0.85)
    resampler = resample(np.zeros(RATE, np.float32))[1]
    note = (
        f"floor: HTSAT alone, {share:.0%} of ours; no loop around it can be more than "
        f"{times['peer'] / times['floor']:.2f}× faster than this peer; peer resamples by {resampler}; "
        f"results differ by {difference:.1e} at most"
    )
    return Row(
        "folder",
        name,
        **times,
        wanted=WANTED_GPU if on_gpu else WANTED,
        met=met,
        note=note,
        threads=torch.get_num_threads(),
        repeats=repeats,
        more={"share_of_htsat": share},
    )
