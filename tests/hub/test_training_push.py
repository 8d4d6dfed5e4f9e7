"""A recipe with push_to_hub: the result is on the Hub in the end, or after each checkpoint, and loads from there."""

import dataclasses

import pytest

from support.hub_faults import ScriptedFaults
from support.models import make_clap
from support.training import bridge_arguments, decoder_arguments, make_base, make_cache


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """The working folder: what is published names relative paths."""
    room = tmp_path_factory.mktemp("room")
    make_cache(60).save(room / "cache")
    make_base(room / "base")
    make_clap().save_pretrained(room / "clap")
    return room


@pytest.fixture
def train(client, room):
    """Trains in another process, which knows the server, and returns its answer."""

    def train(arguments):
        return client.ask({"train": dataclasses.asdict(arguments), "in": str(room)})[0]

    return train


@pytest.fixture(autouse=True)
def logged_in(hub_cache):
    """The client's default token, for the time of a test."""
    (hub_cache / "token").write_text("hf_writer")
    yield
    (hub_cache / "token").unlink()


FEW = {"max_steps": 6, "checkpoint_every": 2, "validation_fraction": 0.0}


def test_a_bridge_in_the_end(hub, client, train, room, tmp_path):
    arguments = bridge_arguments("cache", "bridge", **FEW, push_to_hub="me/bridge", hub_private=True)
    answer = train(arguments)
    assert answer.get("metrics", {}).get("steps") == 6, answer
    assert hub.repositories["models", "me/bridge"].private
    files = hub.files("me/bridge")
    assert files["link/diffusion_pytorch_model.safetensors"] == (
        (room / "bridge" / "link" / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    assert {"metrics.json", "recipes/bridge.yaml", "README.md"} <= set(files)
    assert len(hub.repositories["models", "me/bridge"].commits) == 2  # the one of its creation, and this
    loaded = client.ask({"loads": "DiffusionLinkPipeline", "id": "me/bridge", "cache_dir": tmp_path / "hub"})[0]
    assert "embeds" in loaded, loaded


@pytest.mark.parametrize("stage", ["bridge", "decoder"])
def test_after_each_checkpoint(hub, client, train, room, tmp_path, stage):
    """The training ends as one that pushes nothing."""
    pushes = {"push_to_hub": f"me/{stage}-steps", "push_every_checkpoint": True}
    if stage == "bridge":
        make = lambda output, **changes: bridge_arguments("cache", output, **FEW, **changes)  # noqa: E731
    else:
        parts = {"clap": "clap", "warmup_steps": 0, "batch_size": 8, **FEW}
        make = lambda output, **changes: decoder_arguments(  # noqa: E731
            "cache", "base", output, **parts, **changes
        )
    answer = train(make(f"{stage}-pushed", **pushes))
    assert answer.get("metrics", {}).get("steps") == 6, answer
    assert answer["warnings"] == []
    commits = hub.repositories["models", f"me/{stage}-steps"].commits
    assert len(commits) == 1 + 3  # after steps 2 and 4, and in the end
    assert train(make(f"{stage}-plain")).get("metrics", {}).get("steps") == 6
    plain = room / f"{stage}-plain"
    assert list(plain.rglob("*.safetensors"))
    for path in plain.rglob("*.safetensors"):
        name = path.relative_to(plain).as_posix()
        assert hub.files(f"me/{stage}-steps")[name] == path.read_bytes(), name


def test_a_push_that_fails_on_the_way_stops_nothing(hub, train, room, tmp_path):
    pushes = {"push_to_hub": "me/later", "push_every_checkpoint": True}
    hub.faults = ScriptedFaults.on("POST /api/models/me/later/commit", "error")
    answer = train(bridge_arguments("cache", "later", **FEW, **pushes))
    assert answer.get("metrics", {}).get("steps") == 6, answer
    assert ["step 2 was not pushed" in warning for warning in answer["warnings"]] == [True]
    assert "link/config.json" in hub.files("me/later")


def test_a_push_that_fails_in_the_end_leaves_the_result(hub, train, room, tmp_path):
    hub.faults = lambda request: "error" if "/commit/" in request else None
    answer = train(bridge_arguments("cache", "never", **FEW, push_to_hub="me/never"))
    assert answer.get("error") == "HubAccessError", answer
    assert (room / "never" / "link" / "config.json").is_file()
    assert (room / "never" / "metrics.json").is_file()


def test_what_is_no_id_is_refused_first(train, room, tmp_path):
    answer = train(bridge_arguments("cache", "refused", **FEW, push_to_hub="nobody"))
    assert "push_to_hub" in answer["text"], answer
    assert not (room / "refused").exists()
    here = str(room / "cache")  # such a path would keep the result from being pushed
    answer = train(bridge_arguments(here, "refused", **FEW, push_to_hub="me/refused"))
    assert "cache (published with push_to_hub): names a path" in answer["text"], answer
    assert not (room / "refused").exists()
