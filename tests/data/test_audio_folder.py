"""Own recordings with a metadata file."""

import os

import pytest

from diffusion_link_hf.data.audio_folder import AudioFolder
from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.errors import AudioDecodeError, AudioNotFoundError, DataError
from support.captions import write_sound

CSV = 'file_name,caption\n0.wav,"Rain, falling"\nsub/1.flac,A dog \ngone.wav,A cat\n0.wav,Drops\nbad.wav,Noise\n'


@pytest.fixture
def folder(tmp_path):
    write_sound(tmp_path / "0.wav")
    write_sound(tmp_path / "sub" / "1.flac")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    (tmp_path / "metadata.csv").write_text(CSV)
    return tmp_path


def test_rows_of_one_file_are_its_captions(folder):
    clips = list(open_data(folder))
    assert [(clip.name, clip.captions) for clip in clips] == [
        ("0.wav", ("Rain, falling", "Drops")),
        ("sub/1.flac", ("A dog",)),
        ("gone.wav", ("A cat",)),
        ("bad.wav", ("Noise",)),
    ]
    assert [len(clip.load()) for clip in clips[:2]] == [4800, 4800]
    with pytest.raises(AudioNotFoundError, match=r"^gone\.wav: "):
        clips[2].load()
    with pytest.raises(AudioDecodeError, match=r"^bad\.wav: "):
        clips[3].load()


def test_json_lines(folder):
    (folder / "metadata.csv").unlink()
    lines = ['{"file_name": "0.wav", "captions": ["a ", "b"]}', '{"file_name": "1.wav", "captions": ["c"], "x": 1}']
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert [(clip.name, clip.captions) for clip in open_data(folder)] == [("0.wav", ("a", "b")), ("1.wav", ("c",))]
    assert [clip.name for clip in open_data(folder / "metadata.jsonl")] == ["0.wav", "1.wav"]


def test_the_file_itself_and_recordings_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("captions") / "mine.csv"
    elsewhere.write_text("file_name,caption\n0.wav,Rain\n")
    (clip,) = open_data(elsewhere, audio=folder)
    assert len(clip.load()) == 4800
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        open_data(elsewhere, audio=folder / "nowhere")


def test_a_folder_for_each_split(folder, tmp_path):
    for split in ("train", "test"):
        write_sound(tmp_path / "whole" / split / "0.wav")
        (tmp_path / "whole" / split / "metadata.csv").write_text(f"file_name,caption\n0.wav,From {split}\n")
    (clip,) = open_data(tmp_path / "whole", split="test")
    assert clip.captions == ("From test",)
    assert len(clip.load()) == 4800
    with pytest.raises(DataError, match=r"several splits\. Name one of test, train"):
        open_data(tmp_path / "whole")
    with pytest.raises(DataError, match=r"no split 'val'\. Name one of test, train"):
        open_data(tmp_path / "whole", split="val")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file_name,caption\n", "there are no rows"),
        ("name,caption\na.wav,b\n", "no file_name"),
        ("file_name,title\na.wav,b\n", "no caption"),
        ("file_name,caption\na.wav,\nb.wav,\n", "row 1: there is no caption in this row, or in any other"),
        ("file_name,caption\n,b\n", "row 1: names no recording"),
        ('file_name,caption\na.wav,"b\n', "cannot be read"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, text, words):
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)


def test_a_name_twice_with_lists_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a", "captions": ["x"]}\n' * 2)
    with pytest.raises(DataError, match=r"row 2: names a, as .*row 1 does"):
        open_data(tmp_path)


def test_a_file_name_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": 1, "caption": "x"}\n')
    with pytest.raises(DataError, match="file_name of int64"):
        open_data(tmp_path)


def test_two_metadata_files_are_refused(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "0.wav", "caption": "x"}\n')
    with pytest.raises(DataError, match="has both"):
        open_data(folder)


def test_patterns_in_the_folder_name(tmp_path):
    """`datasets` reads paths as patterns, so that these would match nothing, or another folder."""
    folder = tmp_path / "a[1]*?"
    write_sound(folder / "0.wav")
    (folder / "metadata.csv").write_text("file_name,caption\n0.wav,Rain\n")
    (clip,) = open_data(folder)
    assert len(clip.load()) == 4800


def test_the_builder_alone(folder):
    rows = list(AudioFolder(data_dir=str(folder)).as_streaming_dataset(split="train"))
    assert rows[1] == {
        "name": "sub/1.flac",
        "captions": ["A dog"],
        "audio": {"bytes": None, "path": os.path.join(folder, "sub/1.flac")},
    }
    with pytest.raises(DataError, match="no split 'test'"):
        AudioFolder(data_dir=str(folder)).as_streaming_dataset(split="test")
    with pytest.raises(DataError, match="holds no AudioFolder data"):
        AudioFolder(data_dir=str(folder / "sub")).as_streaming_dataset(split="train")


def test_a_split_name_that_datasets_refuses(tmp_path):
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "metadata.csv").write_text("file_name,caption\n0.wav,Rain\n")
    with pytest.raises(DataError, match="split 'fold-1'"):
        open_data(tmp_path)
