"""The embeddings-only pipeline."""

import numpy as np
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from diffusion_link_hf import AudioCaptionPipeline, DiffusionLinkModel, DiffusionLinkPipeline
from diffusion_link_hf.errors import InputError, ModelFolderError
from support.models import EMBEDDING_DIM, make_link, make_pipeline

EMBEDS = torch.randn(6, EMBEDDING_DIM, generator=torch.Generator().manual_seed(0))


def test_equals_the_bridge_and_round_trips(tmp_path):
    pipe = DiffusionLinkPipeline(make_link())
    expected = pipe.link.bridge(EMBEDS, "text")
    assert torch.equal(pipe(EMBEDS, "text").embeds, expected)
    np.testing.assert_array_equal(pipe(EMBEDS.numpy(), "text", output_type="np").embeds, expected.numpy())
    assert torch.equal(pipe(EMBEDS, "text", return_dict=False)[0], expected)
    pipe.save_pretrained(tmp_path)
    again = DiffusionLinkPipeline.from_pretrained(tmp_path)
    assert torch.equal(again(EMBEDS, "text").embeds, expected)


def test_an_empty_batch_is_empty():
    assert DiffusionLinkPipeline(make_link())(torch.empty(0, EMBEDDING_DIM)).embeds.shape == (0, EMBEDDING_DIM)


@pytest.mark.parametrize(
    "embeds", [EMBEDS[0], EMBEDS[:, :5], EMBEDS.long(), np.ones((2, 3, 4)), [[1.0] * EMBEDDING_DIM]]
)
def test_wrong_embeddings_are_refused(embeds):
    with pytest.raises(InputError, match="embeds"):
        DiffusionLinkPipeline(make_link())(embeds)


def test_wrong_output_type_is_refused():
    with pytest.raises(InputError, match="output_type"):
        DiffusionLinkPipeline(make_link())(EMBEDS, output_type="jax")


def test_a_caption_pipeline_is_no_bridge(tmp_path):
    DiffusionLinkPipeline(make_link()).save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="DiffusionLinkPipeline"):
        AudioCaptionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_saved_and_loaded_it_gives_the_same_bits(tmp_path, dropout):
    """At a width where matrix products round by the alignment of the weights, and with dropout that must be off."""
    torch.manual_seed(0)
    link = DiffusionLinkModel(512, dropout=dropout).train()
    for parameter in link.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    pipe, embeds = DiffusionLinkPipeline(link), torch.randn(7, 512)
    expected = pipe(embeds).embeds
    assert torch.equal(pipe(embeds).embeds, expected)
    assert link.training
    pipe.save_pretrained(tmp_path)
    again = DiffusionLinkPipeline.from_pretrained(tmp_path)
    for rows in (1, 2, 7):
        assert torch.equal(again(embeds[:rows]).embeds, pipe(embeds[:rows]).embeds)
    assert torch.equal(again(embeds).embeds, expected)


def test_it_reads_the_folder_of_a_caption_pipeline(tmp_path):
    whole = make_pipeline()
    whole.save_pretrained(tmp_path)
    expected = whole.bridge(EMBEDS)
    assert torch.equal(DiffusionLinkPipeline.from_pretrained(tmp_path)(EMBEDS).embeds, expected)
    (tmp_path / "clap" / "model.safetensors").write_bytes(b"")  # nothing but the link and the scheduler is read
    DiffusionLinkPipeline.from_pretrained(tmp_path).save_pretrained(tmp_path / "alone")
    assert torch.equal(DiffusionLinkPipeline.from_pretrained(tmp_path / "alone")(EMBEDS).embeds, expected)
    whole.register_modules(link=None)
    whole.save_pretrained(tmp_path / "linkless")
    with pytest.raises(ModelFolderError, match="link"):
        DiffusionLinkPipeline.from_pretrained(tmp_path / "linkless")


