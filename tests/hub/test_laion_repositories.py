"""CLAP as LAION published it: repositories with pytorch_model.bin alone, through every command that takes a CLAP."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffusion_link_hf import ClapEncoder, EmbeddingCache
from support.embeddings import write_sounds
from support.laion import FILES, make_laion_folder
from support.training import make_base

# Repository → what it holds, as `make_laion_folder` takes it.
REPOSITORIES = {
    "laion/larger_clap_general": {},
    "laion/larger_clap_music_and_speech": {},
    "laion/clap-htsat-unfused": {},
    "laion/clap-htsat-fused": {"fused": True},
    "me/both-formats": {"safetensors": True},
    "me/of-a-processor": {"processor": True},
}


@pytest.fixture(scope="module")
def folders(served, tmp_path_factory):
    """The files of every repository, which the server has as well; "v1" of the first is an older commit."""
    root = tmp_path_factory.mktemp("laion")
    found = {}
    for k, (name, options) in enumerate(REPOSITORIES.items()):
        torch.manual_seed(k)
        found[name] = make_laion_folder(root / name, **options)
        served.add(name, found[name])
    first = served.repositories["models", "laion/larger_clap_general"]
    first.branches["v1"] = first.branches["main"]
    torch.manual_seed(99)
    found["newer"] = make_laion_folder(root / "newer")
    first.commit("main", {path.name: path.read_bytes() for path in found["newer"].iterdir()})
    gated = served.add("laion/gated", found["laion/clap-htsat-unfused"], gated=True)
    assert gated.gated
    served.add("me/base", make_base(root / "base"))
    write_sounds(root / "sounds")
    return found | {"sounds": root / "sounds"}


@pytest.fixture(scope="module")
def assets(hub_cache) -> Path:
    """Where the client keeps what it converted."""
    return hub_cache / "assets" / "diffusion-link-hf" / "safetensors"


def embed(folders, clap: str, output: Path, *more: str) -> dict[str, list[str]]:
    data = ["--data", str(folders["sounds"]), "--clap", clap, "--output", str(output)]
    return {"command": ["embed", *data, "--device", "cpu", "--num-workers", "0", *more]}


def text_of(folder: Path, tmp_path: Path) -> list:
    return ClapEncoder.from_pretrained(folder, cache_dir=tmp_path).encode_text(["rain"]).tolist()


def test_the_folders_are_as_laion_published_them(folders):
    assert {path.name for path in folders["laion/clap-htsat-fused"].iterdir()} == FILES
    assert {path.name for path in folders["laion/larger_clap_general"].iterdir()} == FILES


@pytest.mark.parametrize("name", REPOSITORIES)
def test_every_shape_is_loaded_and_pinned(folders, hub, client, tmp_path, name):
    revision = {"revision": "v1"} if name == "laion/larger_clap_general" else {}
    (got,) = client.ask({"loads": "ClapEncoder", "id": name, **revision})
    assert got.get("embeds") == text_of(folders[name], tmp_path), got
    commit = hub.repositories["models", name].resolve(revision.get("revision", "main"))
    assert got["source"] == {"id": name, "revision": commit}


def test_a_pickle_is_fetched_only_where_there_is_nothing_else(folders, hub, client, tmp_path):
    client.ask({"loads": "ClapEncoder", "id": "me/both-formats", "cache_dir": tmp_path})
    assert not [request for request in hub.requests if "pytorch_model.bin" in request]
    assert not (tmp_path / "assets").exists()


def test_it_is_converted_once_and_then_loaded_without_a_network(folders, hub, client, tmp_path):
    asked = {"loads": "ClapEncoder", "id": "laion/clap-htsat-unfused", "cache_dir": tmp_path}
    (first,) = client.ask(asked)
    (made,) = (tmp_path / "assets" / "diffusion-link-hf" / "safetensors").iterdir()
    blob = next((tmp_path / "models--laion--clap-htsat-unfused" / "snapshots").rglob("pytorch_model.bin")).resolve()
    assert made.name == blob.name  # the SHA-256 that the Hub names a large file by
    written = (made / "model.safetensors").stat()
    assert set(load_file(made / "model.safetensors")) == set(torch.load(blob, weights_only=True))
    with hub.away():
        (again,) = client.ask(asked)
    (local,) = client.ask(asked | {"local_files_only": True})
    assert first == again == local
    assert (made / "model.safetensors").stat() == written


def test_a_download_that_is_not_what_the_hub_promised(folders, client, tmp_path):
    asked = {"loads": "ClapEncoder", "id": "laion/clap-htsat-unfused", "cache_dir": tmp_path}
    client.ask(asked)
    (made,) = (tmp_path / "assets" / "diffusion-link-hf" / "safetensors").iterdir()
    (made / "model.safetensors").unlink()
    blob = next((tmp_path / "models--laion--clap-htsat-unfused" / "snapshots").rglob("pytorch_model.bin")).resolve()
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    (got,) = client.ask(asked)
    assert got["error"] == "ModelFolderError", got
    assert "the Hub says" in got["text"]


@pytest.mark.parametrize(
    ("clap", "more", "words"),
    [
        ("laion/gated", [], "Accept its license on https://huggingface.co/laion/gated"),
        ("laion/larger_clap_general", ["--clap-revision", "v9"], "laion/larger_clap_general@v9: has no such revision"),
        ("laion/nothing", [], "is neither a folder here nor a repository"),
    ],
)
def test_embed_says_why_a_clap_cannot_be_had(folders, client, tmp_path, clap, more, words):
    (got,) = client.ask(embed(folders, clap, tmp_path / "cache", *more))
    assert got.get("status") == 2, got
    assert words in got["err"]
    assert not list((tmp_path / "cache").glob("shard-*"))


def test_from_the_first_command_to_captions(folders, hub, client, assets, tmp_path):
    """Embed, train and caption with a CLAP of LAION's and a base model, neither of which the result holds."""
    clap = ["--clap-revision", "v1"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"stage: decoder\ncache: {tmp_path}/cache\noutput: {tmp_path}/run\nbase_model: me/base\n"
        "clap: laion/larger_clap_general\nclap_revision: v1\nmax_steps: 2\nvalidation_fraction: 0.0\n"
        "lora: {r: 2, target_modules: [q_proj]}\nprojector: {num_layers: 1}\nreport_to: none\n"
    )
    sound = next(iter(sorted(folders["sounds"].glob("*.wav"))))
    embedded, trained, newest, captioned = client.ask(
        embed(folders, "laion/larger_clap_general", tmp_path / "cache", *clap),
        {"command": ["train", str(recipe), "--quiet"]},
        {"command": ["train", str(recipe), "clap_revision=null", f"output={tmp_path}/other", "--quiet"]},
        {"command": ["caption", str(sound), "--model", str(tmp_path / "run"), "--dtype", "bfloat16"]},
    )
    assert embedded.get("status") == 0, embedded
    cache = EmbeddingCache.load(tmp_path / "cache")
    commit = hub.repositories["models", "laion/larger_clap_general"].resolve("v1")
    assert cache.manifest["clap_source"] == {"id": "laion/larger_clap_general", "revision": commit}
    assert trained.get("status") == 0, trained
    reference = json.loads((tmp_path / "run" / "clap" / "reference.json").read_text())
    assert reference == cache.manifest["clap_source"]
    assert not list((tmp_path / "run" / "clap").glob("*.safetensors"))
    assert newest.get("status") == 2, newest  # the branch has moved: another CLAP than the cache's
    assert "was made by CLAP" in newest["err"]
    assert captioned.get("status") == 0, captioned
    assert captioned["out"].startswith(f"{sound}: ")
    assert list(assets.iterdir())
