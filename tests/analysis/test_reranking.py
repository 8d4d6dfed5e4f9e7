"""The choice among several captions of a sound by CLAP."""

import pytest
import torch

from diffusion_link_hf.analysis.reranking import best, clap_cosines
from diffusion_link_hf.errors import InputError
from support.models import make_clap

CANDIDATES = [["dog", "rain", "bell"], ["wind", ""], ["", ""]]


def test_cosines_are_those_of_claps_own_embeddings():
    clap = make_clap()
    audio = 3 * torch.randn(3, clap.embedding_dim, generator=torch.Generator().manual_seed(0))
    found = clap_cosines(audio, CANDIDATES, clap)
    expected = torch.nn.functional.cosine_similarity(audio[:1], clap.encode_text(CANDIDATES[0]))
    assert found[0] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found[1][1] == -1
    assert best(found)[1:] == [0, 0]


def test_the_first_of_equals_is_taken():
    assert best([[0.5, 0.7, 0.7], [0.1]]) == [1, 0]


def test_numbers_that_do_not_fit():
    clap = make_clap()
    with pytest.raises(InputError, match="are of 3 recordings, not 2"):
        clap_cosines(torch.ones(2, clap.embedding_dim), CANDIDATES, clap)