def test_of_a_repository_only_the_link_is_fetched(tmp_path, monkeypatch):
    """A caption pipeline's decoder may have billions of weights."""
    whole, asked = make_pipeline(), {}
    whole.save_pretrained(tmp_path)

    def snapshot_download(repo_id, *, allow_patterns, **options):
        asked[repo_id] = allow_patterns
        return tmp_path

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert torch.equal(DiffusionLinkPipeline.from_pretrained("someone/captioner")(EMBEDS).embeds, whole.bridge(EMBEDS))
    files = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()]
    fetched = set(filter_repo_objects(files, allow_patterns=asked["someone/captioner"]))
    assert {name.split("/")[0] for name in fetched} == {"model_index.json", "link", "scheduler"}


def test_the_embedded_pipeline_has_a_link():
    assert DiffusionLinkPipeline.from_pretrained("tiny")(torch.randn(2, 512)).embeds.shape == (2, 512)


def test_from_pipe_shares_the_link():
    whole = make_pipeline()
    pipe = DiffusionLinkPipeline.from_pipe(whole)
    assert pipe.link is whole.link
    assert pipe.scheduler is whole.scheduler
    assert torch.equal(pipe(EMBEDS).embeds, whole.bridge(EMBEDS))
    link = make_link()
    assert DiffusionLinkPipeline.from_pipe(whole, link=link).link is link
    half = whole.to(torch.float16)
    assert AudioCaptionPipeline.from_pipe(half).link.dtype == torch.float16
    for components in ({"clap": whole.clap}, {"link": None}, {"link": whole.projector}):
        with pytest.raises(InputError):
            DiffusionLinkPipeline.from_pipe(whole, **components)
    with pytest.raises(InputError, match="link"):
        DiffusionLinkPipeline.from_pipe(AudioCaptionPipeline(whole.clap, whole.projector, whole.decoder))


def test_arrays_of_every_layout():
    pipe, array = DiffusionLinkPipeline(make_link()), EMBEDS.numpy()
    expected = pipe(EMBEDS).embeds
    frozen = array.copy()
    frozen.flags.writeable = False
    for other in (array.astype(">f4"), array[::-1].copy()[::-1], np.asfortranarray(array), frozen):
        assert torch.equal(pipe(other).embeds, expected)
    assert torch.equal(pipe(torch._neg_view(-EMBEDS)).embeds, expected)
    assert pipe(array.astype(">f8")).embeds.dtype == torch.float64


@pytest.mark.parametrize(
    "embeds",
    [
        EMBEDS.to_sparse(),
        EMBEDS.to("meta"),
        torch.complex(EMBEDS, EMBEDS).conj(),
        torch.quantize_per_tensor(EMBEDS, 0.1, 0, torch.qint8),
        EMBEDS.numpy().astype(object),
        EMBEDS.numpy().astype(str),
        EMBEDS.numpy().astype(np.longdouble),
        np.ma.masked_greater(EMBEDS.numpy(), 1.0),
        None,
    ],
    ids=["sparse", "meta", "conjugated", "quantized", "objects", "strings", "long double", "masked", "none"],
)
def test_embeddings_of_other_kinds_are_refused(embeds):
    with pytest.raises(InputError, match="embeds") as caught:
        DiffusionLinkPipeline(make_link())(embeds)
    assert caught.value.remedy


def test_arrays_of_bfloat16_embeddings_are_float32():
    pipe = DiffusionLinkPipeline(make_link())
    result = pipe(EMBEDS.bfloat16(), output_type="np").embeds
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, pipe(EMBEDS.bfloat16()).embeds.float().numpy())


def test_noise_that_nothing_would_use_is_refused():
    noise, quiet = torch.randn(1, EMBEDDING_DIM), DiffusionLinkPipeline(make_link(add_noise=False))
    pipe = DiffusionLinkPipeline(make_link())
    for run in (lambda: pipe(EMBEDS, noise=noise, add_noise=False), lambda: quiet(EMBEDS, noise=noise)):
        with pytest.raises(InputError, match="noise"):
            run()
    assert not torch.equal(quiet(EMBEDS, noise=noise, add_noise=True).embeds, quiet(EMBEDS).embeds)
    assert torch.equal(quiet(EMBEDS, generator=torch.Generator().manual_seed(5)).embeds, quiet(EMBEDS).embeds)
