"""The embedded pipeline as it ships: its size, its captions, and that they never change with the batch."""

import csv
import sys

import numpy as np
import pytest
from safetensors import safe_open

from diffusion_link_hf import AudioCaptionPipeline
from diffusion_link_hf.loading import default_pipeline_folder


@pytest.fixture(scope="module")
def pipe():
    pipe = AudioCaptionPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def events_named(pytestconfig):
    sys.path.insert(0, str(pytestconfig.rootpath / "examples" / "tiny"))
    from events import events_named

    return events_named


@pytest.fixture
def recordings(shared_data):
    with open(shared_data / "esc10" / "index.csv", newline="") as file:
        return [(shared_data / "esc10" / row["file_name"], row["label"]) for row in csv.DictReader(file)]


def test_size_and_precision():
    files = list(default_pipeline_folder().rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 32 * 2**20
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


def test_most_sample_sounds_are_named_right(pipe, events_named, pytestconfig):
    """Files are named by their events, as in "thunder_while_frog.ogg"; the README shows wrong captions too."""
    files = sorted((pytestconfig.rootpath / "examples" / "sounds").glob("*.ogg"))
    assert len(files) >= 6
    captions = pipe(files).captions
    wrong = {
        file.stem: caption
        for file, caption in zip(files, captions, strict=True)
        if events_named(caption) != set(file.stem.replace("_then_", " ").replace("_while_", " ").split())
    }
    assert len(wrong) <= 3, wrong  # of eight; which ones, the README shows


def test_captions_of_real_recordings_do_not_depend_on_the_batch(pipe, recordings):
    files = [path for path, _ in recordings[::10]]
    together = pipe(files).captions
    for size in (1, 2, 7, 32):
        assert pipe(files, batch_size=size).captions == together
    assert [pipe(file).captions[0] for file in files[:8]] == together[:8]
    order = np.random.default_rng(0).permutation(len(files))
    assert pipe([files[i] for i in order]).captions == [together[i] for i in order]


def test_recordings_it_was_trained_on_are_named_right(pipe, recordings, events_named):
    """A floor against accidents; quality on unseen recordings is measured by fold, see the model card."""
    part = recordings[::4]
    captions = pipe([path for path, _ in part]).captions
    right = np.mean([events_named(caption) == {label} for caption, (_, label) in zip(captions, part, strict=True)])
    assert right > 0.85


def test_saving_and_loading_keeps_the_captions(pipe, recordings, tmp_path):
    files = [path for path, _ in recordings[:6]]
    pipe.save_pretrained(tmp_path)
    again = AudioCaptionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again(files).captions == pipe(files).captions


def test_real_clips_of_other_kinds_get_some_caption(pipe, shared_data):
    from diffusion_link_hf.audio import find_audio_files

    result = pipe(find_audio_files([shared_data / "clips"]))
    assert all(result.captions)
    assert not any(result.errors)


def test_silence_gets_a_caption(pipe):
    assert pipe(np.zeros(48_000, np.float32), 48_000).captions[0]
