"""The usual arguments of ``from_pretrained`` and ``to`` act on every part of a pipeline."""

import importlib.util
import logging
import warnings

import pytest
import torch
from transformers import BitsAndBytesConfig

from diffusion_link_hf import AudioCaptionPipeline, CaptionDecoder, DiffusionLinkPipeline
from diffusion_link_hf.errors import InputError
from diffusion_link_hf.loading import BaseReference
from support.hub_client import RATE, recording
from support.models import make_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    make_pipeline(instruction="Say: ").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captions(folder):
    return AudioCaptionPipeline.from_pretrained(folder)(recording(), RATE).captions


def dtypes(pipe) -> set[torch.dtype]:
    return {part.dtype for part in (pipe.clap, pipe.link, pipe.projector, pipe.decoder)}


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"device_map": "cpu"},
        {"device_map": torch.device("cpu"), "use_safetensors": True},
        {"low_cpu_mem_usage": True},
        {"low_cpu_mem_usage": False},
    ],
)
def test_captions_are_those_of_plain_loading(folder, captions, options):
    pipe = AudioCaptionPipeline.from_pretrained(folder, **options)
    assert pipe(recording(), RATE).captions == captions
    assert pipe.to("cpu")(recording(), RATE).captions == captions


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_dtype_by_name_reaches_every_part(folder, name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe = AudioCaptionPipeline.from_pretrained(folder, **{name: "bfloat16"})
    assert dtypes(pipe) == {torch.bfloat16}
    told = [warning for warning in caught if "torch_dtype" in str(warning.message)]
    assert len(told) == (name == "torch_dtype")


def test_a_cast_gives_no_false_warning(folder, caplog):
    """diffusers warned, for every component, of modules that should be kept in float32, and named none."""
    pipe = AudioCaptionPipeline.from_pretrained(folder)
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        assert dtypes(pipe.to(torch.float16)) == {torch.float16}
        assert dtypes(pipe.to("cpu", torch.bfloat16)) == {torch.bfloat16}
        assert dtypes(pipe.to(dtype=torch.float32)) == {torch.float32}
    finally:
        logger.removeHandler(caplog.handler)
    assert "float32" not in caplog.text


def test_a_variant_is_read_where_there_is_one(folder, captions, tmp_path):
    pipe = AudioCaptionPipeline.from_pretrained(folder)
    pipe.save_pretrained(tmp_path)
    for path in (tmp_path / "clap" / "model.safetensors", *(tmp_path / "link").glob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.ema.safetensors"))
    assert AudioCaptionPipeline.from_pretrained(tmp_path, variant="ema")(recording(), RATE).captions == captions
    with pytest.raises(InputError, match="variant: is 'fp16'"):
        AudioCaptionPipeline.from_pretrained(tmp_path, variant="fp16")


def test_a_link_has_no_language_model_to_quantize(folder):
    with pytest.raises(InputError, match="quantization_config"):
        DiffusionLinkPipeline.from_pretrained(folder, quantization_config=object())
    assert DiffusionLinkPipeline.from_pretrained(folder, dtype="float16", device_map="cpu").link.dtype == torch.float16


def test_a_quantized_decoder_captions_and_is_not_saved_as_its_base(tmp_path):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 32}  # of whole blocks
    made = make_pipeline()
    made.save_pretrained(tmp_path / "small")
    AudioCaptionPipeline.from_config(tmp_path / "small", decoder=sizes).save_pretrained(tmp_path / "folder")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    pipe = AudioCaptionPipeline.from_pretrained(tmp_path / "folder", quantization_config=config, dtype="bfloat16")
    kinds = {type(module).__name__ for module in pipe.decoder.modules()}
    assert "Linear4bit" in kinds
    assert {p.dtype for p in pipe.decoder.parameters()} == {torch.uint8, torch.bfloat16}
    assert isinstance(pipe(recording(), RATE).captions[0], str)
    with pytest.raises(InputError, match="the base model is quantized"):
        pipe.save_pretrained(tmp_path / "copied")
    pipe.decoder.source = BaseReference("me/base", "main")
    pipe.decoder.save_pretrained(tmp_path / "referenced", include_base=False)
    assert "quantization_config" not in (tmp_path / "referenced" / "base" / "config.json").read_text()


def test_a_decoder_takes_them_by_itself(folder):
    decoder = CaptionDecoder.from_pretrained(folder / "decoder", dtype="float16", device_map={"": "cpu"})
    assert decoder.dtype == torch.float16
    with pytest.raises(InputError, match="subfolder"):
        CaptionDecoder.from_pretrained(folder / "decoder", subfolder="base")


def test_more_tokens_than_positions(folder):
    """128 positions, 10 tokens of BOS and instruction and prefix."""
    pipe = AudioCaptionPipeline.from_pretrained(folder)
    prompt = len(pipe.decoder._instruction_ids()) + pipe.projector.config.num_prefix_tokens
    with pytest.raises(InputError, match=f"max_new_tokens: needs {129 - prompt} positions .* has 128"):
        pipe(["/no/such/file.wav"], max_new_tokens=129 - prompt)
    with pytest.raises(InputError, match="max_new_tokens"):
        pipe.decoder.generate(torch.zeros(1, 3, pipe.decoder.hidden_size), max_new_tokens=200)
    pipe(recording(), RATE, max_new_tokens=128 - prompt)


def test_saving_without_a_base_that_cannot_be_referenced_writes_nothing(folder, tmp_path):
    pipe = AudioCaptionPipeline.from_pretrained(folder)
    pipe.clap.source = BaseReference("me/clap", "main")
    with pytest.raises(InputError, match="the weights of decoder come from no repository"):
        pipe.save_pretrained(tmp_path / "new", include_base=False)
    assert not (tmp_path / "new").exists()
