"""Parquet files with audio and captions, in the layouts of the Hub's copies of AudioCaps and Clotho."""

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusion_link_hf.data.captioned_audio import open_data
from diffusion_link_hf.data.captioned_parquet import CaptionedParquet
from diffusion_link_hf.errors import AudioDecodeError, AudioNotFoundError, DataError
from support.captions import AUDIOCAPS_SCHEMA, make_audiocaps_repository, sound, write_parquet, write_sound

AUDIO = AUDIOCAPS_SCHEMA["audio"]


@pytest.fixture(scope="module", params=[True, False], ids=["README.md", "file names"])
def repository(request, tmp_path_factory):
    return make_audiocaps_repository(tmp_path_factory.mktemp("audiocaps"), readme=request.param)


def test_captions_of_a_clip_are_gathered_over_files(repository):
    """Each comes once, although its captions are rows of two files; gone and corrupt recordings are told apart."""
    clips = list(open_data(repository, split="test"))
    assert [(clip.name, clip.captions) for clip in clips] == [
        (f"test{k:07d}_{10 * k}", tuple(f"Caption {n}" for n in range(k, 12, 4))) for k in range(4)
    ]
    assert [clip.audio for clip in clips] == [sound(0), None, sound(2)[:50], sound(3)]
    assert [len(clips[k].load()) for k in (0, 3)] == [4800, 4800]
    with pytest.raises(AudioNotFoundError, match=r"^test0000001_10: "):
        clips[1].load()
    with pytest.raises(AudioDecodeError, match=r"^test0000002_20: "):
        clips[2].load()


def test_splits(repository):
    with pytest.raises(DataError, match=r"several splits\. Name one of train, test$"):
        open_data(repository)
    with pytest.raises(DataError, match="no split 'validation'"):
        open_data(repository, split="validation")
    assert [clip.captions for clip in open_data(repository, split="train")] == [(f"Train {k}",) for k in range(5)]


def test_configurations(tmp_path):
    """As in repositories that hold several data sets."""
    schema = {"file_name": pa.string(), "audio": AUDIO, "caption": pa.string()}
    for config in ("clotho", "macs"):
        row = {"file_name": "a", "audio": None, "caption": f"From {config}"}
        write_parquet(tmp_path / config / "train.parquet", [row], schema)
    entries = "".join(f"- config_name: {config}\n  data_files: {config}/*.parquet\n" for config in ("clotho", "macs"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    (clip,) = open_data(tmp_path, config="macs")
    assert clip.captions == ("From macs",)
    with pytest.raises(DataError, match=r"clotho.*macs"):
        open_data(tmp_path)


def test_shards_are_row_groups(repository):
    train = open_data(repository, split="train")
    assert train.dataset.num_shards == 3
    assert [[clip.captions[0] for clip in train.shard(k, 2)] for k in range(2)] == [
        ["Train 0", "Train 1", "Train 2", "Train 3"],
        ["Train 4"],
    ]


def test_a_limit_counts_recordings_and_leaves_their_captions(repository):
    (clip,) = open_data(repository, split="test", limit=1)
    assert clip.captions == ("Caption 0", "Caption 4", "Caption 8")


@given(
    rows=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["x", "y"])), min_size=1, max_size=60),
    row_group_size=st.integers(1, 40),
    cut=st.integers(0, 40),
)
@example(rows=[(k, "x") for k in range(30)], row_group_size=30, cut=30)
@settings(max_examples=25, deadline=None)
def test_any_layout_gives_the_same_recordings(tmp_path_factory, rows, row_group_size, cut):
    """However rows lie in files and row groups: the audio is the one of a recording's first row."""
    folder = tmp_path_factory.mktemp("any")
    table = [
        {"youtube_id": f"{k:011d}", "start_time": 1, "caption": caption, "audio": {"bytes": b"%d" % n, "path": None}}
        for n, (k, caption) in enumerate(rows)
    ]
    files = [
        str(write_parquet(folder / f"{n}.parquet", part, row_group_size=row_group_size))
        for n, part in enumerate((table[:cut], table[cut:]))
    ]
    expected: dict[str, tuple[bytes, list[str]]] = {}
    for row in table:
        expected.setdefault(f"{row['youtube_id']}_1", (row["audio"]["bytes"], []))[1].append(row["caption"])
    dataset = CaptionedParquet(data_files={"train": files}).as_streaming_dataset(split="train")
    assert {row["name"]: (row["audio"]["bytes"], row["captions"]) for row in dataset} == expected


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"file_name": ["b.wav", "a.wav"], "caption": ["x", "y"]}, ["b.wav", "a.wav"]),
        ({"youtube_id": ["b", "a"], "caption": ["x", "y"]}, ["b", "a"]),
        ({"youtube_id": ["b", "a"], "start_time": [30.0, 1.0], "caption": ["x", "y"]}, ["b_30", "a_1"]),
        ({"youtube_id": ["b", "a"], "start_time": [30.5, 1.0], "caption": ["x", "y"]}, ["b_30.5", "a_1"]),
        ({"caption": ["x", "y"]}, ["0.flac", "a.parquet, row 2"]),
    ],
)
def test_names(tmp_path, columns, names):
    schema = {name: pa.array(values).type for name, values in columns.items()} | {"audio": AUDIO}
    audio = [{"bytes": sound(k), "path": path} for k, path in enumerate(["0.flac", None])]
    rows = [
        dict(zip([*columns, "audio"], values, strict=True)) for values in zip(*columns.values(), audio, strict=True)
    ]
    clips = list(open_data(write_parquet(tmp_path / "a.parquet", rows, schema)))
    assert [clip.name for clip in clips] == names
    assert [clip.audio for clip in clips] == [sound(0), sound(1)]


