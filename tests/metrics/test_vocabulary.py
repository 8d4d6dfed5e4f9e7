"""Vocabulary statistics on captions that can be counted by hand."""

import pytest

from diffusion_link_hf.metrics.vocabulary import vocabulary
from support.metrics import pretokenized


def test_counted_by_hand():
    scores = vocabulary(pretokenized(["a dog", "a dog", "a cat meows", ""], [["a b c"], ["a", "d"], ["dog"], ["e"]]))
    assert scores.corpus == pytest.approx(
        {
            "vocabulary_size": 4,  # a dog cat meows
            "vocabulary_ratio": 4 / 6,  # a b c d dog e
            "distinct_captions": 3 / 4,
            "words_per_caption": 7 / 4,
        }
    )
    assert scores.per_caption == {}


def test_no_words_at_all():
    captions = pretokenized([""], [["."]])
    captions.tokens = type(captions.tokens)([""], [[""]])
    assert vocabulary(captions).corpus["vocabulary_ratio"] == 0.0
