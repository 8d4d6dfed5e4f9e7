"""Checkpoints: what they belong to is compared field by field, and damage is a typed error."""

import hashlib
import json
import os
import resource
import shutil
import time

import pytest
import torch

from diffusion_link_hf import train
from diffusion_link_hf.errors import DataError, RecipeError
from diffusion_link_hf.training import fingerprints
from diffusion_link_hf.training.checkpoints import (
    load_checkpoint,
    run_identity,
    save_checkpoint,
    start_anew,
)
from diffusion_link_hf.training.fingerprints import folder_fingerprint
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache

RECIPE = {"learning_rate": 1e-3, "model": {"width": 8}, "widths": (1, 2), "output": "a", "link": "x"}
IDENTITY = run_identity(RECIPE, data="d", link="l", clap=None)


@pytest.fixture
def saved(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, step, {"weights": torch.arange(step)}, IDENTITY, keep=2)
    return tmp_path


def test_round_trip(saved):
    step, state = load_checkpoint(
        saved, run_identity({**RECIPE, "output": "b", "link": "y"}, data="d", link="l", clap=None)
    )
    assert step == 20
    assert torch.equal(state["weights"], torch.arange(20))
    assert load_checkpoint(saved / "nowhere", IDENTITY) is None


@pytest.mark.parametrize(
    ("recipe", "contents", "words"),
    [
        ({"learning_rate": 1e-4}, {}, r"another recipe \(learning_rate 0.001, now 0.0001\)"),
        ({"model": {"width": 9}}, {}, r"another recipe \(model.width 8, now 9\)"),
        ({"model": {"width": 8, "x": 1}, "seed": 3}, {}, r"\(model.x None, now 1; seed None, now 3\)"),
        ({}, {"data": "e"}, r"another data \(d, now e\)"),
        ({}, {"link": "m"}, r"another link \(l, now m\)"),
        ({}, {"link": None}, r"another link \(l, now None\)"),
        ({}, {"clap": "c"}, r"another clap \(None, now c\)"),
    ],
)
def test_what_differs_is_named(saved, recipe, contents, words):
    with pytest.raises(RecipeError, match=words):
        load_checkpoint(
            saved, run_identity({**RECIPE, **recipe}, **{"data": "d", "link": "l", "clap": None, **contents})
        )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("identity.json", None),
        ("identity.json", '{"recipe": {'),
        ("identity.json", "[]"),
        ("identity.json", b"\xff\xfe"),
        ("identity.json", json.dumps({**IDENTITY, "recipe": "abc", "step": 20})),
        ("identity.json", json.dumps(IDENTITY)),
        ("state.pt", None),
        ("state.pt", ""),
        ("state.pt", 100),
        ("state.pt", "no weights"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(saved, name, content, caplog):
    """For the one before it, with a warning; where that is damaged, too, there is nothing to go on from."""
    damage(saved / "step-00000020" / name, content)
    step, state = load_checkpoint(saved, IDENTITY, set_aside=True)
    assert (step, len(state["weights"])) == (10, 10)
    assert "step-00000020" in caplog.text
    assert "is damaged" in caplog.text
    assert sorted(path.name for path in saved.iterdir()) == ["damaged-step-00000020", "step-00000010"]
    damage(saved / "step-00000010" / name, content)
    with pytest.raises(DataError, match="is damaged") as caught:
        load_checkpoint(saved, IDENTITY)
    assert "step-00000010" in caught.value.item
    assert caught.value.remedy


def damage(path, content):
    """Removes a file (None), cuts it (a length), or writes something else into it."""
    if content is None:
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(
            whole[:content] if isinstance(content, int) else content if isinstance(content, bytes) else content.encode()
        )


def test_a_flipped_bit_is_noticed(saved):
    """In the bytes of a weight, where torch itself reads on without a word."""
    path = saved / "step-00000020" / "state.pt"
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(20).numpy().tobytes()) + 8
    content[place] ^= 1
    path.write_bytes(bytes(content))
    assert torch.load(path, weights_only=True)["weights"][1] == 0
    assert load_checkpoint(saved, IDENTITY)[0] == 10
    about = json.loads((path.parent / "identity.json").read_text())
    del about["sha256"]  # as an earlier version wrote it
    (path.parent / "identity.json").write_text(json.dumps(about))
    assert load_checkpoint(saved, IDENTITY)[0] == 20