@pytest.mark.parametrize(
    "columns",
    [
        {"captions": ["a", "b"]},
        {"caption": ["a", "b "]},
        {"caption_1": "a", "caption_2": "b", "keywords": "c"},
    ],
)
def test_several_captions_in_a_row(tmp_path, columns):
    """As in kuanhuggingface/audiocaps_hallucination and 8Opt/clotho-dev-sample."""
    kinds = {name: pa.list_(pa.string()) if isinstance(value, list) else pa.string() for name, value in columns.items()}
    schema = {"file_name": pa.string(), "audio": AUDIO, **kinds}
    row = {"file_name": "a", "audio": {"bytes": sound(0), "path": "a"}, **columns}
    (clip,) = open_data(write_parquet(tmp_path / "a.parquet", [row], schema))
    assert clip.captions == ("a", "b")


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        ({"file_name": pa.string(), "captions": pa.list_(pa.string())}, {"file_name": "a", "captions": ["x"]}),
        ({"caption": pa.string()}, {"caption": "x"}),
    ],
)
def test_two_recordings_of_one_name_are_refused(tmp_path, schema, row):
    """Lists of captions need no second row, and a path says too little to make one recording of two."""
    rows = 2 * [row | {"audio": {"bytes": sound(0), "path": "a"}}]
    with pytest.raises(DataError, match=r"a\.parquet, row 2: names a, as .*row 1 does"):
        open_data(write_parquet(tmp_path / "a.parquet", rows, schema | {"audio": AUDIO}))


def test_audio_beside_the_parquet_file(tmp_path):
    write_sound(tmp_path / "data" / "sounds" / "a.wav")
    rows = [
        {"audio": {"bytes": None, "path": f"sounds/{name}.wav"}, "caption": name, "file_name": name} for name in "ab"
    ]
    write_parquet(
        tmp_path / "data" / "x.parquet", rows, {"file_name": pa.string(), "audio": AUDIO, "caption": pa.string()}
    )
    here, gone = open_data(tmp_path)
    assert len(here.load()) == 4800
    with pytest.raises(AudioNotFoundError, match=r"^b: "):
        gone.load()


def test_other_types_of_arrow(tmp_path):
    """What polars and pandas write."""
    large = pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())])
    schema = {"file_name": pa.large_string(), "audio": large, "caption": pa.large_string()}
    row = {"file_name": "a", "audio": {"bytes": sound(0), "path": "a"}, "caption": " x"}
    (clip,) = open_data(write_parquet(tmp_path / "a.parquet", [row], schema))
    assert (clip.captions, clip.audio) == (("x",), sound(0))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"audio": AUDIO, "text": pa.string()}, "no caption"),
        ({"caption": pa.string(), "file_name": pa.string()}, r"has the columns caption, file_name\. Give audio"),
        ({"caption": pa.string(), "audio": pa.string()}, "Give audio"),
    ],
)
def test_other_columns_are_refused(tmp_path, schema, words):
    write_parquet(tmp_path / "a.parquet", [dict.fromkeys(schema)], schema)
    with pytest.raises(DataError, match=words):
        open_data(tmp_path)


def test_files_that_do_not_agree_are_refused(tmp_path):
    schema = {"audio": AUDIO, "caption": pa.string(), "file_name": pa.string()}
    row = {"audio": None, "caption": "x", "file_name": "a"}
    write_parquet(tmp_path / "train-0.parquet", [row], schema)
    write_parquet(tmp_path / "train-1.parquet", [row | {"caption": ["x"]}], schema | {"caption": pa.list_(pa.string())})
    with pytest.raises(DataError, match=r"train-1\.parquet: does not have the columns of .*train-0\.parquet"):
        open_data(tmp_path)


def test_an_empty_caption_is_left_out_and_listed_with_its_place(tmp_path):
    rows = [{"audio": None, "caption": text, "youtube_id": "a", "start_time": k} for k, text in enumerate(["x", " "])]
    write_parquet(tmp_path / "train-0.parquet", rows[:1])
    write_parquet(tmp_path / "train-1.parquet", rows)
    data = open_data(tmp_path)
    assert [(clip.name, clip.captions) for clip in data] == [("a_0", ("x", "x"))]
    assert data.left_out == [{"audio": "a_1", "reason": "train-1.parquet, row 2: has an empty caption for a_1"}]
    assert data.shard(0, 1).left_out == data.left_out


def test_a_damaged_file_is_refused(tmp_path):
    path = make_audiocaps_repository(tmp_path) / "data" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: is not a whole Parquet file"):
        open_data(tmp_path, split="train")
    path.write_bytes(whole[:100] + bytes(300) + whole[400:])  # the captions at the end are whole, the audio is not
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: "):
        list(open_data(tmp_path, split="train"))


def test_the_fingerprint_follows_the_audio(tmp_path):
    row = {"youtube_id": "a", "start_time": 0, "caption": "x"}
    before = open_data(write_parquet(tmp_path / "a.parquet", [row | {"audio": {"bytes": b"one", "path": ""}}]))
    after = open_data(write_parquet(tmp_path / "a.parquet", [row | {"audio": {"bytes": b"other", "path": ""}}]))
    assert before.fingerprint != after.fingerprint
