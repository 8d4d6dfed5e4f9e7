"""Decoding, mono, resampling, windows, and what bad audio gets."""

import io

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ClapFeatureExtractor

from diffusion_link_hf.audio import SAMPLING_RATE, WINDOW_SAMPLES, find_audio_files, load_audio, split_windows
from diffusion_link_hf.errors import (
    AudioContentError,
    AudioDecodeError,
    AudioError,
    AudioFormatError,
    AudioNotFoundError,
)

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("AIFF", "PCM_16"),
]


def tone(seconds=2.0, rate=SAMPLING_RATE, frequency=440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(samples, rate=SAMPLING_RATE, format="WAV", subtype="PCM_16") -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_formats_decode_to_the_same_sound(format, subtype):
    decoded = load_audio(encode(tone(), format=format, subtype=subtype))
    assert decoded.dtype == np.float32
    assert len(decoded) == pytest.approx(2 * SAMPLING_RATE, abs=2500)  # codecs pad
    n = min(len(decoded), 2 * SAMPLING_RATE)
    spectrum = np.abs(np.fft.rfft(decoded[:n]))
    assert np.argmax(spectrum) * SAMPLING_RATE / n == pytest.approx(440, abs=2)


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 22_050, 44_100, 96_000, 192_000, 768_000])
def test_resampling_keeps_pitch_and_length(rate):
    decoded = load_audio(encode(tone(rate=rate, frequency=220), rate))
    assert len(decoded) == pytest.approx(2 * SAMPLING_RATE, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(decoded))) / 2 == pytest.approx(220, abs=1)


def test_block_by_block_equals_whole(tmp_path):
    """A long file is read in blocks; the result is that of resampling it whole."""
    import soxr

    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 30 * 44_100).astype(np.float32)
    sf.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    whole = soxr.resample(samples, 44_100, SAMPLING_RATE)
    blocks = load_audio(tmp_path / "a.wav")
    assert len(blocks) == len(whole)
    np.testing.assert_allclose(blocks, whole, atol=2e-5)


def test_channels_are_averaged():
    left, right = tone(frequency=300), tone(frequency=700)
    expected = (left + right) / 2
    for array in (np.stack([left, right]), np.stack([left, right], axis=1)):
        np.testing.assert_allclose(load_audio(array, SAMPLING_RATE), expected, atol=1e-7)
    many = np.stack([left] * 32, axis=1)
    np.testing.assert_allclose(load_audio(encode(many, subtype="FLOAT")), left, atol=1e-6)


def test_every_way_to_pass_the_same_sound(tmp_path):
    import torch

    path = tmp_path / "a.wav"
    path.write_bytes(encode(tone(), subtype="FLOAT"))
    expected = load_audio(path)
    ways = [
        str(path),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        {"path": str(path)},
        {"bytes": path.read_bytes(), "path": "x.wav"},
        {"array": expected, "sampling_rate": SAMPLING_RATE},
        {"array": expected.tolist(), "sampling_rate": SAMPLING_RATE},
    ]
    for way in ways:
        np.testing.assert_array_equal(load_audio(way), expected)
    np.testing.assert_array_equal(load_audio(torch.from_numpy(expected), SAMPLING_RATE), expected)


class Decoder:
    """What `datasets` gives since its version 4: torchcodec's AudioDecoder, as far as it matters."""

    def __init__(self, samples, rate, error=None):
        self.samples, self.rate, self.error = samples, rate, error

    def get_all_samples(self):
        import torch

        if self.error:
            raise self.error
        return type("AudioSamples", (), {"data": torch.from_numpy(self.samples), "sample_rate": self.rate})


def test_rows_of_data_sets(tmp_path):
    samples, path = tone(), tmp_path / "a.wav"
    path.write_bytes(encode(samples, subtype="FLOAT"))
    for audio in (
        {"array": samples, "sampling_rate": SAMPLING_RATE},
        {"bytes": path.read_bytes(), "path": None},
        {"bytes": None, "path": str(path)},
        str(path),
        Decoder(samples[None], SAMPLING_RATE),
    ):
        # Such a path may be that of the machine that made the data set; the audio itself comes first.
        row = {"audio": audio, "caption": "A tone", "path": "elsewhere.wav"}
        np.testing.assert_array_equal(load_audio(row), samples)
    with pytest.raises(AudioFormatError, match="keys"):
        load_audio({"audio": None, "caption": "A tone"})


