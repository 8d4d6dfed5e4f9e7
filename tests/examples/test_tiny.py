"""The build of the tiny pipeline: sounds, phrases, captions, the joint space, scenes, judgment, stages."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
sys.path.insert(0, str(TINY))

import assemble_clap  # noqa: E402
import bank  # noqa: E402
import build  # noqa: E402
import calibrate  # noqa: E402
import captions  # noqa: E402
import fair_words  # noqa: E402
import folds  # noqa: E402
import joint_space  # noqa: E402
import judge  # noqa: E402
import named  # noqa: E402
import phrases  # noqa: E402
import sample_sounds  # noqa: E402
import scenes  # noqa: E402
import vocabulary  # noqa: E402
from captions import SceneEvent, Style, describe  # noqa: E402
from synthesis import RATE, SYNTHESIZERS, synthesize  # noqa: E402

from diffusion_link_hf.models.sound_tagger import SoundTagger  # noqa: E402
from diffusion_link_hf.models.tag_embedding import EMBEDDING_DIM, ENERGY, EVENT, RELATIONS, SENTENCE, STYLE  # noqa: E402

TABLE = named.EventWords(phrases.event_words())
INVENTORY = phrases.phrases(TABLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A build's folder with the phrases; tests run in it."""
    folder = tmp_path_factory.mktemp("build")
    phrases.main(["--output", str(folder)])
    return folder


