"""The scene maker of the tiny pipeline: sounds, captions and mixing say the same thing."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_link_hf.models.log_mel import ClapLogMel

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
sys.path.insert(0, str(TINY))

import sample_sounds  # noqa: E402
import scenes  # noqa: E402
from captions import SceneEvent, describe  # noqa: E402
from events import EVENTS, LABELS, RECORDED, events_named  # noqa: E402
from synthesis import RATE, SYNTHESIZERS, synthesize  # noqa: E402

EVENT = st.builds(
    SceneEvent,
    label=st.sampled_from(LABELS),
    loudness=st.sampled_from(["normal", "loud", "faint"]),
    distant=st.booleans(),
    bouts=st.integers(1, 3),
)


@pytest.fixture(scope="module")
def bank() -> scenes.MelBank:
    """Two examples each of four synthesized classes, at one speed."""
    rng = np.random.default_rng(0)
    labels = ("bell", "siren", "wind", "knocking")
    return scenes.MelBank(
        scenes.Recordings({label: [synthesize(label, rng, 2.0) for _ in range(2)] for label in labels}), speeds=(1.0,)
    )


@pytest.mark.parametrize("label", sorted(SYNTHESIZERS))
def test_a_synthesized_sound_is_reproducible_audible_and_in_range(label):
    first, again, other = (synthesize(label, np.random.default_rng(seed), 2.0) for seed in (3, 3, 4))
    assert first.shape == (2 * RATE,)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert 0.1 < np.abs(first).max() <= 1.0
    assert np.sqrt((first**2).mean()) > 1e-3


def test_at_least_fifteen_classes_are_synthesized_beside_the_recorded_ones():
    assert len(SYNTHESIZERS) >= 15
    assert set(LABELS) == set(SYNTHESIZERS) | {event.label for event in RECORDED}
    assert not set(SYNTHESIZERS) & {event.label for event in RECORDED}


def test_an_unknown_class_is_refused():
    with pytest.raises(KeyError, match="unicorn"):
        synthesize("unicorn", np.random.default_rng(0))


@pytest.mark.parametrize("label", LABELS)
def test_every_phrase_names_its_own_event_and_no_other(label):
    for phrase in (part for pair in EVENTS[label].phrases for part in pair):
        assert events_named(phrase) == {label}, phrase


@settings(max_examples=300, deadline=None)
@given(
    events=st.lists(EVENT, min_size=1, max_size=3, unique_by=lambda event: event.label),
    overlap=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_caption_names_exactly_the_events_of_its_scene(events, overlap, seed):
    relation = "single" if len(events) == 1 else "overlap" if overlap else "sequence"
    caption = describe(events, relation, np.random.default_rng(seed))
    assert events_named(caption) == {event.label for event in events}, caption
    assert caption == describe(events, relation, np.random.default_rng(seed))
    assert caption[0].isupper()
    assert "  " not in caption
    assert "{" not in caption


@pytest.mark.parametrize(("labels", "relation"), [([], "single"), (["rain"], "overlap"), (["rain", "bell"], "single")])
def test_a_relation_that_contradicts_the_number_of_events_is_refused(labels, relation):
    with pytest.raises(ValueError, match="relation"):
        describe([SceneEvent(label) for label in labels], relation, np.random.default_rng(0))


def test_one_meaning_has_many_captions():
    events = [SceneEvent("dog_bark", "loud"), SceneEvent("rain")]
    rng = np.random.default_rng(0)
    assert len({describe(events, "overlap", rng) for _ in range(200)}) > 50


def test_adding_mel_powers_is_close_to_adding_samples():
    """What the fast mixer rests on: the powers of unrelated sounds add."""
    rng = np.random.default_rng(1)
    first, second = (torch.from_numpy(synthesize(label, rng, 4.0)) for label in ("wind", "siren"))
    front_end = ClapLogMel()
    powers = front_end.mel_power(first[None]) + front_end.mel_power(second[None])
    difference = front_end.to_decibel(powers) - front_end.to_decibel(front_end.mel_power((first + second)[None]))
    assert difference.abs().median() < 1.5  # dB
    assert abs(difference.mean()) < 1.0


@pytest.mark.parametrize("seconds", [0.7, 2.5, 5.0])
def test_the_mel_bank_hears_the_seam_of_a_repeated_recording(seconds):
    samples = np.random.default_rng(2).uniform(-1, 1, int(seconds * RATE)).astype(np.float32)
    samples[: RATE // 100] = 1.0  # a jump where two copies meet
    bank = scenes.MelBank(scenes.Recordings({"wind": [samples]}), speeds=(1.0,))
    power = bank.draw("wind", np.random.default_rng(0))
    frames = len(samples) // 480
    tiled = ClapLogMel().mel_power(torch.from_numpy(np.tile(samples[: frames * 480], 3))[None])[0]
    expected = tiled[frames : 2 * frames].numpy()
    np.testing.assert_allclose(power / power.mean(), expected / expected.mean(), rtol=1e-4, atol=1e-6)


def test_silence_at_the_ends_of_a_recording_is_cut_off_and_nothing_else():
    mel = np.zeros((300, 64), dtype=np.float32)
    mel[100:200] = np.random.default_rng(0).uniform(0.5, 1, (100, 64))
    mel[150] = 0  # a pause inside
    assert np.array_equal(scenes._trimmed(mel), mel[100:200])
    mel[:100] = mel[200:] = 1e-3  # quiet, yet heard
    assert np.array_equal(scenes._trimmed(mel), mel)


def test_warping_moves_bands_and_frames_by_little():
    mel = np.full((400, 64), 1e-3, dtype=np.float32)
    mel[:, 30] = 1.0
    for seed in range(50):
        warped = scenes._warped(mel, np.random.default_rng(seed))
        assert warped.dtype == np.float32
        assert 360 <= len(warped) <= 443
        assert abs(int(warped[200].argmax()) - 30) <= 2
        assert warped.sum(1) == pytest.approx(mel.sum(1)[0], rel=1e-3)


def test_scenes_are_reproducible_and_shaped_as_clap_takes_them(bank):
    mixer = scenes.SceneMixer(bank)
    (features, contents), (again, contents_again) = (mixer.batch(12, np.random.default_rng(5)) for _ in range(2))
    assert features.shape == (12, 1, 1001, 64)
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert torch.equal(features, again)
    assert contents == contents_again
    for scene in contents:
        assert 1 <= len(scene.events) <= 3
        assert scene.tags.sum() == len(scene.events)
        assert (scene.relation == "single") == (len(scene.events) == 1)


def test_the_order_of_a_sequence_is_part_of_its_meaning():
    rain, bell = SceneEvent("rain"), SceneEvent("bell")
    assert scenes.Scene((rain, bell), "overlap").meaning == scenes.Scene((bell, rain), "overlap").meaning
    assert scenes.Scene((rain, bell), "sequence").meaning != scenes.Scene((bell, rain), "sequence").meaning


def test_judged_scenes_hold_two_different_events_and_never_depend_on_what_ran_before():
    rng = np.random.default_rng(2)
    recordings = scenes.Recordings(
        {label: [synthesize(label, rng) for _ in range(2)] for label in ("bell", "frog", "typing")}
    )
    for relation in ("overlap", "sequence"):
        first, again = (scenes.judged_scenes(recordings, relation, 6, seed=1) for _ in range(2))
        assert len(first) == 6
        for (samples, events), (samples_again, events_again) in zip(first, again, strict=True):
            assert samples.shape == (480_000,)
            assert len(events) == 2
            assert events == events_again
            assert np.array_equal(samples, samples_again)
            assert np.abs(samples).max() <= 1.0
    singles = scenes.judged_scenes(recordings, "single", 0, seed=1)
    assert [len(events) for _, events in singles] == [1] * 6
    assert np.array_equal(singles[0][0][: 5 * RATE], recordings.by_label["bell"][0])


def test_folds_decide_which_recordings_are_loaded(shared_data):
    train, judged = (scenes.load_recordings(shared_data / "esc10", folds) for folds in ({1}, {4}))
    names = [{name for items in recordings.names.values() for name in items} for recordings in (train, judged)]
    assert all(names)
    assert not names[0] & names[1]


def test_sample_sounds_are_written_and_reproducible(tmp_path):
    samples = [sample_sounds.scene("overlap", ("wind", "frog"), np.random.default_rng(1)) for _ in range(2)]
    assert samples[0].shape == (10 * RATE,)
    assert np.array_equal(*samples)
    assert np.abs(samples[0]).max() <= 0.91
    sample_sounds.main(["--output", str(tmp_path)])
    written = sorted(tmp_path.glob("*.ogg"))
    assert len(written) == len(sample_sounds.SCENES) >= 6
    assert sum(path.stat().st_size for path in written) < 1_000_000


@pytest.mark.slow
def test_the_build_command_makes_a_pipeline_that_captions(tmp_path, monkeypatch):
    """Every stage for a few steps on a few sounds: the stages fit together; the quality is not judged here."""
    import build
    import embed_scenes
    import judge
    import soundfile
    import train_clap
    import train_language_model

    lines = ["file_name,label,fold"]
    for label in ("bell", "frog", "wind"):
        for fold in (1, 4):
            soundfile.write(tmp_path / f"{label}{fold}.wav", synthesize(label, np.random.default_rng(fold)), RATE)
            lines.append(f"{label}{fold}.wav,{label},{fold}")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    monkeypatch.setattr(scenes.MelBank.__init__, "__defaults__", ((1.0,), None))
    monkeypatch.setattr(scenes.synthesized, "__defaults__", (1,))
    monkeypatch.setattr(train_clap.tagging_accuracy, "__defaults__", (4, 7))
    shortened = {
        train_clap: ["--tagger-steps", "2", "--contrast-steps", "2"],
        embed_scenes: ["--scenes", "64"],
        train_language_model: ["--steps", "2"],
        judge: ["--scenes", "2"],
    }
    for module, extra in shortened.items():
        monkeypatch.setattr(module, "main", lambda argv, run=module.main, extra=extra: run([*argv, *extra]))
    recipe = build.load_recipe
    monkeypatch.setattr(build, "load_recipe", lambda path, overrides: recipe(path, [*overrides, "max_steps=2"]))
    argv = ["--data", str(tmp_path), "--folds", "1", "--judge-folds", "4", "--output", str(tmp_path / "out")]
    build.main(argv)
    judged = (tmp_path / "out" / "judged.json").read_text()
    assert '"single"' in judged
    build.main(argv)  # nothing is done twice
    with pytest.raises(SystemExit):
        build.main([*argv[:2], "--folds", "1", "--judge-folds", "1", *argv[-2:]])
