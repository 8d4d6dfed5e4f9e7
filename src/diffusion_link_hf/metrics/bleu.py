"""BLEU-1 … BLEU-4 (Papineni et al., 2002) with the closest reference length, as in the COCO caption evaluation."""

import numpy as np

from .captions import Captions, CaptionScores
from .ngrams import MAX_ORDER, ngram_counts

NAMES = tuple(f"bleu_{n}" for n in range(1, MAX_ORDER + 1))
# The reference implementation's guards against division by zero; they show in per-caption scores of short captions.
TINY, SMALL = 1e-15, 1e-9


def bleu(captions: Captions) -> CaptionScores:
    """BLEU-1 … BLEU-4 in [0, 1], equal to ``pycocoevalcap.bleu``.

    The corpus score takes the n-gram counts of all rows together; it is not the mean over the captions. A candidate
    without words scores 0.

    Raises:
        MetricDependencyError, MetricToolError: see `Captions.tokens`.
    """
    rows = [_counts(*row) for row in zip(captions.tokens.candidates, captions.tokens.references, strict=True)]
    correct, guessed, lengths = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    per_caption = _bleu(correct, guessed, lengths)
    corpus = _bleu(*(counts.sum(0, keepdims=True) for counts in (correct, guessed, lengths)))[0]
    return CaptionScores(
        {name: float(score) for name, score in zip(NAMES, corpus, strict=True)},
        dict(zip(NAMES, per_caption.T.copy(), strict=True)),
    )


def _counts(candidate: str, references: list[str]) -> tuple[list[int], list[int], tuple[int, int]]:
    """Clipped matches and guesses for n = 1 … 4; the candidate's length and the reference's closest to it."""
    words = candidate.split()
    limits, reference_lengths = {}, []
    for reference in references:
        reference_words = reference.split()
        reference_lengths.append(len(reference_words))
        for ngram, count in ngram_counts(reference_words).items():
            limits[ngram] = max(limits.get(ngram, 0), count)
    correct = [0] * MAX_ORDER
    for ngram, count in ngram_counts(words).items():
        correct[len(ngram) - 1] += min(limits.get(ngram, 0), count)
    guessed = [max(0, len(words) - n) for n in range(MAX_ORDER)]
    closest = min(reference_lengths, key=lambda length: (abs(length - len(words)), length))
    return correct, guessed, (len(words), closest)


def _bleu(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Geometric means of the n-gram precisions times the brevity penalty.

    Args:
        correct: (R, 4). guessed: (R, 4). lengths: (R, 2), candidate and reference.

    Returns:
        (R, 4), one column per maximal n.
    """
    precision = (correct + TINY) / (guessed + SMALL)
    means = np.cumprod(precision, axis=1) ** (1 / np.arange(1, MAX_ORDER + 1))
    ratio = (lengths[:, :1] + TINY) / (lengths[:, 1:] + SMALL)
    return np.where(lengths[:, :1] > 0, means * np.exp(np.minimum(0, 1 - 1 / ratio)), 0.0)
