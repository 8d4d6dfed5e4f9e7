"""``diffusion-link push``: what it shows and refuses without a network; tests/hub pushes for real."""

import pytest

from diffusion_link_hf import DiffusionLinkPipeline
from diffusion_link_hf.commands import push
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.loading import BaseReference
from support.commands import run
from support.models import make_pipeline


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every try to reach anything fails the test."""
    import socket

    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_pipeline().save_pretrained(folder)
    (folder / "notes.md").write_text("x")
    return folder


def test_dry_run_shows_files_sizes_total_and_card(model, capsys):
    options = ["--license", "mit", "--dataset", "a/b", "--hardware", "two cores", "--co2-grams", "3"]
    assert run(push, model, "--repo-id", "me/model", "--dry-run", *options) == 0
    out = capsys.readouterr().out
    listed = {line.split()[1]: line.split()[0] for line in out.split("--- README.md")[0].splitlines()[1:]}
    files = {path.relative_to(model).as_posix(): path.stat().st_size for path in model.rglob("*") if path.is_file()}
    del files["notes.md"]
    sizes = {name: int(size.replace(",", "")) for name, size in listed.items() if name in files}
    assert sizes == files
    total = sum(files.values()) + int(listed["README.md"].replace(",", ""))
    assert f"model me/model, one commit of {len(files) + 1} files, {total:,} bytes:" in out
    assert "not uploaded  notes.md" in out
    assert "license: mit" in out
    assert "emissions: 3" in out
    assert "Trained on two cores." in out
    assert out.endswith("loads strictly: yes\n")


def test_dry_run_of_a_space(model, capsys):
    assert run(push, model, "--repo-id", "me/model", "--dry-run", "--space", "me/show") == 0
    out = capsys.readouterr().out
    assert "space me/show, one commit of 3 files" in out
    assert "sdk: gradio" in out


def test_dry_run_says_when_a_base_model_is_not_at_hand(tmp_path, capsys, monkeypatch):
    pipe = make_pipeline()
    pipe.decoder.source = BaseReference("me/base-that-is-not-here", "main")
    pipe.save_pretrained(tmp_path, include_base=None)
    assert run(push, tmp_path, "--repo-id", "me/model", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "loads strictly: not known without a network (me/base-that-is-not-here@main" in out
    assert "[me/base-that-is-not-here](https://huggingface.co/me/base-that-is-not-here)" in out


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_what_would_not_load_is_not_pushed(model, tmp_path, dry, capsys):
    import shutil

    shutil.copytree(model, tmp_path / "run")
    (tmp_path / "run" / "projector" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="projector"):
        run(push, tmp_path / "run", "--repo-id", "me/model", *dry)


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/with space", "me/.."])
def test_names(model, name):
    with pytest.raises(InputError, match="Write owner/name"):
        run(push, model, "--repo-id", name, "--dry-run")


def test_a_link_alone_has_no_space(tmp_path):
    pipe = make_pipeline()
    DiffusionLinkPipeline(pipe.link, pipe.scheduler).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="space: was asked for a link alone"):
        run(push, tmp_path, "--repo-id", "me/model", "--dry-run", "--space")


def test_the_repository_has_to_be_named(model, capsys):
    with pytest.raises(SystemExit):
        run(push, model)
    assert "--repo-id" in capsys.readouterr().err
