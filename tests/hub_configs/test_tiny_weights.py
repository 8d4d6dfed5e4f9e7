"""The embedded pipeline as it ships: its size, its captions and scores, and that they never change with the batch."""

import csv
import re

import numpy as np
import pytest
from safetensors import safe_open

from diffusion_link_hf import AudioCaptionPipeline, CaptionScorer, EverydayClapEncoder, IdentityBridge
from diffusion_link_hf.audio import find_audio_files
from diffusion_link_hf.loading import default_pipeline_folder

RATE = 48_000
# What a caption of each sample sound has to say; see the README for those that are wrong.
SAMPLES = {
    "bell": "bell",
    "keyboard_typing": "typ|keyboard",
    "knocking": "knock",
    "siren": "siren",
    "speech": "man|woman|speak|voice",
    "telephone": "phone",
    "thunder": "thunder",
    "whistle": "whistl",
}
ESC10 = {
    "baby_cry": "baby|infant|child|cry",
    "chainsaw": "saw",
    "clock_tick": "clock|tick",
    "dog_bark": "dog|bark",
    "fire_crackling": "fire|crackl|flame|burn",
    "helicopter": "helicopter|chopper",
    "person_sneeze": "sneez",
    "rain": "rain|downpour|drizzl",
    "rooster": "rooster|crow|cock",
    "sea_waves": "wave|surf|ocean|sea|shore",
}


@pytest.fixture(scope="module")
def pipe():
    return AudioCaptionPipeline.from_pretrained("tiny")


@pytest.fixture
def recordings(shared_data):
    with open(shared_data / "esc10" / "index.csv", newline="") as file:
        return [(shared_data / "esc10" / row["file_name"], row["label"], row["fold"]) for row in csv.DictReader(file)]


def test_its_parts(pipe):
    assert isinstance(pipe.clap, EverydayClapEncoder)
    assert isinstance(pipe.link, IdentityBridge)
    assert isinstance(pipe.scorer, CaptionScorer)
    assert len(pipe.clap.tags) > 250


def test_size_and_precision():
    files = list(default_pipeline_folder().rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 32_000_000
    for path in files:
        with safe_open(path, "pt") as file:
            names = file.keys()
            kinds = {file.get_slice(name).get_dtype() for name in names}
        assert kinds <= {"F16", "BF16", "I64"}, path


def test_no_pickle_no_path():
    for path in default_pipeline_folder().rglob("*"):
        assert path.suffix not in (".bin", ".pt", ".pkl")
        if path.suffix == ".json":
            assert "_name_or_path" not in path.read_text()


def test_sample_sounds_are_named_right(pipe, pytestconfig):
    files = sorted((pytestconfig.rootpath / "examples" / "sounds").glob("*.ogg"))
    assert {file.stem for file in files} == set(SAMPLES)
    output = pipe(files)
    wrong = {
        file.stem: caption
        for file, caption in zip(files, output.captions, strict=True)
        if not re.search(SAMPLES[file.stem], caption, re.IGNORECASE)
    }
    assert not wrong
    assert all(0 < score < 1 for score in output.scores)


def test_captions_of_real_recordings_do_not_depend_on_the_batch(pipe, recordings):
    files = [path for path, _, _ in recordings[::20]]
    together = pipe(files)
    for size in (1, 3, 32):
        again = pipe(files, batch_size=size)
        assert again.captions == together.captions
        assert again.scores == pytest.approx(together.scores, abs=1e-5)
    order = np.random.default_rng(0).permutation(len(files))
    assert pipe([files[i] for i in order]).captions == [together.captions[i] for i in order]


def test_recordings_of_the_fold_that_it_never_heard_are_named(pipe, recordings):
    part = [(path, label) for path, label, fold in recordings if fold == "4"][::2]
    captions = pipe([path for path, _ in part]).captions
    right = [
        bool(re.search(ESC10[label], text, re.IGNORECASE)) for text, (_, label) in zip(captions, part, strict=True)
    ]
    assert np.mean(right) > 0.8


def test_saving_and_loading_keeps_captions_and_scores(pipe, recordings, tmp_path):
    files = [path for path, _, _ in recordings[:4]]
    pipe.save_pretrained(tmp_path)
    again = AudioCaptionPipeline.from_pretrained(tmp_path)(files)
    assert again.captions == pipe(files).captions
    assert again.scores == pytest.approx(pipe(files).scores, abs=1e-6)


def test_speech_and_music_are_named_as_such(pipe, shared_data):
    speech, music = ("speak|talk|voice|say|speech", "music|play|tune|melod|synth")
    kinds = {
        "198-209-0000.ogg": speech,
        "Kevin_MacLeod_-_Vibe_Ace.ogg": music,
        "sorohanro_-_solo-trumpet-06.ogg": music,
    }
    for file in find_audio_files([shared_data / "clips"]):
        assert re.search(kinds[file.name], pipe(file).captions[0], re.IGNORECASE), file.name


@pytest.mark.parametrize("level", [0.0, 1e-5, 3e-4])
def test_silence_is_silence(pipe, level):
    faint = (level * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
    output = pipe(faint, RATE)
    assert output.captions == ["Silence"]
    assert output.scores == [1.0]
