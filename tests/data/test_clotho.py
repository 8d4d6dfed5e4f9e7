"""Clotho from files as its archives hold them."""

import pytest

from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.data.clotho import Clotho
from diffusion_link_hf.errors import AudioNotFoundError, DataError
from support.captions import write_sound

HEADER = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
NAMES = ["Distorted AM Radio noise.wav", "Paper, Parchment.wav", "gone.wav"]


def write_split(folder, split, audio_folder, names=NAMES):
    rows = "".join(f'"{name}",{",".join(f"{split} {name[:5]} {n} ." for n in range(5))}\n' for name in names)
    (folder / f"clotho_captions_{split}.csv").write_text(
        HEADER + rows.replace("Paper,", "Paper;").replace('"Paper;', '"Paper,')
    )
    for k, name in enumerate(names[:2]):
        write_sound(audio_folder / name, k)


@pytest.fixture(params=["{}", "clotho_audio_{}"])
def folder(request, tmp_path):
    for split in ("development", "evaluation"):
        write_split(tmp_path, split, tmp_path / request.param.format(split))
    return tmp_path


def test_five_captions_for_each_file(folder):
    clips = list(open_data(folder, split="evaluation"))
    assert [clip.name for clip in clips] == NAMES
    assert clips[0].captions == tuple(f"evaluation Disto {n} ." for n in range(5))
    assert [len(clip.load()) for clip in clips[:2]] == [4800, 4800]
    with pytest.raises(AudioNotFoundError, match=r"^gone\.wav: "):
        clips[2].load()


def test_splits(folder):
    with pytest.raises(DataError, match="Name one of development, evaluation"):
        open_data(folder)
    data = open_data(folder / "clotho_captions_development.csv")
    assert data.split == "development"
    assert next(iter(data)).captions[0].startswith("development")
    whole = Clotho(data_dir=str(folder)).as_streaming_dataset()
    assert {split: len(list(rows)) for split, rows in whole.items()} == {"development": 3, "evaluation": 3}


def test_recordings_elsewhere(folder, tmp_path):
    for given in (tmp_path / "else", tmp_path / "more" / "evaluation"):
        for k, name in enumerate(NAMES):
            write_sound(given / name, k)
    for audio in (tmp_path / "else", tmp_path / "more"):
        assert [len(clip.load()) for clip in open_data(folder, split="evaluation", audio=audio)] == [4800] * 3


def test_without_recordings(tmp_path):
    write_split(tmp_path, "development", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="Set audio to the folder that has the recordings of the split development"):
        open_data(tmp_path)
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        open_data(tmp_path, audio=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER + "a.wav,,,,,\n", "row 1: there is no caption in this row"),
        (HEADER + "a.wav,1,2,3,4,5\nb.wav,1,2,3,4,5\na.wav,1,2,3,4,6\n", "row 3: names a.wav, as .*row 1 does"),
        ("file_name,keywords\na.wav,b\n", "no caption_1"),
        ("name,caption_1\na.wav,b\n", "no file_name"),
    ],
)
def test_wrong_captions_are_refused(tmp_path, text, words):
    (tmp_path / "validation").mkdir()
    (tmp_path / "clotho_captions_validation.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)
