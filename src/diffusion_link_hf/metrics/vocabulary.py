"""Vocabulary statistics: how many different words and captions a model says."""

from .captions import Captions, CaptionScores

NAMES = ("vocabulary_size", "vocabulary_ratio", "distinct_captions", "words_per_caption")


def vocabulary(captions: Captions) -> CaptionScores:
    """Statistics of the corpus, over PTB tokens; no score of a single caption.

    Returns:
        ``vocabulary_size``, the number of different words in the candidates; ``vocabulary_ratio``, the same relative
        to the references (0 if those hold no word); ``distinct_captions``, the fraction of different candidates;
        ``words_per_caption``, the mean length of the candidates in words.

    Raises:
        MetricDependencyError, MetricToolError: see `Captions.tokens`.
    """
    candidates = captions.tokens.candidates
    words = [word for candidate in candidates for word in candidate.split()]
    reference_words = {word for row in captions.tokens.references for text in row for word in text.split()}
    size = len(set(words))
    values = (
        float(size),
        size / len(reference_words) if reference_words else 0.0,
        len(set(candidates)) / len(candidates),
        len(words) / len(candidates),
    )
    return CaptionScores(dict(zip(NAMES, values, strict=True)), {})
