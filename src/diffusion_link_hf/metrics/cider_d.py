"""CIDEr-D (Vedantam et al., 2015): TF-IDF weighted n-gram similarity with clipping and a length penalty."""

import math
from collections import Counter
from dataclasses import dataclass

from ..errors import InputError
from .captions import Captions, CaptionScores
from .ngrams import MAX_ORDER, ngram_counts

SIGMA = 6.0  # width of the length penalty, in words
SCALE = 10.0


def cider_d(captions: Captions) -> CaptionScores:
    """CIDEr-D in [0, 10], equal to ``pycocoevalcap.cider`` (whose "CIDEr" is CIDEr-D).

    Document frequencies are those of the references given, so that a score depends on the whole corpus. A candidate
    without words scores 0.

    Raises:
        InputError: fewer than two rows. All inverse document frequencies would be log(1) = 0 and so every score.
        MetricDependencyError, MetricToolError: see `Captions.tokens`.
    """
    check_rows(captions)
    references = [[ngram_counts(text.split()) for text in row] for row in captions.tokens.references]
    frequencies = Counter(ngram for row in references for ngram in set().union(*row))
    log_rows = math.log(len(captions))
    weights = {ngram: log_rows - math.log(count) for ngram, count in frequencies.items()}
    scores = []
    for candidate, row in zip(captions.tokens.candidates, references, strict=True):
        vector = _vector(ngram_counts(candidate.split()), weights, log_rows)
        scores.append(SCALE * sum(_similarity(vector, _vector(counts, weights, log_rows)) for counts in row) / len(row))
    return CaptionScores.mean_of("cider_d", scores)


def check_rows(captions: Captions) -> None:
    """Raises InputError for a single row, of which CIDEr-D knows no document frequency."""
    if len(captions) < 2:
        raise InputError(
            "cider_d",
            "there is one row, and inverse document frequencies need several",
            "Score the whole set at once, or leave out cider_d and spider",
        )


@dataclass
class _Vector:
    """TF-IDF weights by n-gram, their norms for n = 1 … 4, and the number of bigrams, which stands for the length."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    length: int


def _vector(counts: Counter, weights: dict[tuple[str, ...], float], unseen: float) -> _Vector:
    vector = {ngram: count * weights.get(ngram, unseen) for ngram, count in counts.items()}
    squares = [0.0] * MAX_ORDER
    length = 0
    for ngram, weight in vector.items():
        squares[len(ngram) - 1] += weight * weight
        if len(ngram) == 2:  # the reference implementation counts bigrams, not words
            length += counts[ngram]
    return _Vector(vector, [math.sqrt(square) for square in squares], length)


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Clipped cosine similarity, averaged over n, times the Gaussian penalty of the length difference."""
    products = [0.0] * MAX_ORDER
    for ngram, weight in candidate.weights.items():
        other = reference.weights.get(ngram)
        if other is not None:
            products[len(ngram) - 1] += min(weight, other) * other
    norms = zip(candidate.norms, reference.norms, strict=True)
    cosines = [product / (a * b) if a and b else 0.0 for product, (a, b) in zip(products, norms, strict=True)]
    difference = candidate.length - reference.length
    return sum(cosines) / MAX_ORDER * math.exp(-(difference**2) / (2 * SIGMA**2))
