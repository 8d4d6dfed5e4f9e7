"""Pickled weights become safetensors, or an error; nothing in them is ever run."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from diffusion_link_hf import pickled_weights
from diffusion_link_hf.errors import ModelFolderError
from diffusion_link_hf.pickled_weights import PICKLED_WEIGHTS, converted


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / PICKLED_WEIGHTS


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_tensors_are_converted_once(path, tmp_path, nested, zipped):
    """Also those that share memory, are no contiguous block, or were written by torch before 1.6."""
    whole = torch.arange(6.0).reshape(2, 3)
    state = {"a": whole, "b": whole, "c": whole.T, "d": torch.tensor(3, dtype=torch.long), "e": whole.half()}
    torch.save({"state_dict": state} if nested else state, path, _use_new_zipfile_serialization=zipped)
    folder = converted(path, tmp_path / "cache")
    found = load_file(folder / "model.safetensors")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    before = (folder / "model.safetensors").stat()
    assert converted(path, tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat() == before
    torch.save({"a": whole}, path)
    assert converted(path, tmp_path / "cache") != folder


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_not_run(path, tmp_path, protocol):
    torch.save({"a": torch.zeros(2), "b": Runs(tmp_path / "ran")}, path, pickle_protocol=protocol)
    with pytest.raises(ModelFolderError, match="would run code of its own") as caught:
        converted(path, tmp_path / "cache")
    assert "weights_only" not in str(caught.value)
    path.write_bytes(pickle.dumps(Runs(tmp_path / "ran"), protocol=protocol))
    with pytest.raises(ModelFolderError, match="checkpoint"):
        converted(path, tmp_path / "cache")
    assert not (tmp_path / "ran").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04"])
def test_what_is_no_checkpoint(path, tmp_path, content):
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match="is no checkpoint"):
        converted(path, tmp_path / "cache")


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"a": 1}, torch.zeros(1)])
def test_what_holds_no_named_tensors(path, tmp_path, content):
    torch.save(content, path)
    with pytest.raises(ModelFolderError, match="state_dict"):
        converted(path, tmp_path / "cache")


def test_a_cache_that_cannot_be_written(path, tmp_path):
    torch.save({"a": torch.zeros(1)}, path)
    (tmp_path / "cache").write_text("")
    with pytest.raises(ModelFolderError, match="cannot be written"):
        converted(path, tmp_path / "cache")


def test_a_torch_that_cannot_read_it_safely(path, tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(pickled_weights, "SAFE_TORCH", "99.0")
    with pytest.raises(ModelFolderError, match=r"Install torch>=99\.0"):
        converted(path, tmp_path / "cache")
