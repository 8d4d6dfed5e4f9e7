"""The log-mel front end against `ClapFeatureExtractor`."""

import csv

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from diffusion_link_hf.audio import WINDOW_SAMPLES, load_audio, split_windows
from diffusion_link_hf.errors import InputError
from diffusion_link_hf.models.log_mel import ClapLogMel

EXTRACTORS = {"unfused": "rand_trunc", "fused": "fusion"}


def reference(extractor: ClapFeatureExtractor, windows: np.ndarray) -> torch.Tensor:
    rows = [extractor(w, sampling_rate=48_000, return_tensors="np")["input_features"][0][0] for w in windows]
    return torch.from_numpy(np.stack(rows)).float()[:, None]


def synthetic_windows() -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(WINDOW_SAMPLES) / 48_000
    rumble = 0.9 * np.sin(2 * np.pi * 60 * t)  # a range of 100 dB within a frame, where float32 alone is not enough
    return np.stack(
        [
            rng.uniform(-1, 1, WINDOW_SAMPLES),
            rumble,
            rumble + 1e-5 * rng.standard_normal(WINDOW_SAMPLES),
            1e-4 * rng.standard_normal(WINDOW_SAMPLES),
            np.where(t < 5, np.sin(3000 * t), 0),
            np.zeros(WINDOW_SAMPLES),
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_equals_the_extractor_on_real_recordings(shared_data, kind):
    extractor = ClapFeatureExtractor(truncation=EXTRACTORS[kind], frequency_min=50)
    with open(shared_data / "esc10" / "index.csv", newline="") as file:
        names = [row["file_name"] for row in csv.DictReader(file)][::16]
    windows = np.stack([split_windows(load_audio(shared_data / "esc10" / name))[0].samples for name in names])
    ours = ClapLogMel.from_feature_extractor(extractor)(torch.from_numpy(windows))
    assert ours.shape == (len(names), 1, 1001, 64)
    assert (ours - reference(extractor, windows)).abs().max() < 1e-3


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("frequency_min", [0, 50])
def test_equals_the_extractor_on_hard_signals(kind, frequency_min):
    extractor = ClapFeatureExtractor(truncation=EXTRACTORS[kind], frequency_min=frequency_min)
    windows = synthetic_windows()
    ours = ClapLogMel.from_feature_extractor(extractor)(torch.from_numpy(windows))
    assert (ours - reference(extractor, windows)).abs().max() < 5e-3


def test_silence_is_minus_100_decibel():
    assert (ClapLogMel()(torch.zeros(1, WINDOW_SAMPLES)) == -100).all()


def test_rows_do_not_depend_on_their_batch():
    windows = torch.from_numpy(synthetic_windows())
    front_end = ClapLogMel()
    together = front_end(windows)
    for k in range(len(windows)):
        assert torch.equal(front_end(windows[k : k + 1])[0], together[k])


def test_other_frames_equal_the_extractor_too():
    extractor = ClapFeatureExtractor(
        feature_size=40,
        sampling_rate=16_000,
        hop_length=160,
        fft_window_size=400,
        frequency_min=0,
        frequency_max=8000,
        truncation="rand_trunc",
    )
    window = np.random.default_rng(0).uniform(-1, 1, 160_000).astype(np.float32)
    expected = extractor(window, sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    ours = ClapLogMel.from_feature_extractor(extractor)(torch.from_numpy(window[None]))[0]
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() < 1e-3


def test_a_strided_view_gives_the_same_bits():
    windows = torch.from_numpy(synthetic_windows())
    view = torch.stack([windows, -windows], dim=-1)[..., 0]
    assert not view.is_contiguous()
    front_end = ClapLogMel()
    assert torch.equal(front_end(view), front_end(windows))


def test_results_and_input_are_left_alone():
    windows = torch.from_numpy(synthetic_windows())
    front_end, before = ClapLogMel(), windows.clone()
    power = front_end.mel_power(windows)
    kept = power.clone()
    decibel = front_end(windows.flip(0)).flip(0)
    assert torch.equal(windows, before)
    assert torch.equal(front_end.to_decibel(power)[:, None], decibel)
    assert torch.equal(power, kept)


def test_gradients_reach_the_waveforms():
    noise = torch.from_numpy(synthetic_windows()[:1, :9600])
    waveforms = noise.clone().requires_grad_()
    front_end = ClapLogMel()
    decibel = front_end(waveforms)
    assert (decibel - front_end(noise)).abs().max() < 1e-3
    decibel.mean().backward()
    # A waveform (1 + e) times as loud has 20·log10(1 + e) dB more in every band: its derivative along itself.
    assert float((waveforms.grad * noise).sum()) == pytest.approx(20 / np.log(10), rel=1e-4)


def test_halving_a_model_keeps_the_front_end_exact():
    windows = torch.from_numpy(synthetic_windows()[:1])
    expected = ClapLogMel()(windows)
    for dtype in (torch.float16, torch.bfloat16):
        halved = torch.nn.Sequential(ClapLogMel()).to(dtype)
        assert torch.equal(halved(windows), expected)
        assert halved(windows).dtype == torch.float32


def test_nothing_of_it_is_saved():
    assert not ClapLogMel().state_dict()


@pytest.mark.parametrize(
    "waveforms", [torch.zeros(480_000), torch.zeros(1, 480_000, dtype=torch.int16), torch.zeros(1, 512)]
)
def test_wrong_input_is_refused(waveforms):
    with pytest.raises(InputError, match="waveforms"):
        ClapLogMel()(waveforms)


def test_unknown_scale_is_refused():
    with pytest.raises(InputError, match="bark"):
        ClapLogMel(mel_scale="bark")


def test_autocast_does_not_reach_the_front_end():
    windows = torch.from_numpy(synthetic_windows())
    expected = ClapLogMel()(windows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ClapLogMel()(windows), expected)
