"""N-gram counts of a tokenized caption, which BLEU and CIDEr-D share."""

from collections import Counter

MAX_ORDER = 4


def ngram_counts(words: list[str]) -> Counter[tuple[str, ...]]:
    """Number of occurrences of every n-gram, n = 1 … 4."""
    return Counter(
        tuple(words[first : first + n]) for n in range(1, MAX_ORDER + 1) for first in range(len(words) - n + 1)
    )