def test_decoded_audio_of_datasets():
    stereo = np.stack([tone(frequency=300), tone(frequency=700)])
    np.testing.assert_allclose(load_audio(Decoder(stereo, SAMPLING_RATE)), stereo.mean(0), atol=1e-7)
    assert len(load_audio(Decoder(stereo, 96_000), 96_000)) == stereo.shape[1] // 2
    with pytest.raises(AudioFormatError, match="says 96000 Hz, the argument 48000 Hz"):
        load_audio(Decoder(stereo, 96_000), 48_000)
    with pytest.raises(AudioDecodeError, match="no stream") as caught:
        load_audio(Decoder(stereo, 96_000, RuntimeError("no stream")))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_arrays_and_tensors_of_every_layout():
    import torch

    samples = tone()
    twice = np.stack([samples, samples])
    tensor = torch.from_numpy(samples)
    for array in (
        samples.astype(">f4"),
        samples[::-1].copy()[::-1],
        np.asfortranarray(twice),
        np.repeat(samples, 2)[::2],
        np.ma.masked_array(samples),
        samples.astype(np.longdouble),
        tensor.to_sparse(),
        torch.from_numpy(twice).to_sparse_csr(),
        torch._neg_view(-tensor),
        tensor.clone().requires_grad_(),
    ):
        np.testing.assert_allclose(load_audio(array, SAMPLING_RATE), samples, atol=1e-7)
    big_endian = (samples * 32_767).astype(">i2")
    np.testing.assert_array_equal(
        load_audio(big_endian, SAMPLING_RATE), load_audio(big_endian.astype("<i2"), SAMPLING_RATE)
    )
    quantized = torch.quantize_per_tensor(tensor, 1 / 128, 0, torch.qint8)
    np.testing.assert_allclose(load_audio(quantized, SAMPLING_RATE), samples, atol=1 / 128)