def test_a_bit_that_rots_is_noticed_though_the_file_looks_unchanged(saved, tmp_path, monkeypatch):
    """Size, time and inode stay the same: no hash may be remembered by them here, however large the file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "REMEMBERED_BYTES", 0)
    path = saved / "step-00000020" / "state.pt"
    os.utime(path, (time.time() - 60,) * 2)
    assert load_checkpoint(saved, IDENTITY)[0] == 20
    before = path.stat()
    with path.open("r+b") as file:
        place = file.read().index(torch.arange(20).numpy().tobytes()) + 8
        file.seek(place)
        file.write(bytes([torch.arange(20).numpy().tobytes()[8] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_checkpoint(saved, IDENTITY)[0] == 10


def test_foreign_folders_are_left_alone(saved):
    for name in ("step-backup", "step-00000099.old", "step-7"):
        (saved / name).mkdir()
    (saved / "step-00000098").write_text("a file")
    assert load_checkpoint(saved, IDENTITY)[0] == 20
    save_checkpoint(saved, 30, {}, IDENTITY, keep=1)
    assert sorted(path.name for path in saved.iterdir()) == [
        "step-00000030",
        "step-00000098",
        "step-00000099.old",
        "step-7",
        "step-backup",
    ]


def test_folders_are_known_by_their_content(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.safetensors").write_bytes(b"1")
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "README.md").write_text(name)
    first = folder_fingerprint(tmp_path / "a")
    assert folder_fingerprint(tmp_path / "b") == first
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert folder_fingerprint(tmp_path / "b") != first
    (tmp_path / "a" / "w.safetensors").write_bytes(b"2")
    assert folder_fingerprint(tmp_path / "a") != first


def test_a_large_file_is_hashed_once_per_machine(tmp_path, monkeypatch):
    """Until it changes; in a small cache folder of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "REMEMBERED_BYTES", 4)
    path, reads, real = tmp_path / "model.safetensors", [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: reads.append(args) or real(*args))

    def write(content, age):
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)

    write(b"weights", age=60)
    first = fingerprints.remembered_sha256(path)
    assert first == hashlib.sha256(b"weights").hexdigest()
    assert fingerprints.remembered_sha256(path) == first
    assert len(reads) == 1
    write(b"Weights", age=30)
    assert fingerprints.remembered_sha256(path) == hashlib.sha256(b"Weights").hexdigest()
    assert len(reads) == 2
    for entry in fingerprints.hashes_folder().iterdir():
        entry.write_bytes(b"\xff torn")
    assert fingerprints.remembered_sha256(path) == hashlib.sha256(b"Weights").hexdigest()
    write(b"WEIGHTS", age=0)  # it may change again within one tick of the clock
    for _ in range(2):
        assert fingerprints.remembered_sha256(path) == hashlib.sha256(b"WEIGHTS").hexdigest()
    assert len(reads) == 5


def test_without_a_cache_folder_it_is_hashed_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(fingerprints, "REMEMBERED_BYTES", 1)
    assert fingerprints.remembered_sha256(tmp_path / "file") == hashlib.sha256(b"in the way").hexdigest()


