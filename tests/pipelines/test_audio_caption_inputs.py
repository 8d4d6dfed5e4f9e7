"""What the caption pipeline and its steps take (options, embeddings, windows, rows, columns), and what they refuse."""

import numpy as np
import pytest
import soundfile as sf
import torch

from diffusion_link_hf import AudioCaptionPipeline
from diffusion_link_hf.errors import AudioFormatError, InputError
from support.models import EMBEDDING_DIM, make_pipeline

RATE = 48_000


def recordings(n=5, seconds=1.0) -> list[np.ndarray]:
    """A tone each, of its own pitch."""
    time = np.arange(round(RATE * seconds)) / RATE
    return [(0.3 * np.sin(2 * np.pi * 110 * 1.17**k * time)).astype(np.float32) for k in range(n)]


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def linkless(pipe):
    baseline = AudioCaptionPipeline(clap=pipe.clap, projector=pipe.projector, decoder=pipe.decoder)
    baseline.set_progress_bar_config(disable=True)
    return baseline


@pytest.mark.parametrize(
    "options",
    [
        {"num_inference_steps": -5},
        {"num_inference_steps": 1.5},
        {"noise_timestep": "x"},
        {"add_noise": "no"},
        {"modality": "banana"},
        {"generator": 5},
        {"noise": np.ones((1, EMBEDDING_DIM), np.float32)},
        {"noise": torch.ones(1, EMBEDDING_DIM), "add_noise": False},
    ],
    ids=str,
)
def test_bridging_checks_its_options_with_a_link_and_without(pipe, linkless, options):
    for one in (pipe, linkless):
        with pytest.raises(InputError):
            one.bridge(torch.ones(2, EMBEDDING_DIM), **options)
        with pytest.raises(TypeError, match="foo"):
            one.bridge(torch.ones(2, EMBEDDING_DIM), foo=3)