def unusable(kind):
    import torch

    samples = torch.from_numpy(tone())
    return {
        "masked": lambda: np.ma.masked_greater(tone(), 0.2),
        "objects": lambda: tone().astype(object),
        "strings": lambda: tone().astype(str),
        "complex": lambda: tone().astype(np.complex64),
        "conjugated": lambda: torch.complex(samples, samples).conj(),
        "dates": lambda: np.zeros(48_000, "datetime64[s]"),
        "meta": lambda: samples.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([samples, samples[:9]]),
        "ragged": lambda: {"array": [[0.1, 0.2], [0.1]], "sampling_rate": 48_000},
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["masked", "objects", "strings", "complex", "conjugated", "dates", "meta", "nested", "ragged"]
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_arrays_that_are_no_sound_get_a_typed_error(kind):
    with pytest.raises(AudioError) as caught:
        load_audio(unusable(kind), SAMPLING_RATE)
    assert caught.value.remedy


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8"])
def test_integers_are_scaled_by_their_range(dtype):
    info = np.iinfo(dtype)
    middle = 0 if info.min < 0 else 128
    samples = tone()
    integers = (samples.astype(np.float64) * (info.max - middle) + middle).round().astype(dtype)
    np.testing.assert_allclose(load_audio(integers, SAMPLING_RATE), samples, atol=1 / 100 if dtype == "uint8" else 1e-4)


def test_callers_array_is_not_changed():
    samples = np.stack([tone(), tone()])
    copy = samples.copy()
    load_audio(samples, SAMPLING_RATE)
    split_windows(samples[0])
    np.testing.assert_array_equal(samples, copy)


@pytest.mark.parametrize(
    ("source", "rate", "error", "words"),
    [
        ("nowhere.wav", None, AudioNotFoundError, "does not exist"),
        (b"", None, AudioDecodeError, "0 bytes"),
        (b"this is no sound at all" * 50, None, AudioDecodeError, "cannot be decoded"),
        (encode(np.zeros(0, np.float32)), None, AudioContentError, "no samples"),
        (np.zeros(0, np.float32), 48_000, AudioContentError, "no samples"),
        (np.full(48_000, np.nan, np.float32), 48_000, AudioContentError, "48000 NaN"),
        (
            np.r_[tone(), np.inf].astype(np.float32),
            48_000,
            AudioContentError,
            "infinite samples, the first at frame 96000",
        ),
        (np.full(48_000, 0.25, np.float32), 48_000, AudioContentError, "constant at 0.25"),
        (encode(np.full(48_000, 0.25, np.float32)), None, AudioContentError, "DC only"),
        (np.ones(1, np.float32), 48_000, AudioContentError, "1 samples"),
        (tone(), 1, AudioFormatError, "1 Hz"),
        (encode(tone(rate=100), 100), None, AudioFormatError, "100 Hz"),
        (tone(), 10**7, AudioFormatError, "10000000 Hz"),
        (tone(), None, AudioFormatError, "no sampling rate"),
        (tone(), "48k", AudioFormatError, "'48k'"),
        (tone() * 32_768, 48_000, AudioFormatError, "peaks at"),
        (np.zeros((2, 2, 48_000), np.float32), 48_000, AudioFormatError, "shape"),
        (np.array(["a"] * 1000), 48_000, AudioFormatError, "dtype"),
        ({"sampling_rate": 48_000}, None, AudioFormatError, "keys"),
        (12, None, AudioFormatError, "int"),
    ],
)
def test_bad_audio_raises_a_typed_error(source, rate, error, words):
    with pytest.raises(error, match="(?s)" + words.replace("(", r"\(")) as caught:
        load_audio(source, rate)
    assert caught.value.remedy
    assert isinstance(caught.value, AudioError)


def test_decoder_errors_are_chained():
    with pytest.raises(AudioDecodeError) as caught:
        load_audio(b"RIFFnonsense" * 10)
    assert isinstance(caught.value.__cause__, sf.LibsndfileError)


def test_directory_is_refused(tmp_path):
    with pytest.raises(AudioNotFoundError, match="directory"):
        load_audio(tmp_path)


@pytest.mark.parametrize(("format", "subtype"), [f for f in FORMATS if f[0] != "MP3"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_truncated_files_are_refused(format, subtype, share):
    data = encode(tone(5), format=format, subtype=subtype)
    with pytest.raises(AudioError):
        load_audio(data[: int(len(data) * share)])


def test_half_an_mp3_is_refused():
    data = encode(tone(5), format="MP3", subtype="MPEG_LAYER_III")
    with pytest.raises(AudioDecodeError, match=r"ends after|declares"):
        load_audio(data[: len(data) // 2])


def test_silence_is_valid():
    assert not load_audio(np.zeros(48_000, np.float32), 48_000).any()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.integers(0, 4000), st.binary(max_size=30), st.booleans())
def test_damaged_bytes_give_audio_or_a_typed_error(kind, position, patch, cut):
    data = bytearray(encode(tone(0.2), format=kind[0], subtype=kind[1]))
    position = min(position, len(data))
    data[position : position + len(patch)] = patch
    try:
        samples = load_audio(bytes(data[: position + 1] if cut else data))
    except AudioError:
        return
    assert np.isfinite(samples).all()
    assert samples.ndim == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 2_500_000))
def test_windows_cover_the_recording(n):
    samples = np.arange(1, n + 1, dtype=np.float32)
    windows = split_windows(samples)
    for k, window in enumerate(windows):
        assert window.start == 10.0 * k
        assert window.samples.shape == (WINDOW_SAMPLES,)
        length = round((window.end - window.start) * SAMPLING_RATE)
        np.testing.assert_array_equal(window.samples[:length], samples[k * WINDOW_SAMPLES :][:length])
    left = n - round(windows[-1].end * SAMPLING_RATE)
    assert 0 <= left < SAMPLING_RATE  # less than a second may be left out, and only after a full window
    assert len(windows) > 1 or left == 0 or n > WINDOW_SAMPLES


@pytest.mark.parametrize("n", [480, 1000, 48_000, 100_001, 479_999])
def test_padding_is_that_of_the_feature_extractor(n):
    samples = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    extractor = ClapFeatureExtractor(truncation="rand_trunc")
    seen = {}
    extractor._np_extract_fbank_features = lambda waveform, _: seen.setdefault("waveform", waveform)
    extractor(samples, sampling_rate=SAMPLING_RATE)
    np.testing.assert_array_equal(split_windows(samples)[0].samples, seen["waveform"])


def test_directories_are_searched(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/z.wav", "a.FLAC", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_audio_files([tmp_path])] == ["a.FLAC", "z.wav"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioNotFoundError, match="no audio file"):
        find_audio_files([tmp_path / "empty"])


@pytest.mark.parametrize("paths", ["", [""]])
def test_an_empty_path_is_not_the_current_directory(paths, tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioNotFoundError, match="empty path"):
        find_audio_files(paths)
    assert find_audio_files(".")


def test_real_clips(shared_data):
    clips = find_audio_files([shared_data / "clips"])
    assert clips
    for clip in clips:
        samples = load_audio(clip)
        assert np.isfinite(samples).all()
        assert 0 < np.abs(samples).max() < 2
