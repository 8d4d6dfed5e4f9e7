"""The converter of LAION checkpoints against what laion_clap itself computed (examples/laion_parity)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import ClapConfig

from diffusion_link_hf import ClapEncoder
from diffusion_link_hf.audio import WINDOW_SAMPLES
from diffusion_link_hf.errors import HubAccessError, InputError, ModelFolderError
from diffusion_link_hf.models.laion import convert_laion, convert_state, infer_config
from support.models import make_tokenizer

VECTORS = Path(__file__).parents[2] / "examples" / "laion_parity"
KINDS = ("unfused", "fused")


@pytest.fixture(scope="module", params=KINDS)
def vectors(request) -> dict[str, torch.Tensor]:
    return load_file(VECTORS / f"{request.param}.safetensors")


def laion_state(vectors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of laion_clap's model, with stand-ins for the constants that the vectors leave out."""
    state = {name.removeprefix("weights."): value for name, value in vectors.items() if name.startswith("weights.")}
    state = {name: value.float() if value.is_floating_point() else value.long() for name, value in state.items()}
    return state | {
        "audio_branch.spectrogram_extractor.stft.conv_real.weight": torch.zeros(1),
        "audio_branch.logmel_extractor.melW": torch.zeros(1),
        "audio_branch.layers.0.blocks.1.attn_mask": torch.zeros(1),
    }


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    """As LAION saved: trained in several processes, with NumPy numbers and an optimizer beside the weights."""
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 15, "name": "x", "score": np.float64(0.9), "optimizer": {}, "state_dict": wrapped}, path)
    return path


