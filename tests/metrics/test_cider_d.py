"""CIDEr-D against pycocoevalcap, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.metrics.cider_d import cider_d
from support.metrics import coco, pretokenized

captions = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join)
rows = st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=2, max_size=6)


def assert_equals_pycocoevalcap(data):
    from pycocoevalcap.cider.cider import Cider

    corpus, per_caption = Cider().compute_score(*coco(data))
    ours = cider_d(data)
    assert ours.corpus["cider_d"] == pytest.approx(corpus, abs=1e-9)
    np.testing.assert_allclose(ours.per_caption["cider_d"], per_caption, rtol=0, atol=1e-9)


def test_equals_pycocoevalcap_on_audiocaps(audiocaps):
    assert_equals_pycocoevalcap(audiocaps)


@given(rows)
def test_equals_pycocoevalcap_on_short_captions(drawn):
    pytest.importorskip("pycocoevalcap")
    assert_equals_pycocoevalcap(pretokenized(*zip(*drawn, strict=True)))


@given(rows, st.randoms())
def test_order_does_not_matter(drawn, random):
    expected = cider_d(pretokenized(*zip(*drawn, strict=True))).per_caption["cider_d"]
    order = random.sample(range(len(drawn)), len(drawn))
    shuffled = [(drawn[k][0], random.sample(drawn[k][1], len(drawn[k][1]))) for k in order]
    found = cider_d(pretokenized(*zip(*shuffled, strict=True))).per_caption["cider_d"]
    np.testing.assert_allclose(found, expected[order], atol=1e-12)


@given(captions, captions, captions)
def test_the_only_reference_is_the_best_candidate(caption, candidate, other_row):
    references = [[caption], [other_row]]
    best = cider_d(pretokenized([caption, "x"], references)).per_caption["cider_d"][0]
    found = cider_d(pretokenized([candidate, "x"], references)).per_caption["cider_d"][0]
    assert found <= best + 1e-9
    assert best <= 10 + 1e-9


def test_the_maximum_is_ten():
    scores = cider_d(pretokenized(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]]))
    assert scores.corpus["cider_d"] == pytest.approx(10.0)


def test_a_candidate_without_words_scores_zero():
    assert cider_d(pretokenized(["", "a b"], [["a b"], ["c d"]])).per_caption["cider_d"][0] == 0.0


def test_a_single_row_is_refused_since_it_would_score_zero():
    with pytest.raises(InputError, match="there is one row"):
        cider_d(pretokenized(["a b c d"], [["a b c d"]]))
