"""JSON lines of predictions: what is read, and which line is named when it cannot be."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.errors import DataError, DiffusionLinkError, InputError
from diffusion_link_hf.metrics.captions import CaptionScores
from diffusion_link_hf.metrics.predictions_file import read_predictions, write_per_caption

GOOD = '{"candidate": "a", "references": ["b"]}'


def test_fields_blank_lines_and_the_byte_order_mark(tmp_path):
    path = tmp_path / "p.jsonl"
    text = '\ufeff{"file": "x.wav", "candidate": "狗\\n🐶", "references": ["é", "b"]}\r\n\n  \n' + GOOD
    path.write_bytes(text.encode())
    read = read_predictions(path)
    assert read.captions.candidates == ["狗\n🐶", "a"]
    assert read.captions.references == [["é", "b"], ["b"]]
    assert read.others == [{"file": "x.wav"}, {}]
    assert read.captions.rows == [f"{path}, line 1", f"{path}, line 4"]
    assert read_predictions(io.BytesIO(text.encode())).captions.rows[1] == "standard input, line 4"


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("{", DataError, "line 3: is not JSON"),
        ("not json", DataError, "line 3: is not JSON"),
        (GOOD + GOOD, DataError, "line 3: is not JSON"),
        ("[1]", DataError, "line 3: holds a list"),
        ('"text"', DataError, "line 3: holds a str"),
        ("null", DataError, "line 3: holds a NoneType"),
        ("{}", DataError, "line 3: lacks 'candidate' .it has no fields"),
        ('{"candidate": "a"}', DataError, "line 3: lacks 'references' .it has 'candidate'"),
        ('{"prediction": "a", "references": ["b"]}', DataError, "line 3: lacks 'candidate'"),
        ("[" * 100_000, DataError, "line 3: cannot be read as JSON"),
        ('{"candidate": ' + "9" * 5000 + "}", DataError, "line 3: cannot be read as JSON"),
        ('{"candidate": null, "references": ["b"]}', InputError, "line 3, candidate: is a NoneType"),
        ('{"candidate": NaN, "references": ["b"]}', InputError, "line 3, candidate: is a float"),
        ('{"candidate": "a", "references": []}', InputError, "line 3, references: there are none"),
        ('{"candidate": "a", "references": "b"}', InputError, "line 3, references: are a str"),
        ('{"candidate": "a", "references": ["b", ""]}', InputError, "line 3, reference 2: is blank"),
        ('{"candidate": "\\ud83d", "references": ["b"]}', InputError, "line 3, candidate: holds a lone surrogate"),
    ],
)
def test_the_bad_line_is_named(tmp_path, line, error, message):
    path = tmp_path / "p.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(error, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}, line 3")


def test_other_encodings(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + '{"candidate": "été", "references": ["b"]}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 2: is not UTF-8 \(byte 16\)"):
        read_predictions(path)
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(DataError, match="line 1: is not UTF-8"):
        read_predictions(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_predictions(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path)
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(DataError, match="holds no predictions"):
        read_predictions(tmp_path / "empty")


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused_with_a_typed_error(data):
    with pytest.raises(DiffusionLinkError):
        read_predictions(io.BytesIO(b'{"candidate":' + data))


def test_scores_are_written_beside_their_captions(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"file": "x", "candidate": "é", "references": ["b"]}\n' + GOOD, encoding="utf-8")
    scores = CaptionScores({"m": 0.5, "size": 2.0}, {"m": np.array([0.25, 0.75])})
    write_per_caption(tmp_path / "out.jsonl", read_predictions(path), scores)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()] == [
        {"file": "x", "candidate": "é", "scores": {"m": 0.25}},
        {"candidate": "a", "scores": {"m": 0.75}},
    ]
    with pytest.raises(DataError, match="cannot be written"):
        write_per_caption(tmp_path / "no" / "out.jsonl", read_predictions(path), scores)
