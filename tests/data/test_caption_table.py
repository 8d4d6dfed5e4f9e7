"""Caption files as tables: text stays as it is, rows are gathered by recording, and what is wrong is named."""

import csv
import tempfile

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.data.caption_table import caption_column, gather_captions, read_csv, read_json_lines
from diffusion_link_hf.errors import DataError

texts = st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda text: text.strip())


def text_column(values: list) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values[:1], pa.string()), pa.array(values[1:], pa.string())])


def where(k: int) -> str:
    return f"row {k + 1}"


@given(st.lists(st.tuples(st.sampled_from(["a", "b ", "c/d.wav", "é"]), texts), min_size=1, max_size=30))
def test_rows_of_one_name_become_its_captions(rows):
    """Against a plain dictionary; neither order nor repeated captions get lost."""
    expected: dict[str, list[str]] = {}
    first: dict[str, int] = {}
    for k, (name, caption) in enumerate(rows):
        expected.setdefault(name, []).append(caption.strip())
        first.setdefault(name, k)
    names, captions = (text_column(list(column)) for column in zip(*rows, strict=True))
    assert gather_captions(names, captions, where, []).to_pylist() == [
        {"name": name, "captions": own, "row": first[name]} for name, own in expected.items()
    ]


@given(st.lists(st.lists(texts, min_size=1, max_size=5), min_size=1, max_size=10))
def test_lists_are_captions_of_their_row(lists):
    names = text_column([f"{k}.wav" for k in range(len(lists))])
    captions = pa.chunked_array(
        [pa.array(lists[:2], pa.list_(pa.string())), pa.array(lists[2:], pa.list_(pa.string()))]
    )
    gathered = gather_captions(names, captions, where, [])
    assert gathered["captions"].to_pylist() == [[text.strip() for text in own] for own in lists]


@pytest.mark.parametrize("captions", [["x", "y", "z"], [["x"], ["y"], ["z"]]])
def test_a_name_given_twice_is_refused_with_both_rows(captions):
    with pytest.raises(DataError, match=r"row 3: names a, as row 1 does"):
        gather_captions(text_column(["a", "b", "a"]), pa.chunked_array([captions]), where, [], repeated=False)


@pytest.mark.parametrize("captions", [["x", "", "z"], ["x", None, "z"], ["x", " \n", "z"]])
@pytest.mark.parametrize("as_lists", [False, True])
def test_an_empty_caption_is_left_out_and_listed_with_its_row(captions, as_lists):
    column = pa.chunked_array([[["fine", text] for text in captions] if as_lists else captions])
    left_out = []
    gathered = gather_captions(text_column(["a", "b", "c"]), column, where, left_out).to_pydict()
    assert left_out == [{"audio": "b", "reason": "row 2: has an empty caption for b"}]
    if as_lists:
        expected = {"name": ["a", "b", "c"], "captions": [["fine", "x"], ["fine"], ["fine", "z"]], "row": [0, 1, 2]}
    else:
        expected = {"name": ["a", "c"], "captions": [["x"], ["z"]], "row": [0, 2]}
    assert gathered == expected


@pytest.mark.parametrize("missing", [None, []])
def test_a_list_without_captions_is_left_out_and_listed(missing):
    column = pa.chunked_array([pa.array([["x"], missing], pa.list_(pa.string()))])
    left_out = []
    assert gather_captions(text_column(["a", "b"]), column, where, left_out)["name"].to_pylist() == ["a"]
    assert left_out == [{"audio": "b", "reason": "row 2: has an empty caption for b"}]


@pytest.mark.parametrize("captions", [["", None], [[], [" "]]])
def test_no_caption_at_all_is_refused(captions):
    with pytest.raises(DataError, match="there is no caption in this row, or in any other"):
        gather_captions(text_column(["a", "b"]), pa.chunked_array([captions]), where, [])


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_row_without_a_name_is_refused(name):
    with pytest.raises(DataError, match="row 2: names no recording"):
        gather_captions(text_column(["a", name]), text_column(["x", "y"]), where, [])


def test_csv_is_text_only(tmp_path):
    """pandas would read "None" and "NA" as missing, 007 as 7, and drop the spaces of a file name."""
    path = tmp_path / "a.csv"
    path.write_bytes('\ufefffile_name,caption\n007,None\n" a,b ","two\nlines, ""quoted"""\r\nnull,NA\n'.encode())
    assert read_csv(path).to_pylist() == [
        {"file_name": "007", "caption": "None"},
        {"file_name": " a,b ", "caption": 'two\nlines, "quoted"'},
        {"file_name": "null", "caption": "NA"},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no header"),
        (b"file_name,caption,caption\na,b,c\n", "twice"),
        (b"file_name,caption\na,b,c\n", "line 2: has 3 fields, the header 2"),
        (b"file_name,caption\na,b\n\nc\n", "line 4: has 1 fields"),
        (b"file_name,caption\na,\xff\xfe\n", "cannot be read .*utf-8"),
        (b'file_name,caption\na,"b\nc,d\ne,f\n', "cannot be read .*unexpected end"),
        (b'file_name,caption\na,"b"c\n', "cannot be read"),
        (b"file_name,caption\na," + 200_000 * b"b" + b"\n", "cannot be read .*limit"),
    ],
)
def test_csv_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv.*{words}"):
        read_csv(tmp_path / "a.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "nowhere.csv")


@given(st.lists(st.lists(texts, min_size=2, max_size=2), max_size=8))
def test_csv_as_python_writes_it(rows):
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/a.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["file_name", "caption"], *rows])
        assert [list(row.values()) for row in read_csv(f"{folder}/a.csv").to_pylist()] == rows


@pytest.mark.parametrize("content", ["[1]\n", '{"file_name": "a"\n', '{"a": 1}\n{"a": "b"}\n', "\xff"])
def test_json_that_cannot_be_read(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read"):
        read_json_lines(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"caption": ["x", "y"], "caption_zh": ["1", "2"]}, ["x", "y"]),
        ({"captions": [["x"], ["y", "z"]], "keywords": ["1", "2"]}, [["x"], ["y", "z"]]),
        ({"caption_1": ["x", "y"], "caption_2": ["z", None]}, [["x", "z"], ["y", None]]),
        ({"caption": pa.array(["x", "y"]).dictionary_encode()}, ["x", "y"]),
        ({"caption": pa.array([["x"], ["y"]], pa.large_list(pa.large_string()))}, [["x"], ["y"]]),
    ],
)
def test_forms_of_captions(columns, expected):
    assert caption_column(pa.table(columns), "table").to_pylist() == expected


@pytest.mark.parametrize(
    "columns",
    [
        {"text": ["x"]},
        {"caption": ["x"], "captions": [["y"]]},
        {"caption": ["x"], "caption_1": ["y"]},
        {"caption": [1]},
        {"caption_1": [["x"]]},
    ],
)
def test_other_columns_are_refused(columns):
    with pytest.raises(DataError, match="table: has"):
        caption_column(pa.table(columns), "table")
