"""The test bed of real captions: tags, the stand-in for audio, and the files."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from diffusion_link_hf.embeddings.pairs import EmbeddingPairs
from diffusion_link_hf.errors import DataError, InputError

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "text_space"


@pytest.fixture(scope="module")
def space():
    """The example's modules; `build` is a name that other examples have too, so it is not left behind."""
    sys.path.insert(0, str(FOLDER))
    others = {name: sys.modules.pop(name, None) for name in ("build", "stand_in", "tags")}
    import build
    import stand_in
    import tags

    yield {"build": build, "stand_in": stand_in, "tags": tags}
    sys.path.remove(str(FOLDER))
    for name, module in others.items():
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module


@pytest.fixture(scope="module")
def captions():
    """A few sentences for each split; the held-out clips have two captions each."""
    things, deeds = ["dog", "bird", "engine", "bell", "crowd"], ["barks", "sings", "hums", "rings", "cheers"]
    lines = [f"A {thing} {deed} while the {other} {act}" for thing, deed in zip(things, deeds, strict=True)
             for other in things for act in deeds]  # fmt: skip
    return {
        "train": (lines[:100], torch.arange(100)),
        "val": (lines[100:110], torch.arange(10) // 2),
        "test": (lines[110:120], torch.arange(10) // 2),
    }


def bag_of_words(texts: list[str]) -> torch.Tensor:
    """A vector for each word, drawn from its letters; a text is the mean of its words, of norm 1."""
    rows = [
        torch.stack(
            [torch.randn(16, generator=torch.Generator().manual_seed(hash_of(word))) for word in text.split()]
        ).mean(0)
        for text in texts
    ]
    return F.normalize(torch.stack(rows), dim=-1)


def hash_of(word: str) -> int:
    return int.from_bytes(word.lower().encode()[:7], "little")


def test_tags_are_what_is_heard(space):
    tags = space["tags"]
    assert tags.content_words("A dog barks, then the dog's owner is clapping") == [
        "dog", "barks", "dog's", "owner", "clapping",
    ]  # fmt: skip
    assert tags.content_words("it is there") == ["it", "is", "there"]
    assert tags.content_words("狗叫") == ["狗叫"]


@given(caption=st.text(min_size=1), missed=st.floats(0, 1), misheard=st.floats(0, 1), seed=st.integers(0, 99))
def test_something_is_always_heard(space, caption, missed, misheard, seed):
    tags = space["tags"]
    vocabulary = tags.TagVocabulary(["rain falls"])
    heard = tags.overheard(caption, random.Random(seed), vocabulary, missed, misheard)
    assert heard
    assert heard == tags.overheard(caption, random.Random(seed), vocabulary, missed, misheard)
    if missed == misheard == 0:
        assert sorted(heard.split(" ")) == sorted(" ".join(tags.content_words(caption)).split(" "))


def test_misheard_tags_come_as_often_as_captions_name_them(space):
    vocabulary = space["tags"].TagVocabulary(["rain rain", "rain", "rain and wind"])
    rng = random.Random(0)
    drawn = [vocabulary.draw(rng) for _ in range(4000)]
    assert drawn.count("rain") / len(drawn) == pytest.approx(0.75, abs=0.03)


def test_without_distortion_noise_and_offset_the_stand_in_is_the_centered_tags(space):
    stand_in = space["stand_in"]
    rows = F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) + 1, dim=-1)
    still = stand_in.Calibration(distortion=0, noise=0, offset=0)
    heard = stand_in.AudioStandIn(rows, rows, still, seed=0)(rows, torch.Generator())
    torch.testing.assert_close(heard, F.normalize(rows - rows.mean(0), dim=-1))


def test_the_offset_is_the_modality_gap(space):
    stand_in = space["stand_in"]
    rows = F.normalize(torch.randn(2000, 16, generator=torch.Generator().manual_seed(0)) + 0.5, dim=-1)
    near = stand_in.Calibration(offset=0.5, offset_to_text=0.3)
    for calibration in (near, replace(near, offset=2.0)):
        hear = stand_in.AudioStandIn(rows, rows, calibration, seed=0)
        assert hear.offset.norm().item() == pytest.approx(calibration.offset, rel=1e-5)
        assert F.cosine_similarity(hear.offset, rows.mean(0), dim=0).item() == pytest.approx(0.3, abs=1e-5)
    far = hear(rows, torch.Generator().manual_seed(1)).mean(0).norm()
    assert far > stand_in.AudioStandIn(rows, rows, near, seed=0)(rows, torch.Generator().manual_seed(1)).mean(0).norm()


