"""The usual arguments of ``from_pretrained``: taken, mapped, or refused with their name."""

import importlib.util
import warnings

import pytest
import torch
from transformers import BitsAndBytesConfig

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.loading_options import LoadingOptions, as_dtype, four_bit, has_variant


@pytest.mark.parametrize("given", ["float16", "torch.float16", torch.float16])
def test_a_dtype_by_name(given):
    assert as_dtype(given) is torch.float16
    assert LoadingOptions.take({"dtype": given}).dtype is torch.float16


@pytest.mark.parametrize("given", ["half", "fp16", "auto", "", "int8", torch.int8, 16, torch.zeros(1), "nn"])
def test_what_is_no_dtype(given):
    with pytest.raises(InputError, match="Use float32, float16 or bfloat16"):
        as_dtype(given)


def test_the_former_name_of_dtype_warns_once():
    with pytest.warns(FutureWarning, match="torch_dtype is deprecated: use dtype") as caught:
        assert LoadingOptions.take({"torch_dtype": "bfloat16"}).dtype is torch.bfloat16
    assert len(caught) == 1
    with pytest.warns(FutureWarning), pytest.raises(InputError, match=r"torch_dtype: is torch\.float16, dtype is"):
        LoadingOptions.take({"torch_dtype": "float16", "dtype": "bfloat16"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LoadingOptions.take({"torch_dtype": None}) == LoadingOptions()


def test_what_is_taken_is_removed():
    given = {"dtype": None, "use_safetensors": True, "low_cpu_mem_usage": True, "variant": "fp16", "token": "x"}
    assert LoadingOptions.take(given).for_model() == {"variant": "fp16", "low_cpu_mem_usage": True}
    assert given == {"token": "x"}


@pytest.mark.parametrize(
    "given",
    [
        {"use_safetensors": False},
        {"variant": "../fp16"},
        {"variant": 16},
        {"low_cpu_mem_usage": "yes"},
        {"low_cpu_mem_usage": False, "device_map": "auto"},
        {"device_map": "quantum"},
        {"device_map": "cuda:99"},
        {"quantization_config": {"load_in_4bit": True}},
        {"dtype": "half"},
    ],
)
def test_values_that_cannot_be_used(given):
    with pytest.raises(InputError, match=next(iter(given))) as caught:
        LoadingOptions.take(dict(given))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("device_map", "mapped", "device"),
    [
        ("cpu", {"": torch.device("cpu")}, "cpu"),
        (torch.device("cpu"), {"": torch.device("cpu")}, "cpu"),
        ("auto", "auto", None),
        ("sequential", "sequential", None),
    ],
)
def test_device_maps(device_map, mapped, device):
    options = LoadingOptions.take({"device_map": device_map})
    assert options.for_model() == {"device_map": mapped}
    expected = torch.accelerator.current_accelerator() or torch.device("cpu") if device is None else device
    assert options.device == torch.device(expected)


def test_4_bits_without_bitsandbytes(monkeypatch):
    real = importlib.util.find_spec
    config = BitsAndBytesConfig.__new__(BitsAndBytesConfig)
    config.quant_method = "bitsandbytes"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name))
    with pytest.raises(InputError, match=r"--load-in-4bit: bitsandbytes is not installed. Run: pip install"):
        four_bit("bfloat16", "--load-in-4bit")
    with pytest.raises(InputError, match="quantization_config: bitsandbytes is not installed"):
        LoadingOptions.take({"quantization_config": config})


def test_variants_are_found_by_their_files(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.fp16-00001-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "model.ema.safetensors").write_bytes(b"")
    assert has_variant(tmp_path, "fp16")
    assert has_variant(tmp_path, "ema")
    assert not has_variant(tmp_path, "fp")
