"""ROUGE-L against pycocoevalcap, its subsequence against dynamic programming, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_link_hf.metrics.rouge_l import common_subsequence_length, rouge_l
from support.metrics import coco, pretokenized

words = st.lists(st.sampled_from("abcd"), max_size=90)
captions = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)


def test_equals_pycocoevalcap_on_audiocaps(audiocaps):
    from pycocoevalcap.rouge.rouge import Rouge

    corpus, per_caption = Rouge().compute_score(*coco(audiocaps))
    ours = rouge_l(audiocaps)
    assert ours.corpus["rouge_l"] == pytest.approx(corpus, abs=1e-12)
    np.testing.assert_allclose(ours.per_caption["rouge_l"], per_caption, rtol=0, atol=1e-12)


@given(words, words)
def test_common_subsequence_by_dynamic_programming(first, second):
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            table[i, j] = table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
    assert common_subsequence_length(first, second) == table[-1, -1]


@given(captions, st.lists(captions, min_size=1, max_size=3), st.randoms())
def test_a_reference_as_candidate_scores_one_and_order_does_not_matter(caption, others, random):
    references = [*others, caption]
    assert rouge_l(pretokenized([caption], [references])).corpus["rouge_l"] == pytest.approx(1.0)
    shuffled = random.sample(others, len(others))
    expected = rouge_l(pretokenized([caption], [others])).corpus["rouge_l"]
    assert rouge_l(pretokenized([caption], [shuffled])).corpus["rouge_l"] == expected <= 1.0


def test_words_that_are_missing_score_zero():
    scores = rouge_l(pretokenized(["", "x y", "a"], [["a b"], ["a b"], ["a"]]))
    assert scores.per_caption["rouge_l"].tolist() == [0.0, 0.0, 1.0]


def test_captions_of_20000_words():
    long = "a dog barks and birds sing " * 3500
    assert rouge_l(pretokenized([long.strip()], [[long.strip()]])).corpus["rouge_l"] == pytest.approx(1.0)