def test_a_full_disk_leaves_the_previous_checkpoint(saved):
    """Really written past a limit of the system, which fails in the middle of a file as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        with pytest.raises(DataError, match="cannot be written") as caught:
            save_checkpoint(saved, 30, {"weights": torch.zeros(100_000)}, IDENTITY, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "step-00000030" in caught.value.item
    assert "previous checkpoint" in caught.value.remedy
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000010", "step-00000020"]
    assert load_checkpoint(saved, IDENTITY)[0] == 20
    save_checkpoint(saved, 30, {"weights": torch.zeros(100_000)}, IDENTITY, keep=1)
    assert load_checkpoint(saved, IDENTITY)[0] == 30


def test_a_torn_checkpoint_is_never_loaded(saved, monkeypatch):
    """Whatever call the process dies in, the newest whole checkpoint is found, and the rest goes with the next one."""

    def dies(*args):
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        monkeypatch.setattr(os, call, dies)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(saved, 30, {"weights": torch.arange(30)}, IDENTITY, keep=2)
        monkeypatch.undo()
        assert load_checkpoint(saved, IDENTITY)[0] == 20
    torn = saved / ".writing-step-00000030"  # what kill -9 leaves
    torn.mkdir()
    (torn / "state.pt").write_bytes(b"half of it")
    assert load_checkpoint(saved, IDENTITY)[0] == 20
    save_checkpoint(saved, 40, {}, IDENTITY, keep=2)
    assert sorted(path.name for path in saved.iterdir()) == ["step-00000020", "step-00000040"]


def test_what_touches_the_result_is_compared():
    """How often a run validates matters to the weights only where a validation chooses them."""
    for changes, matters in (({}, False), ({"keep": "best"}, True), ({"patience": 2}, True)):
        recipes = [run_identity({**RECIPE, **changes, "validate_every": every, "log_every": every}) for every in (5, 6)]
        assert (recipes[0] != recipes[1]) == matters


def test_a_run_that_starts_anew_leaves_no_later_steps(saved):
    """They would be the newest ones for whoever goes on with the new run."""
    (saved / "step-notes").mkdir()
    start_anew(saved)
    save_checkpoint(saved, 5, {"weights": torch.zeros(1)}, IDENTITY, keep=1)
    assert load_checkpoint(saved, IDENTITY)[0] == 5
    assert (saved / "step-notes").is_dir()


def age(checkpoint):
    """Rewrites a checkpoint in the words of the first version; without loss options in the bridge stage's identity."""
    state = torch.load(checkpoint / "state.pt", weights_only=True)
    state["optimiser"] = state.pop("optimizer")
    identity = json.loads((checkpoint / "identity.json").read_text())
    recipe = identity["recipe"]
    if recipe["stage"] == "bridge":
        state["decay"] = state.pop("schedule")
        del state["misses"]
        state["best"] = {"value" if name == "score" else name: part for name, part in state["best"].items()}
        recipe["stage"] = "link"
        del recipe["method"]
        for name in ("dim_reduction", "batch_reduction"):
            del recipe["loss"][name]
    else:
        recipe["mode"] = "text_only"
    torch.save(state, checkpoint / "state.pt")
    del identity["sha256"]
    (checkpoint / "identity.json").write_text(json.dumps(identity))


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_a_run_of_the_first_version_goes_on(tmp_path, stage):
    """To the same bits as without the interruption; a recipe that differs is refused as ever."""
    make_cache().save(tmp_path / "cache")
    every = {"max_steps": 12, "checkpoint_every": 8, "validate_every": 4, "keep": "best"}

    def arguments(output, **changes):
        if stage == "bridge":
            # That version summed L_diff over the dimensions, and its recipes could not say so.
            loss = {"dim_reduction": "sum"}
            return bridge_arguments(tmp_path / "cache", tmp_path / output, loss=loss, **every, **changes)
        base = make_base(tmp_path / "base")
        return decoder_arguments(tmp_path / "cache", base, tmp_path / output, mode="zeroshot", **every, **changes)

    expected = train(arguments("whole"))
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "old" / "checkpoints")
    shutil.rmtree(tmp_path / "old" / "checkpoints" / "step-00000012")  # that version wrote none at the end
    age(tmp_path / "old" / "checkpoints" / "step-00000008")
    with pytest.raises(RecipeError, match=r"another recipe \(seed 0, now 1\)"):
        train(arguments("old", seed=1))
    assert train(arguments("old"))["steps"] == expected["steps"]
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "old" / file).read_bytes()
