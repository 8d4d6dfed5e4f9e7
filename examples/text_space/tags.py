"""Captions reduced to the tags that a hearer would give: content words, some of them missed, some misheard."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

# Words that say how a caption is built, not what is heard.
_FUNCTION_WORDS = """
    a about above across after again against all along also am among an and another are around as at away back
    background be because been before began begin beginning begins being between both but by can close closer
    come comes continue continues continuously distance distant do does down during each end ending ends
    eventually few followed following follows for from further get gets go goes going had has have having he
    her his in inside into is it its itself just like made make makes making more multiple near nearby next of
    off on once one ones or other others out outside over own past several she some something sound sounding
    sounds start starting starts still such than that the their them then there they this through time times
    to together two under until up very was were what when where which while who with within without
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def content_words(caption: str) -> list[str]:
    """Distinct content words in their order; all words, or the caption itself, where there is none."""
    words = list(dict.fromkeys(WORD.findall(caption.lower())))
    return [word for word in words if word not in FUNCTION_WORDS] or words or [caption]


class TagVocabulary:
    """The tags that a set of captions names, to be drawn in proportion to how many captions name them."""

    def __init__(self, captions: Sequence[str]):
        counts = Counter(word for caption in captions for word in content_words(caption))
        self.tags, self.up_to = list(counts), list(accumulate(counts.values()))

    def draw(self, rng: random.Random) -> str:
        return rng.choices(self.tags, cum_weights=self.up_to)[0]


def overheard(caption: str, rng: random.Random, vocabulary: TagVocabulary, missed: float, misheard: float) -> str:
    """The caption's tags as one who listened would name them, in random order, separated by blanks.

    Args:
        rng: what is missed and misheard, and the order.
        vocabulary: where misheard tags come from.
        missed: probability with which a tag is left out, 0 to 1; the last one stays.
        misheard: probability with which a tag that was not missed is replaced by another, 0 to 1.
    """
    words = content_words(caption)
    kept = [word for word in words if rng.random() >= missed] or [rng.choice(words)]
    heard = [vocabulary.draw(rng) if rng.random() < misheard else word for word in kept]
    rng.shuffle(heard)
    return " ".join(heard)
