"""Files and folders that are whole, on the disk, or not there."""

import os
import stat

import pytest

from diffusion_link_hf.errors import DataError, InputError
from diffusion_link_hf.files import make_writable, whole_folder, write_whole


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(DataError, match="Input/output error"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert synced == [False]
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert synced == [False, False, True]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise InputError("row 3", "is no text", "Correct it")

    with pytest.raises(InputError, match="row 3"):
        write_whole(path, fail)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    for text in ("old", "new"):
        with whole_folder(path) as folder:
            (folder / "deep").mkdir()
            (folder / "deep" / text).write_text(text)
        assert [found.name for found in (path / "deep").iterdir()] == [text]
    with pytest.raises(InputError), whole_folder(path):
        raise InputError("row 3", "is no text", "Correct it")
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]
    assert (path / "deep" / "new").read_text() == "new"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        make_writable(tmp_path / "file" / "below")
    make_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
