"""ROUGE-L (Lin, 2004): F-measure of the longest common subsequence, as in the COCO caption evaluation."""

from .captions import Captions, CaptionScores

BETA = 1.2  # recall counts more than precision


def rouge_l(captions: Captions) -> CaptionScores:
    """ROUGE-L in [0, 1], equal to ``pycocoevalcap.rouge``: the best precision and the best recall over the references.

    A candidate without words scores 0.

    Raises:
        MetricDependencyError, MetricToolError: see `Captions.tokens`.
    """
    rows = zip(captions.tokens.candidates, captions.tokens.references, strict=True)
    return CaptionScores.mean_of("rouge_l", [_f_measure(candidate, references) for candidate, references in rows])


def _f_measure(candidate: str, references: list[str]) -> float:
    if not candidate:
        return 0.0
    words = candidate.split(" ")
    precision = recall = 0.0
    for reference in references:
        reference_words = reference.split(" ")
        common = common_subsequence_length(words, reference_words)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(reference_words))
    if precision == 0:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_subsequence_length(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, by the bit-parallel recurrence of Hyyrö (2004)."""
    positions: dict[str, int] = {}
    for k, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << k
    everything = (1 << len(first)) - 1
    rows = everything
    for word in second:
        matches = rows & positions.get(word, 0)
        rows = (rows + matches | rows - matches) & everything
    return len(first) - rows.bit_count()
