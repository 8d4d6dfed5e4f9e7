"""How ``diffusion-link caption`` loads its model."""

import importlib.util

import pytest
import soundfile as sf
import torch

from diffusion_link_hf.commands import caption
from diffusion_link_hf.commands.loaded_pipeline import load_pipeline
from diffusion_link_hf.errors import InputError
from support.commands import parse, run
from support.hub_client import RATE, recording
from support.models import make_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline().save_pretrained(folder)
    sf.write(folder / "a.wav", recording(), RATE)
    return folder


def test_a_device_map_and_a_dtype(folder, capsys):
    options = ["--model", folder, "--dtype", "bfloat16", "--device-map", "auto"]
    assert load_pipeline(parse(caption, folder / "a.wav", *options)).decoder.dtype == torch.bfloat16
    assert run(caption, folder / "a.wav", *options) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'a.wav'}: ")


def test_4_bits_reach_the_language_model_or_say_what_to_install(folder, monkeypatch):
    """The whole line of the issue."""
    options = ["--model", folder, "--dtype", "bfloat16", "--device-map", "auto", "--load-in-4bit"]
    real = importlib.util.find_spec
    if real("bitsandbytes") is not None:
        decoder = load_pipeline(parse(caption, folder / "a.wav", *options)).decoder
        assert "Linear4bit" in {type(module).__name__ for module in decoder.modules()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(InputError, match="load_in_4bit: bitsandbytes is not installed"):
        run(caption, folder / "a.wav", *options)


def test_what_cannot_be_used(folder, capsys):
    with pytest.raises(SystemExit):
        parse(caption, "a.wav", "--device", "cpu", "--device-map", "auto")
    assert "not allowed with" in capsys.readouterr().err
    for options, words in ((["--variant", "fp16"], "variant"), (["--device-map", "quantum"], "device_map")):
        with pytest.raises(InputError, match=words):
            run(caption, folder / "a.wav", "--model", folder, *options)