def windows(vectors) -> torch.Tensor:
    waves = vectors["waves"].float() / 32767
    return waves.repeat(1, WINDOW_SAMPLES // waves.shape[1])


@pytest.fixture(scope="module")
def converted(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("laion")
    conversion = convert_laion(save(laion_state(vectors), folder / "x.pt"), folder / "clap", tokenizer=None)
    return conversion, ClapEncoder.from_pretrained(folder / "clap")


def test_embeds_audio_as_laion_clap(vectors, converted):
    """From the waveform on: the front end is part of the comparison."""
    embeds = converted[1].encode_audio(windows(vectors))
    torch.testing.assert_close(embeds, vectors["audio"], atol=1e-5, rtol=0)
    assert float((vectors["audio"][0] - vectors["audio"][1]).norm()) > 0.05  # or anything would pass


def test_embeds_text_as_laion_clap(vectors, converted):
    ids = vectors["ids"]
    embeds = converted[1](input_ids=ids, attention_mask=(ids != 1).long())
    torch.testing.assert_close(embeds, vectors["text"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("vectors", ["fused"], indirect=True)
def test_fuses_long_audio_as_laion_clap(vectors, converted):
    """This package cuts long audio, but the converted weights of the fusion have to be right for others."""
    _, encoder = converted
    views = [encoder.front_end(torch.roll(windows(vectors), 3000 * shift, 1))[:, 0] for shift in range(4)]
    longer = torch.ones(len(views[0]), 1, dtype=torch.bool)
    with torch.no_grad():
        output = encoder.model.get_audio_features(input_features=torch.stack(views, 1), is_longer=longer)
    embeds = F.normalize(output.pooler_output, dim=-1)
    torch.testing.assert_close(embeds, vectors["audio_longer"], atol=1e-5, rtol=0)
    assert float((embeds - vectors["audio"]).norm()) > 0.01


def test_every_tensor_is_used_or_named(vectors, converted):
    conversion, encoder = converted
    state = laion_state(vectors)
    assert conversion.used + len(conversion.dropped) == len(state)
    assert conversion.fused == encoder.fused == ("audio_longer" in vectors)
    reasons = set(conversion.dropped.values())
    assert {"front end, computed by ClapLogMel", "classes of AudioSet", "heads of a training loss"} <= reasons


def test_every_weight_matters(vectors):
    """No parameter of the model keeps its random start: with all tensors zero, none is left."""
    state = {name: torch.zeros_like(value) for name, value in laion_state(vectors).items()}
    model, _ = convert_state(state, "zeros")
    assert not [name for name, value in model.named_parameters() if value.any()]


@pytest.mark.parametrize(
    "remove",
    [
        "text_projection.2.bias",
        "audio_branch.layers.0.blocks.1.attn.qkv.weight",
        "text_branch.encoder.layer.1.output.dense.bias",
        "text_branch.pooler.dense.weight",
        "audio_branch.bn0.running_var",
        "audio_branch.patch_embed.proj.weight",
        "logit_scale_a",
    ],
)
def test_a_missing_tensor_is_refused(remove, vectors):
    state = laion_state(vectors)
    del state[remove]
    with pytest.raises(ModelFolderError, match=r"lacks|is missing"):
        convert_state(state, "checkpoint")


def test_unknown_and_misshapen_tensors_are_refused(vectors):
    state = laion_state(vectors)
    with pytest.raises(ModelFolderError, match=r"no part of ClapModel takes: audio_branch\.mel_conv1d"):
        convert_state(state | {"audio_branch.mel_conv1d.0.weight": torch.zeros(2)}, "checkpoint")
    with pytest.raises(ModelFolderError, match="no part of ClapModel takes"):
        convert_state(state | {"audio_branch.layers.0.blocks.0.extra.weight": torch.zeros(2)}, "checkpoint")
    with pytest.raises(ModelFolderError, match="other shapes for"):
        convert_state(state | {"text_projection.2.bias": torch.zeros(3)}, "checkpoint")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return print, ("code of the checkpoint ran",)


def test_no_code_of_the_file_runs(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ModelFolderError, match="would run code of its own"):
        convert_laion(tmp_path / "evil.pt", tmp_path / "clap")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "clap").exists()


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        convert_laion(tmp_path / "a.pt", tmp_path / "clap")
    (tmp_path / "a.pt").write_bytes(b"half")
    with pytest.raises(ModelFolderError, match=r"a\.pt: is no checkpoint"):
        convert_laion(tmp_path / "a.pt", tmp_path / "clap")
    torch.save({"state_dict": {"a": 5}}, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match="no state_dict of tensors"):
        convert_laion(tmp_path / "a.pt", tmp_path / "clap")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ModelFolderError, match="no part of ClapModel takes: weight"):
        convert_laion(tmp_path / "a.pt", tmp_path / "clap")


def test_an_output_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "clap").mkdir()
    (tmp_path / "clap" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="is not empty"):
        convert_laion(tmp_path / "a.pt", tmp_path / "clap")


def test_the_tokenizer_is_taken_along_and_cuts_as_laion(tmp_path, monkeypatch):
    vectors = load_file(VECTORS / "unfused.safetensors")
    checkpoint = save(laion_state(vectors), tmp_path / "x.pt")
    make_tokenizer().save_pretrained(tmp_path / "words")
    with pytest.raises(ModelFolderError, match="its model a vocabulary of 60"):
        convert_laion(checkpoint, tmp_path / "clap", tokenizer=tmp_path / "words")
    assert not (tmp_path / "clap").exists()
    state = laion_state(vectors)
    size = len(make_tokenizer())
    state["text_branch.embeddings.word_embeddings.weight"] = torch.randn(size, 64)
    state["text_branch.embeddings.position_embeddings.weight"] = torch.randn(120, 64)
    state["text_branch.embeddings.position_ids"] = torch.arange(120)[None]
    state["text_branch.embeddings.token_type_ids"] = torch.zeros(1, 120, dtype=torch.long)
    convert_laion(save(state, tmp_path / "y.pt"), tmp_path / "clap", tokenizer=tmp_path / "words")
    encoder = ClapEncoder.from_pretrained(tmp_path / "clap")
    short, cut, long = encoder.encode_text(["a" * 70, "a" * 75, "a" * 90])
    torch.testing.assert_close(cut, long)
    assert float((short - cut).norm()) > 1e-4


def test_a_tokenizer_that_cannot_be_had(tmp_path):
    vectors = load_file(VECTORS / "unfused.safetensors")
    checkpoint = save(laion_state(vectors), tmp_path / "x.pt")
    with pytest.raises(HubAccessError, match="Go online once"):
        convert_laion(checkpoint, tmp_path / "clap", cache_dir=tmp_path / "none", local_files_only=True)
    assert not (tmp_path / "clap").exists()


@pytest.mark.parametrize(("width", "depths"), [(96, [2, 2, 6, 2]), (128, [2, 2, 12, 2])])
@pytest.mark.parametrize("fused", [False, True])
def test_the_published_sizes_are_read_off_the_shapes(width, depths, fused):
    """HTSAT-tiny and -base as the configurations of laion/clap-htsat-* and laion/larger_clap_* have them."""
    config = infer_config(published_shapes(width, depths, fused))
    audio, text = config.audio_config, config.text_config
    expected = ClapConfig(audio_config={"patch_embeds_hidden_size": width, "depths": depths, "hidden_size": 8 * width})
    for name in ("window_size", "patch_size", "num_mel_bins", "hidden_size", "mlp_ratio", "aff_block_r", "spec_size"):
        assert getattr(audio, name) == getattr(expected.audio_config, name), name
    assert list(audio.depths) == depths
    assert list(audio.num_attention_heads) == [4, 8, 16, 32]
    assert audio.enable_fusion == fused
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"):
        assert getattr(text, name) == getattr(expected.text_config, name), name
    assert (config.projection_dim, text.max_position_embeddings) == (512, 514)


def published_shapes(width: int, depths: list[int], fused: bool) -> dict[str, torch.Tensor]:
    """Tensors without memory, of the shapes in LAION's files, by the names that the configuration is read off."""
    shapes = {
        "audio_branch.patch_embed.proj.weight": (width, 1, 4, 4),
        "audio_branch.bn0.weight": (64,),
        "audio_projection.0.weight": (512, 8 * width),
        "text_branch.embeddings.word_embeddings.weight": (50265, 768),
        "text_branch.embeddings.position_embeddings.weight": (514, 768),
        "text_branch.embeddings.token_type_embeddings.weight": (1, 768),
    }
    for stage, (depth, heads) in enumerate(zip(depths, (4, 8, 16, 32), strict=True)):
        for block in range(depth):
            name = f"audio_branch.layers.{stage}.blocks.{block}"
            shapes[f"{name}.attn.relative_position_bias_table"] = (225, heads)
            shapes[f"{name}.mlp.fc1.weight"] = (4 * width * 2**stage, width * 2**stage)
    for layer in range(12):
        shapes[f"text_branch.encoder.layer.{layer}.intermediate.dense.weight"] = (3072, 768)
    if fused:
        shapes["audio_branch.patch_embed.fusion_model.local_att.0.weight"] = (width // 4, width, 1, 1)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