def test_noise_has_the_covariance_of_the_tags(space):
    stand_in = space["stand_in"]
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(4000, 6, generator=generator) * torch.tensor([3, 2, 1, 1, 0.5, 0.1]), dim=-1)
    hear = stand_in.AudioStandIn(rows, rows, stand_in.Calibration(), seed=0)
    noise = torch.randn(40000, 6, generator=generator) @ hear.noise_factor
    wanted = torch.cov(rows.T) / torch.cov(rows.T).trace()
    torch.testing.assert_close(torch.cov(noise.T), wanted, atol=0.01, rtol=0)


def test_pairs_are_made_the_same_way_in_every_split(space, captions):
    build, calibration = space["build"], space["stand_in"].Calibration()
    pairs = build.make_pairs(captions, bag_of_words, calibration, seed=3)
    again = build.make_pairs(captions, bag_of_words, calibration, seed=3)
    other = build.make_pairs(captions, bag_of_words, calibration, seed=4)
    for split, (lines, group) in captions.items():
        assert pairs[split].fingerprint == again[split].fingerprint != other[split].fingerprint
        torch.testing.assert_close(pairs[split].target, bag_of_words(lines))
        assert torch.equal(pairs[split].group, group)
        matched = F.cosine_similarity(pairs[split].source, pairs[split].target).mean()
        assert matched > F.cosine_similarity(pairs[split].source, pairs[split].target.roll(1, 0)).mean()


def test_unpaired_captions_are_kept_as_targets(space, captions):
    build, calibration = space["build"], space["stand_in"].Calibration()
    full = build.make_pairs(captions, bag_of_words, calibration)
    few = build.make_pairs(captions, bag_of_words, calibration, paired=30)
    assert few["test"].fingerprint == full["test"].fingerprint
    rows = few["train"].group
    assert len(rows) == 30
    torch.testing.assert_close(few["train"].source, full["train"].source[rows])
    together = torch.cat([few["train"].target, few["train"].unpaired_target])
    assert sorted(together.tolist()) == sorted(full["train"].target.tolist())
    for wrong in (1, 101):
        with pytest.raises(InputError, match=str(wrong)):
            build.make_pairs(captions, bag_of_words, calibration, paired=wrong)


def test_captions_that_cannot_be_read_are_refused(space, tmp_path):
    read = space["build"].read_captions
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "train.csv")
    for content in ("", "a,b\n1,2\n", "youtube_id,start_time,caption\n"):
        (tmp_path / "train.csv").write_text(content)
        with pytest.raises(DataError, match="lacks"):
            read(tmp_path / "train.csv")


def test_command_writes_the_three_files(space, captions, tmp_path, monkeypatch, capsys):
    build = space["build"]
    monkeypatch.setattr(build, "sentence_encoder", lambda: bag_of_words)
    for split, (lines, group) in captions.items():
        rows = [f"{clip},{clip},{line}" for clip, line in zip(group.tolist(), lines, strict=True)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["youtube_id,start_time,caption", *rows]))
    command = ["--captions", str(tmp_path), "--output", str(tmp_path / "new" / "space.safetensors")]
    build.main(command)
    first = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert sorted(first) == ["space-test.safetensors", "space-validation.safetensors", "space.safetensors"]
    assert "100 pairs of 100 clips" in capsys.readouterr().out
    assert EmbeddingPairs.load(tmp_path / "new" / "space-test.safetensors").group.unique().numel() == 5
    build.main(command)
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}


def test_the_real_space_has_the_figures_of_clap(space, shared_data):
    """Raw, centered and not-matched cosine of LAION-CLAP on AudioCaps (Table 1 of the paper)."""
    pytest.importorskip("wordllama", reason="pip install wordllama")
    build = space["build"]
    files = {split: shared_data / "audiocaps" / f"{split}.csv" for split in ("train", "test")}
    captions = {split: build.read_captions(path) for split, path in files.items()}
    pairs = build.make_pairs(captions, build.sentence_encoder(), space["stand_in"].Calibration())
    train, test = pairs["train"], pairs["test"]
    source, target = (
        F.normalize(held - fitted.mean(0), dim=-1)
        for held, fitted in ((test.source, train.source), (test.target, train.target))
    )
    assert (test.source * test.target).sum(1).mean().item() == pytest.approx(0.486, abs=0.02)
    assert (test.source.mean(0) @ test.target.mean(0)).item() == pytest.approx(0.030, abs=0.02)
    assert (source * target).sum(1).mean().item() == pytest.approx(0.547, abs=0.02)
