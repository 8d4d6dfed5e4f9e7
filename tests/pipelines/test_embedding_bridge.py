"""The embeddings-only pipeline."""

import numpy as np
import pytest
import torch

from diffusion_link_hf import DiffusionLinkPipeline
from diffusion_link_hf.errors import InputError, ModelFolderError
from factories import EMBEDDING_DIM, make_link

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
    from diffusion_link_hf import AudioCaptionPipeline

    with pytest.raises(ModelFolderError, match="DiffusionLinkPipeline"):
        AudioCaptionPipeline.from_pretrained(tmp_path)