UNFIT = {
    "nan": torch.ones(3, EMBEDDING_DIM) * torch.tensor([[1.0], [float("nan")], [1.0]]),
    "infinite": torch.ones(3, EMBEDDING_DIM) / torch.tensor([[1.0], [0.0], [1.0]]),
    "zero": torch.ones(3, EMBEDDING_DIM) * torch.tensor([[1.0], [0.0], [1.0]]),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_embeddings_are_refused_by_row(pipe, linkless, kind):
    for step in (pipe.decode, pipe.bridge, linkless.bridge):
        with pytest.raises(InputError, match="row 1"):
            step(UNFIT[kind])


@pytest.mark.parametrize("embeds", [torch.ones(2, 3), torch.ones(EMBEDDING_DIM), [[1.0] * EMBEDDING_DIM], None])
def test_what_is_no_batch_of_embeddings_is_refused(pipe, linkless, embeds):
    for step in (pipe.decode, pipe.bridge, linkless.bridge):
        with pytest.raises(InputError, match="embeds"):
            step(embeds)


def test_decoding_does_not_depend_on_the_scale(pipe):
    embeds = pipe.bridge(torch.randn(8, EMBEDDING_DIM, generator=torch.Generator().manual_seed(0)))
    expected = pipe.decode(embeds)
    assert len({row[0] for row in expected}) > 4
    for factor in (17.0, 1e-3, 1e30, 1e-30):
        assert pipe.decode(embeds * factor) == expected


def test_wrong_windows_are_refused(pipe):
    good = np.stack([np.resize(a, 480_000) for a in recordings(2)])
    embeds = pipe.encode_audio(torch.from_numpy(good))
    assert torch.equal(pipe.encode_audio(good.astype(">f4")), embeds)
    assert pipe.encode_audio([]).shape == pipe.encode_audio(good[:0]).shape == (0, EMBEDDING_DIM)
    assert pipe.decode(pipe.encode_audio([])) == []
    for wrong in (good * np.nan, good / 0.0, good[:, :48_000], good[0], list(good), "ab", "", None, 5):
        with np.errstate(all="ignore"), pytest.raises(InputError, match=r"w(indows|aveforms)"):
            pipe.encode_audio(wrong)


def test_one_sampling_rate_serves_a_list(pipe, tmp_path):
    samples = recordings(1)[0][:44_100]
    expected = pipe(samples, 44_100).captions
    row = {"audio": {"array": samples}, "caption": "A tone"}
    result = pipe([{"array": samples}, samples, row, {"array": samples, "sampling_rate": 44_100}], sampling_rate=44_100)
    assert result.errors == [None] * 4
    assert result.captions == expected * 4
    sf.write(tmp_path / "a.wav", samples, 44_100)
    for items, words in (
        ([samples, {"array": samples, "sampling_rate": RATE}], r"audio\[1\]: says 48000 Hz, the argument 44100 Hz"),
        ([tmp_path / "a.wav"], "no item is an array"),
        ([{"path": str(tmp_path / "a.wav")}, (tmp_path / "a.wav").read_bytes()], "no item is an array"),
    ):
        with pytest.raises(AudioFormatError, match=words):
            pipe(items, sampling_rate=44_100)
    with pytest.raises(AudioFormatError, match="Hz"):
        pipe([samples], sampling_rate=5)


def test_samples_with_their_rate_as_torchaudio_loads_them(pipe):
    samples = recordings(1)[0][:44_100]
    expected = pipe(samples, 44_100).captions
    pair = (torch.from_numpy(samples)[None], 44_100)
    assert pipe(pair).captions == expected
    assert pipe((samples, np.int64(44_100)), 44_100).captions == expected
    result = pipe([pair, samples], sampling_rate=44_100)
    assert (result.captions, result.errors) == (expected * 2, [None, None])
    assert pipe((samples, samples), sampling_rate=44_100).captions == expected * 2  # two recordings
    assert pipe([{"audio": pair}]).captions == expected
    with pytest.raises(AudioFormatError, match=r"audio\[0\]: says 44100 Hz, the argument 48000 Hz"):
        pipe([pair], sampling_rate=RATE)
    with pytest.raises(AudioFormatError, match="sampling rate 5"):
        pipe((samples, 5))


def test_a_progress_bar_is_shown_only_where_it_is_asked_for(pipe, capfd):
    silent = AudioCaptionPipeline.from_pipe(pipe)
    silent(recordings(2), sampling_rate=RATE)
    assert "it/s" not in capfd.readouterr().err
    silent.set_progress_bar_config(disable=False)
    silent(recordings(2), sampling_rate=RATE)
    assert "2/2" in capfd.readouterr().err


def test_rows_and_columns_of_data_frames(pipe, tmp_path):
    import pandas
    from datasets import Dataset

    audio = recordings(3, seconds=0.2)
    paths = [tmp_path / f"{k}.wav" for k in range(3)]
    for path, samples in zip(paths, audio, strict=True):
        sf.write(path, samples, RATE, subtype="FLOAT")
    expected = pipe(paths).captions
    frame = pandas.DataFrame({"path": [str(path) for path in paths]})
    names = np.array([str(path) for path in paths])
    for column in (frame["path"], frame["path"].to_numpy(), names, names.astype(object)):
        assert pipe(column).captions == expected
    assert pipe(np.array(str(paths[0]))).captions == expected[:1]
    rows = [{"audio": {"array": a.tolist(), "sampling_rate": RATE}, "caption": "A tone"} for a in audio]
    assert pipe(Dataset.from_list(rows)).captions == pipe(rows).captions == expected
    assert pipe(rows[0]).captions == expected[:1]
    assert pipe(pandas.Series(audio[0]), RATE).captions == expected[:1]

    class Decoder:
        def get_all_samples(self):
            return type("AudioSamples", (), {"data": torch.from_numpy(audio[0])[None], "sample_rate": RATE})

    assert pipe([{"audio": Decoder(), "caption": "A tone"}, Decoder()]).captions == expected[:1] * 2
    assert pipe(Decoder()).captions == expected[:1]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"long_audio": "skip"},
        {"noise_timestep": 0},
        {"generation_kwargs": {"warmth": 1}},
    ],
)
def test_impossible_options_are_refused(pipe, options):
    with pytest.raises(InputError):
        pipe(recordings(1)[0], RATE, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 0},
        {"num_return_sequences": 2},
        {"generator": 5},
        {"generation_kwargs": 5},
        {"generation_kwargs": {"num_beams": 2}},
        {"generation_kwargs": {"warmth": 1}},
        {"generation_kwargs": {"assistant_early_exit": 1}},
        {"do_sample": "no"},
        {"add_noise": "no"},
        {"num_inference_steps": -5},
        {"num_inference_steps": 101},
        {"noise_timestep": "x"},
    ],
)
def test_options_are_checked_before_a_recording_is_read(pipe, linkless, options):
    with pytest.raises(InputError):
        pipe(["nowhere.wav"], **options)
    if options != {"num_inference_steps": 101}:  # more than noise_timestep, which only a link has
        with pytest.raises(InputError):
            linkless(["nowhere.wav"], **options)