@pytest.fixture
def room(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for cached in (captions._phrases, captions._inventory, named.event_words, fair_words.patterns):
        cached.cache_clear()
    return folder


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


def test_an_unknown_class_is_refused():
    with pytest.raises(KeyError, match="unicorn"):
        synthesize("unicorn", np.random.default_rng(0))


def test_every_phrase_names_its_own_class_and_no_other():
    assert len(INVENTORY) > 250
    for name, lines in INVENTORY.items():
        texts = [
            text for line in lines for text in (*line["nouns"], *(form for own in line["clauses"] for form in own))
        ]
        assert len(texts) >= 8, name
        if name != "silence":
            assert all(TABLE.named(text) == {name} for text in texts), name


def test_classes_made_by_formula_and_those_of_esc10_have_phrases():
    made = {*vocabulary.ESC10.values(), *vocabulary.SYNTHESIZED.values(), *vocabulary.MADE.values()}
    assert made <= set(INVENTORY)


@pytest.mark.parametrize("seed", range(40))
def test_a_caption_names_exactly_the_events_of_its_scene(room, seed):
    rng = np.random.default_rng(seed)
    labels = [name for name in INVENTORY if name != "silence"]
    events = [SceneEvent(str(name)) for name in rng.choice(labels, int(rng.integers(1, 3)), replace=False)]
    relation = "single" if len(events) == 1 else str(rng.choice(["overlap", "sequence"]))
    for wording in (rng, Style(int(rng.integers(256)))):
        caption = describe(events, relation, wording)
        assert TABLE.named(caption) == {event.label for event in events}, caption
        assert caption[0].isupper()
        assert not re.search(r"  |[{}]", caption)


def test_a_style_always_words_a_scene_the_same_way_and_styles_differ(room):
    events = [SceneEvent("dog"), SceneEvent("rain")]
    said = [describe(events, "overlap", Style(style)) for style in range(256)]
    assert said == [describe(events, "overlap", Style(style)) for style in range(256)]
    assert len(set(said)) > 60


def test_silence_is_said(room):
    assert (
        "silen"
        in describe([], "single", Style(3)).lower() + describe([SceneEvent("silence")], "single", Style(0)).lower()
    )


def test_fair_words_also_take_the_plain_noun(room):
    assert fair_words.names("Church bells toll", "bell")
    assert fair_words.names("A guitar is played", "acoustic guitar")
    assert not fair_words.names("A dog barks", "bell")


def test_the_layout_is_that_of_the_package():
    assert (joint_space.WIDTH, joint_space.SENTENCE, joint_space.EVENT) == (EMBEDDING_DIM, SENTENCE, EVENT)
    assert (joint_space.RELATIONS, joint_space.STYLE) == (RELATIONS, STYLE)
    assert joint_space.ENERGY == ENERGY
    assert joint_space.event_code("dog").shape == (EVENT,)
    assert np.linalg.norm(joint_space.event_code("dog", "puppy")) == pytest.approx(1)


def test_imagined_sounds_lie_where_the_package_puts_heard_ones():
    """One event each, sure and unsure: sentence, code, relation, doubt and style in their places, with their energy."""
    code, none = joint_space.event_code("dog"), np.zeros((1, EVENT))
    sentence, kinds = np.eye(SENTENCE)[:1], np.array([[1.0, 0.0, 0.0]])
    for certainty in (1.0, 0.5):
        (row,) = joint_space.sounds(sentence, code[None], none, kinds, np.array([certainty]), np.array([5]))
        row = row / row[0] * ENERGY["sentence"] ** 0.5
        np.testing.assert_allclose(row[joint_space.FIRST], certainty * ENERGY["event"] ** 0.5 * code, atol=1e-5)
        assert not row[joint_space.SECOND].any()
        assert row[joint_space.DOUBT] == pytest.approx((ENERGY["event"] * (1 - certainty**2)) ** 0.5, abs=1e-5)
        assert (row[joint_space.STYLES] > 0).tolist() == [True, False, True, False, False, False, False, False]


def test_origins_are_split_and_never_shared():
    rows = [
        {"file": f"{k}", "name": "dog", "fine": "dog", "group": f"g{k // 2}", "source": "bank"} for k in range(20)
    ] + [{"file": "e", "name": "dog", "fine": "dog", "group": "fs1", "source": f"esc10-{vocabulary.JUDGED_FOLD}"}]
    side = vocabulary.split_by_origin(rows)
    assert side["fs1"] == "validation"
    assert {side[f"g{k}"] for k in range(10)} == {"train", "validation"}
    assert side == vocabulary.split_by_origin(rows)


def test_folds_leave_every_origin_out_once(tmp_path):
    with open(tmp_path / "splits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "name", "group", "split"])
        writer.writeheader()
        for k in range(12):
            writer.writerow({"file": f"{k}", "name": "dog", "group": f"g{k // 2}", "split": "train"})
        writer.writerow({"file": "rare", "name": "cat", "group": "c", "split": "train"})
    place = folds.folds_of_files(tmp_path / "splits.csv")
    assert place["rare"] == -1
    assert {place[f"{k}"] for k in range(12)} == set(range(folds.FOLDS))
    assert all(place[f"{k}"] == place[f"{k + 1}"] for k in range(0, 12, 2))


def test_a_recording_goes_into_the_bank_without_the_silence_around_it():
    sound = np.zeros(3 * RATE, np.float32)
    sound[RATE : RATE + 4_800] = 0.1 * np.sin(np.arange(4_800) / 5)
    stored = bank.to_bank(sound, RATE)
    assert stored.dtype == np.int16
    assert 4_000 < len(stored) < 9_000
    assert np.abs(stored).max() == pytest.approx(0.9 * 32767, abs=2)
    assert not len(bank.to_bank(np.zeros(1000, np.float32), RATE))


def test_scenes_are_mixed_reproducibly_and_say_what_is_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, at = [], 0
    with open("bank.i16", "wb") as file:
        for name in ("bell", "siren", "thunder"):
            for k in range(2):
                samples = bank.to_bank(synthesize(name, np.random.default_rng(k), 2.0), RATE)
                file.write(samples.tobytes())
                row = {"name": name, "fine": name, "file": f"{name}{k}", "group": f"{name}{k}", "split": "train"}
                rows.append({**row, "start": at, "length": len(samples)})
                at += len(samples)
    Path("bank.json").write_text(json.dumps(rows))
    mixer = scenes.Mixer(scenes.Bank({"train"}))
    for layout, count in (("single", 1), ("overlap", 2), ("sequence", 2), ("three", 3), ("silence", 0)):
        (samples, row), (again, _) = (mixer.draw(np.random.default_rng(3), layout) for _ in range(2))
        assert samples.shape == (scenes.SAMPLES,)
        assert samples.dtype == np.float32
        assert np.array_equal(samples, again)
        assert len({event["name"] for event in row["events"]}) == count
        assert all(0 <= event["start"] < event["end"] <= 10 for event in row["events"])


def test_networks_of_the_tagger_are_joined():
    torch.manual_seed(0)
    alone = [SoundTagger(7, 9, num_fine=3).eval() for _ in range(2)]
    both = SoundTagger(7, 9, num_networks=2).eval()
    both.load_state_dict(assemble_clap.joined([tagger.state_dict() for tagger in alone]))
    features = torch.rand(2, 20, 512)
    for mean, first, second in zip(both(features), *(tagger(features) for tagger in alone), strict=True):
        torch.testing.assert_close(mean, (first + second) / 2)


def test_calibration_figures():
    scores, right = np.repeat([0.1, 0.9], 500), np.repeat([False, True], 500)
    right[[0, -1]] = True, False
    found = calibrate.report(scores, right, 0.12)
    assert found["right_if_sure"] == found["share_sure"] * 2 * 0.998
    assert found["calibration_error"] == pytest.approx(0.1, abs=0.01)
    assert found["right_if_unknown"] == 0.002


def test_held_out_scores_never_saw_their_origin():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((200, 4))).float()
    right = features[:, 0] > torch.from_numpy(rng.standard_normal(200)).float()
    groups = [f"g{k // 4}" for k in range(200)]
    fitted = torch.arange(200) < 150
    scores = calibrate.held_out_scores(features, right, groups, fitted)
    assert ((scores > 0) & (scores < 1)).all()
    flipped = right.clone()
    flipped[:4] = ~flipped[:4]
    assert np.array_equal(calibrate.held_out_scores(features, flipped, groups, fitted)[:4], scores[:4])


def test_captions_are_judged(room):
    def row(name: str, caption: str, **more) -> dict:
        return {"events": [{"name": name}], "caption": caption, "silent": False, "source": "bank", **more}

    assert judge.exact(row("dog", "A dog barks"))
    assert not judge.exact(row("dog", "A dog barks while rain falls"))
    assert judge.named(row("bell", "Church bells toll"))
    assert judge.exact({"events": [], "caption": "A dog barks", "silent": True})
    assert judge.share([True, False]) == {"share": 0.5, "error": 0.3536, "n": 2}
    judge.write_classes([row("dog", "A dog barks"), row("dog", "A cow moos")], room / "classes.csv")
    assert "dog,2,1,cow moo" in (room / "classes.csv").read_text()


def test_sample_sounds_are_written_and_reproducible(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_sounds.shutil, "which", lambda _: None)
    samples = [sample_sounds.sound("siren", np.random.default_rng(1)) for _ in range(2)]
    assert samples[0].shape == (10 * RATE,)
    assert np.array_equal(*samples)
    assert np.abs(samples[0]).max() <= 0.91
    sample_sounds.main(["--output", str(tmp_path)])
    written = sorted(path.stem for path in tmp_path.glob("*.ogg"))
    assert written == sorted(sample_sounds.SOUNDS)
    kept = TINY.parent / "sounds"
    assert {path.stem for path in kept.glob("*.ogg")} == {*written, "speech"}
    for name in written:  # Vorbis leaves no bit, but nearly all of the sound
        found, expected = (soundfile.read(folder / f"{name}.ogg")[0] for folder in (tmp_path, kept))
        assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_every_stage_of_the_build_is_a_script_that_is_there(tmp_path):
    plan = build.stages(tmp_path)
    assert len({stage.result for stage in plan.values()}) == len(plan)
    for stage in plan.values():
        assert (TINY / f"{stage.script}.py").is_file(), stage


def test_data_that_is_not_there_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        build.main(["--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "sounds/index.csv" in capsys.readouterr().err
