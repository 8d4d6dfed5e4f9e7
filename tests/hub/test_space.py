"""The Space that is pushed beside a model: its files, and the app where gradio is installed."""

import ast
import importlib.util

import numpy as np
import pytest
import soundfile as sf
import yaml

import diffusion_link_hf
from diffusion_link_hf.errors import InputError
from diffusion_link_hf.hub.push import prepare_space
from diffusion_link_hf.hub.space import space_files
from support.models import make_pipeline

RATE = 48_000


def test_files():
    files = space_files("me/model")
    assert set(files) == {"app.py", "README.md", "requirements.txt"}
    front_matter = yaml.safe_load(files["README.md"].split("---\n")[1])
    assert front_matter["sdk"] == "gradio"
    assert front_matter["app_file"] == "app.py"
    assert front_matter["models"] == ["me/model"]
    assert files["requirements.txt"] == f"diffusion-link-hf>={diffusion_link_hf.__version__}\n"


def test_the_app_names_the_model_and_only_what_there_is():
    tree = ast.parse(space_files("me/model")["app.py"])
    assigned = {node.targets[0].id: node.value.value for node in tree.body if isinstance(node, ast.Assign)}
    assert assigned == {"MODEL": "me/model"}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in imports if node.module == "diffusion_link_hf" for alias in node.names]
    assert names
    assert set(names) <= set(diffusion_link_hf.__all__)


def test_names():
    assert prepare_space("me/model").repo_id == "me/model-demo"
    assert prepare_space("me/model", "us/show").repo_id == "us/show"
    for name in ("show", "a/b/c", "me/has space"):
        with pytest.raises(InputError, match="repo_id"):
            prepare_space("me/model", name)


@pytest.fixture
def app(tmp_path):
    pytest.importorskip("gradio", reason="gradio is no dependency: pip install gradio to run the app")
    (tmp_path / "app.py").write_text(space_files("me/model")["app.py"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("app", tmp_path / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_app_captions_a_recording(app, tmp_path):
    import gradio

    pipeline = make_pipeline()
    caption = app.make_app(pipeline).fn
    for seconds, lines in ((1, 1), (25, 3)):
        sf.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.2, 0.2, seconds * RATE), RATE)
        answer = caption(str(tmp_path / "a.wav"))
        assert len(answer.splitlines()) >= lines
        assert pipeline(tmp_path / "a.wav").segments[0][0].text in answer
    with pytest.raises(gradio.Error, match="first"):
        caption(None)
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(gradio.Error, match=r"a\.wav"):
        caption(str(tmp_path / "a.wav"))
