"""The log-mel front end against `ClapFeatureExtractor`, and against its own FFTs and mel product."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from transformers import ClapFeatureExtractor

from diffusion_link_hf.audio import load_audio, split_windows
from diffusion_link_hf.models.log_mel import FRAMES_AT_A_TIME, ClapLogMel
from harness import SOUNDS, Row, Settings, agree, interleave, needs_gpu, recordings

BATCH = 16
TOLERANCE = 1e-3  # dB, on recordings; 5e-3 on signals of extreme range
WANTED = "≥ 6× the extractor, ≤ 1.4× the floor"
WANTED_GPU = "≥ 50× the extractor on all cores"


def rows(settings: Settings) -> Iterator[Row]:
    name = f"log-mel, batch {BATCH}"
    if settings.device == "cuda":
        yield (
            _on_gpu(name, settings) if torch.cuda.is_available() else needs_gpu("features", f"{name}, GPU", WANTED_GPU)
        )
        return
    paths, kind = recordings(settings.scaled(BATCH))
    yield _on_one_thread(f"{name}, {kind}", paths, settings, TOLERANCE)
    if kind.startswith("recordings"):
        paths = (sorted(SOUNDS.glob("*.ogg")) * 2)[: settings.scaled(BATCH)]
        yield _on_one_thread(f"{name}, synthesized sounds of extreme range", paths, settings, 5 * TOLERANCE)


def load(paths) -> torch.Tensor:
    """(B, 480000): the first window of each file."""
    return torch.from_numpy(np.stack([split_windows(load_audio(path))[0].samples for path in paths]))


def extractor() -> ClapFeatureExtractor:
    return ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50)


def floor(front_end: ClapLogMel, clips: int):
    """The FFTs and one dense mel product of ``clips`` windows, and nothing else, in the pieces that are fastest.

    As bare as the demand is worded: the input lies in the cache, is neither read from the waveforms nor windowed, the
    spectra are not squared, and all is float32, though frames of extreme range need float64 to be exact enough.
    """
    frames = 1001 * clips
    piece = torch.randn(FRAMES_AT_A_TIME, front_end.n_fft)
    power = torch.rand(FRAMES_AT_A_TIME, len(front_end.mel_filters))
    filters = front_end.mel_filters.float()

    def work():
        for first in range(0, frames, FRAMES_AT_A_TIME):
            count = min(FRAMES_AT_A_TIME, frames - first)
            torch.fft.rfft(piece[:count])
            power[:count] @ filters

    return work


def _on_one_thread(name: str, paths, settings: Settings, tolerance: float) -> Row:
    waveforms = load(paths)
    front_end, theirs = ClapLogMel(), extractor()

    def peer():
        return theirs(list(waveforms.numpy()), sampling_rate=48_000, return_tensors="pt")["input_features"]

    difference = agree(name, front_end(waveforms), peer(), tolerance)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times, repeats = interleave(
            {"ours": lambda: front_end(waveforms), "peer": peer, "floor": floor(front_end, len(waveforms))}, settings
        )
    finally:
        torch.set_num_threads(threads)
    met = times["peer"] >= 6 * times["ours"] and times["ours"] <= 1.4 * times["floor"]
    note = f"floor: the FFTs and the mel product alone; results differ by {difference:.1e} dB at most"
    return Row("features", name, **times, wanted=WANTED, met=met, note=note, threads=1, repeats=repeats)


def _extract(waveform: np.ndarray) -> np.ndarray:
    torch.set_num_threads(1)
    return extractor()(waveform, sampling_rate=48_000, return_tensors="np")["input_features"][0]


def _on_gpu(name: str, settings: Settings) -> Row:
    paths, kind = recordings(BATCH)
    waveforms = load(paths)
    front_end = ClapLogMel().to("cuda")
    resident = waveforms.to("cuda")
    with ProcessPoolExecutor(os.cpu_count()) as pool:

        def peer():
            parts = pool.map(_extract, list(waveforms.numpy()))
            return torch.from_numpy(np.stack(list(parts))).to("cuda")

        difference = agree(name, front_end(resident), peer(), TOLERANCE)
        times, repeats = interleave({"ours": lambda: front_end(resident), "peer": peer}, settings)
    note = f"{kind}; peer: {os.cpu_count()} processes, then copied; results differ by {difference:.1e} dB at most"
    met = times["peer"] >= 50 * times["ours"]
    return Row("features", f"{name}, GPU", **times, wanted=WANTED_GPU, met=met, note=note, repeats=repeats)
