"""Language models in GGUF: dequantized once, complete, with their tokenizer, or refused."""

import pytest
import torch

from diffusion_link_hf.errors import ModelFolderError
from diffusion_link_hf.files import file_sha256
from diffusion_link_hf.loading import load_tokenizer
from diffusion_link_hf.models.gguf import dequantized, gguf_file
from diffusion_link_hf.models.language_model import load_causal_lm

pytest.importorskip("gguf")

from support.gguf_files import make_llama, vocabulary, write_gguf


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    """An empty cache of the user."""
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


def test_the_folder_is_the_model_that_was_written(tmp_path):
    model = make_llama()
    folder = dequantized(write_gguf(tmp_path / "model.gguf", model))
    again = load_causal_lm(folder)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert again.config.tie_word_embeddings
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert not hasattr(again.config, "quantization_config")
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == len(vocabulary())
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    ids = tokenizer("A dog barks", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["A", "Ġd", "o"]
    assert tokenizer.decode(ids) == "A dog barks"


def test_it_is_made_once(tmp_path, assets, monkeypatch):
    file = write_gguf(tmp_path / "model.gguf")
    folder = dequantized(file)
    assert folder.is_relative_to(assets)
    assert folder.name == file_sha256(file)
    monkeypatch.setattr("diffusion_link_hf.models.gguf._convert", None)
    assert dequantized(file, file_sha256(file)) == folder


def test_a_killed_conversion_is_begun_again(tmp_path):
    file = write_gguf(tmp_path / "model.gguf")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", _die)
        with pytest.raises(KeyboardInterrupt):
            dequantized(file)
    assert load_tokenizer(dequantized(file)).eos_token == "<|im_end|>"


def _die(*_, **__):
    raise KeyboardInterrupt


def test_without_a_tokenizer_it_is_refused_before_its_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(ModelFolderError, match=r"model\.gguf: holds no tokenizer") as caught:
        dequantized(write_gguf(tmp_path / "model.gguf", tokenizer=False))
    assert "GGUF with its tokenizer" in caught.value.remedy


@pytest.mark.parametrize("damage", ["torn", "no gguf", "empty"])
def test_damaged_files_are_refused(tmp_path, damage):
    file = write_gguf(tmp_path / "model.gguf")
    content = file.read_bytes()
    file.write_bytes({"torn": content[: len(content) // 2], "no gguf": b"RIFF" + content[4:], "empty": b""}[damage])
    with pytest.raises(ModelFolderError, match=r"model\.gguf"):
        dequantized(file)


def test_another_file_than_promised(tmp_path):
    with pytest.raises(ModelFolderError, match=r"has the SHA-256 .*, not 00"):
        dequantized(write_gguf(tmp_path / "model.gguf"), "00")


def test_without_the_package_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda: False)
    with pytest.raises(ModelFolderError, match="not installed") as caught:
        dequantized(write_gguf(tmp_path / "model.gguf"))
    assert caught.value.remedy == "Run: pip install gguf"


def test_which_file_of_a_folder(tmp_path):
    assert gguf_file(tmp_path) is None
    first = write_gguf(tmp_path / "a.gguf")
    assert gguf_file(tmp_path) == first
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(ModelFolderError, match=r"several GGUF files \(a\.gguf, b\.gguf\)"):
        gguf_file(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert gguf_file(tmp_path) is None
