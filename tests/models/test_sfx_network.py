"""aiSFX's network: equal to the package aisfx, in its own terms at every level, length and batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusion_link_hf import EverydayClapEncoder, InputError
from diffusion_link_hf.models.sfx_network import SFX_SAMPLING_RATE, SfxLogMel, SfxNetwork
from support.sfx import formula_weights, package_shapes, sound

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent / "examples" / "tiny"))

from convert_sfx_network import fold_package_weights  # noqa: E402

CLOSE = 1e-4  # of the largest value


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(TESTS / "fixtures" / "aisfx" / "expected.safetensors")


@pytest.fixture(scope="module")
def spectrogram() -> torch.Tensor:
    return SfxLogMel()(torch.from_numpy(sound())[None])


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_the_spectrogram_is_the_packages(spectrogram, expected):
    assert spectrogram.shape == (1, *expected["spectrogram"].shape)
    assert apart(spectrogram[0], expected["spectrogram"]) < CLOSE


def test_the_network_is_the_packages_with_its_batch_norms_folded_in(spectrogram, expected):
    network = SfxNetwork().eval()
    network.load_state_dict(fold_package_weights(formula_weights(package_shapes()), prefix=""))
    with torch.inference_mode():
        assert apart(network(spectrogram)[0], expected["formula_embedding"]) < CLOSE


def test_the_embedded_pipeline_holds_the_packages_weights(spectrogram, expected):
    """In 16 bits, which cost some thousandths."""
    network = EverydayClapEncoder.from_pretrained("tiny").model.network
    with torch.inference_mode():
        assert apart(network(spectrogram)[0], expected["embedding"]) < 5e-3


def test_a_row_depends_neither_on_its_level_nor_on_its_batch(spectrogram):
    wave = torch.from_numpy(sound())
    louder = SfxLogMel()(torch.stack([0.01 * wave, torch.randn_like(wave), wave]))
    assert torch.equal(louder[2], spectrogram[0])
    torch.testing.assert_close(louder[0], spectrogram[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [1, 1024, 8191, 44_100])
def test_any_length_has_features(samples):
    waves = torch.from_numpy(np.tile(sound(), 2)[:samples])[None]
    features = SfxNetwork().eval().frame_features(SfxLogMel()(waves))
    assert features.shape == (1, max(1, (1 + samples // 1024) // 8), 512)


def test_silence_is_zero_and_bands_above_the_limit_too():
    assert (SfxLogMel()(torch.zeros(1, 9_000)) == 0).all()
    limited = SfxLogMel(band_limit=4_000.0)
    assert limited.frequency_max == 4_000.0
    tone = torch.sin(2 * torch.pi * 9_000 * torch.arange(9_000) / SFX_SAMPLING_RATE)[None]
    assert limited(tone)[:, 2:-2].max() < 0.2 < SfxLogMel()(tone)[:, 2:-2].max()


def test_half_precision_leaves_the_front_end_alone():
    front_end = SfxLogMel().to(torch.float16)
    assert front_end.filters.dtype == front_end.window.dtype == torch.float32


@pytest.mark.parametrize("waves", [torch.zeros(5), torch.zeros(1, 5, dtype=torch.int16)])
def test_what_is_no_batch_of_waveforms_is_refused(waves):
    with pytest.raises(InputError, match="shape"):
        SfxLogMel()(waves)
    with pytest.raises(InputError, match="band_limit"):
        SfxLogMel(band_limit=0)
