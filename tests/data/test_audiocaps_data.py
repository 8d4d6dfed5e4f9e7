"""AudioCaps: the official caption files, and recordings as downloaders name them."""

import csv

import pytest

from diffusion_link_hf.data.audiocaps import AudioCaps
from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.errors import AudioNotFoundError, DataError
from support.captions import write_sound

HEADER = "audiocap_id,youtube_id,start_time,caption\n"
ID = "-0Ab_cD9eFg"
TEST = HEADER + f'11,{ID},30,"Wind, rain"\n12,othervideo1,0,A dog\n13,{ID},30,Wind blows\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test.csv").write_text(TEST)
    return tmp_path


@pytest.mark.parametrize(("split", "count"), [("train", 49_838), ("val", 495), ("test", 975)])
def test_the_official_captions(shared_data, split, count):
    """Against the csv module of Python and a dictionary."""
    expected: dict[str, list[str]] = {}
    with open(shared_data / "audiocaps" / f"{split}.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            expected.setdefault(f"{row['youtube_id']}_{row['start_time']}", []).append(row["caption"].strip())
    data = open_data(shared_data / "audiocaps", split=split)
    clips = {clip.name: list(clip.captions) for clip in data}
    assert list(clips.items()) == list(expected.items())
    assert len(clips) == count


def test_captions_without_recordings(folder):
    """They are still worth having, for training on text; who wants the audio hears that it is gone."""
    first, second = open_data(folder)
    assert (first.name, first.captions) == (f"{ID}_30", ("Wind, rain", "Wind blows"))
    assert second.captions == ("A dog",)
    for clip in (first, second):
        with pytest.raises(AudioNotFoundError, match=f"^{clip.name}: its recording is missing"):
            clip.load()


@pytest.mark.parametrize(
    "stem",
    [
        f"{ID}_30",
        f"{ID}_30_40",
        f"{ID}_30000_40000",
        ID,
        f"Y{ID}_30",
        f"Y{ID}_30_40",
        f"Y{ID}_30000_40000",
        f"Y{ID}",
        "13",
    ],
)
@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_names_of_recordings(folder, stem, extension):
    path = write_sound(folder / "audio" / "test" / f"{stem}.{extension}")
    first, second = open_data(folder)
    assert first.path == path
    assert len(first.load()) == 4800
    assert second.path is None


@pytest.mark.parametrize("stem", [f"{ID}_31", f"{ID}_3", ID[1:], ID.lower(), f"{ID} (1)", "1", "14"])
def test_other_names_are_other_recordings(folder, stem):
    write_sound(folder / f"{stem}.wav")
    assert [clip.path for clip in open_data(folder)] == [None, None]


def test_the_most_specific_name_is_taken(folder):
    for stem in (f"{ID}_30", ID, f"Y{ID}", "11"):
        write_sound(folder / f"{stem}.wav")
    assert next(iter(open_data(folder))).path == folder / f"{ID}_30.wav"


def test_several_clips_of_a_video_need_their_start(folder):
    (folder / "test.csv").write_text(TEST + f"14,{ID},60,Thunder\n")
    write_sound(folder / f"{ID}.wav")
    assert all(clip.path is None for clip in open_data(folder))
    path = write_sound(folder / f"{ID}_60.wav")
    assert [clip.path for clip in open_data(folder)] == [None, None, path]


@pytest.mark.parametrize("other", [f"{ID}_30.flac", f"sub/{ID}_30.wav"])
def test_two_recordings_of_one_name_are_refused(folder, other):
    write_sound(folder / f"{ID}_30.wav")
    write_sound(folder / other)
    with pytest.raises(DataError, match=f"^{ID}_30: has the recordings"):
        open_data(folder)


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    write_sound(tmp_path / "else" / "music.wav")
    for audio, words in ((tmp_path / "else", "none of the 2 recordings"), (tmp_path / "nowhere", "is not a folder")):
        with pytest.raises(DataError, match=words):
            open_data(folder, audio=audio)


def test_splits_are_the_csv_files(folder):
    (folder / "val.csv").write_text(TEST)
    (folder / "class_labels_indices.csv").write_text("index,mid\n0,x\n")
    with pytest.raises(DataError, match=r"several splits\. Name one of test, val$"):
        open_data(folder)
    data = open_data(folder / "val.csv")
    assert (data.name, data.split, len(list(data))) == ("val.csv", "val", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEADER, "there are no rows"),
        (HEADER + "1,abc,30,\n", "row 1: there is no caption in this row"),
        ("youtube_id,start_time\nabc,30\n", "no caption"),
    ],
)
def test_wrong_captions_are_refused(tmp_path, text, words):
    (tmp_path / "test.csv").write_text(text)
    builder = AudioCaps(data_files={"test": str(tmp_path / "test.csv")})
    with pytest.raises(DataError, match=words):
        builder.as_streaming_dataset(split="test")


def test_the_builder_alone(folder):
    write_sound(folder / f"{ID}.flac")
    rows = list(AudioCaps(data_dir=str(folder), limit=1).as_streaming_dataset(split="test"))
    assert rows == [
        {
            "name": f"{ID}_30",
            "captions": ["Wind, rain", "Wind blows"],
            "audio": {"bytes": None, "path": str(folder / f"{ID}.flac")},
        }
    ]


def test_prepared_as_any_data_set(folder, tmp_path):
    """`download_and_prepare` writes Arrow files, where one wants random access."""
    builder = AudioCaps(data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert builder.as_dataset("test")["name"] == [f"{ID}_30", "othervideo1_0"]
