"""BLEU against pycocoevalcap, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.metrics.bleu import NAMES, bleu
from support.metrics import coco, pretokenized

captions = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
rows = st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=5)


def pycocoevalcap_bleu(captions):
    from pycocoevalcap.bleu.bleu import Bleu

    return Bleu(4).compute_score(*coco(captions), verbose=0)


def assert_equal(ours, theirs):
    corpus, per_caption = theirs
    for name, score, scores in zip(NAMES, corpus, per_caption, strict=True):
        assert ours.corpus[name] == pytest.approx(score, abs=1e-9)
        np.testing.assert_allclose(ours.per_caption[name], scores, rtol=0, atol=1e-9)


def test_equals_pycocoevalcap_on_audiocaps(audiocaps):
    assert_equal(bleu(audiocaps), pycocoevalcap_bleu(audiocaps))


@given(rows)
def test_equals_pycocoevalcap_on_short_captions(drawn):
    pytest.importorskip("pycocoevalcap")
    data = pretokenized(*zip(*drawn, strict=True))
    assert_equal(bleu(data), pycocoevalcap_bleu(data))


@given(rows, st.randoms())
def test_order_does_not_matter(drawn, random):
    expected = bleu(pretokenized(*zip(*drawn, strict=True)))
    order = random.sample(range(len(drawn)), len(drawn))
    shuffled = [(drawn[k][0], random.sample(drawn[k][1], len(drawn[k][1]))) for k in order]
    found = bleu(pretokenized(*zip(*shuffled, strict=True)))
    for name in NAMES:
        assert found.corpus[name] == pytest.approx(expected.corpus[name], abs=1e-12)
        np.testing.assert_allclose(found.per_caption[name], expected.per_caption[name][order], atol=1e-12)


@given(st.lists(st.sampled_from("abcde"), min_size=4, max_size=9).map(" ".join), captions)
def test_a_reference_as_candidate_scores_one(caption, other):
    scores = bleu(pretokenized([caption], [[other, caption]]))
    assert list(scores.corpus.values()) == pytest.approx([1.0] * 4, abs=1e-6)


def test_a_candidate_without_words_scores_zero():
    scores = bleu(pretokenized(["", "a b c d e"], [["a b"], ["a b c d e"]]))
    assert [scores.per_caption[name][0] for name in NAMES] == [0.0] * 4
    assert scores.corpus["bleu_4"] == pytest.approx(np.exp(1 - 7 / 5), abs=1e-6)
