"""The input of every metric, checked once and tokenized once, and the form of every result."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError
from .tokenization import ptb_tokenize


@dataclass(frozen=True)
class CaptionScores:
    """Scores of one or several metrics.

    Attributes:
        corpus: score name → score of all rows together, a fraction unless the metric says otherwise.
        per_caption: score name → (N,) float64 in the order of the rows; a score that only a corpus has is absent.
    """

    corpus: Mapping[str, float]
    per_caption: Mapping[str, np.ndarray]

    @classmethod
    def mean_of(cls, name: str, values: Iterable[float]) -> "CaptionScores":
        """One score whose corpus value is the mean over the captions."""
        values = np.asarray(values, dtype=np.float64)
        return cls({name: float(values.mean())}, {name: values})


@dataclass(frozen=True)
class TokenizedCaptions:
    """PTB tokens joined by single spaces, lower-cased, without punctuation; the same shape as `Captions`."""

    candidates: list[str]
    references: list[list[str]]


class Captions:
    """Candidates and their references, row by row.

    A candidate may be empty: a decoder can be silent, and every metric has a defined score for it. A reference may not.

    Args:
        candidates: N strings.
        references: N sequences of one or more non-blank strings; their number may differ from row to row.
        rows: N names of the rows for error messages, such as "predictions.jsonl, line 3"; default "row 1" ….

    Raises:
        InputError: no rows, different lengths, a row without references, a blank reference, something that is not a
            string, or a string with a lone surrogate, which no encoding can carry. It names the row.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        references: Sequence[Sequence[str]],
        rows: Sequence[str] | None = None,
    ):
        _check_sequence("candidates", candidates)
        _check_sequence("references", references)
        if len(candidates) != len(references):
            raise InputError(
                "captions",
                f"{len(candidates)} candidates but {len(references)} rows of references",
                "Give one list of references per candidate",
            )
        if len(candidates) == 0:
            raise InputError("captions", "there are no rows", "Give at least one candidate with its references")
        self.rows = list(rows) if rows is not None else [f"row {k}" for k in range(1, len(candidates) + 1)]
        for row, candidate, row_references in zip(self.rows, candidates, references, strict=True):
            check_row(row, candidate, row_references)
        self.candidates = list(candidates)
        self.references = [list(row_references) for row_references in references]

    def __len__(self) -> int:
        return len(self.candidates)

    @cached_property
    def tokens(self) -> TokenizedCaptions:
        """All captions through one process of the PTB tokenizer, at the first use.

        Raises:
            MetricDependencyError: no Java, or no pycocoevalcap, which carries the tokenizer.
            MetricToolError: the tokenizer failed.
        """
        flat = [*self.candidates, *(text for row in self.references for text in row)]
        tokens = iter(ptb_tokenize(flat))
        candidates = [next(tokens) for _ in self.candidates]
        return TokenizedCaptions(candidates, [[next(tokens) for _ in row] for row in self.references])


def check_row(row: str, candidate: object, references: object) -> None:
    """Checks one candidate and its references.

    Raises:
        InputError: see `Captions`.
    """
    _check_text(f"{row}, candidate", candidate)
    if isinstance(references, str) or not isinstance(references, Sequence):
        raise InputError(
            f"{row}, references", f"are {_shown(references)}", "Give a list of strings, even for a single reference"
        )
    if len(references) == 0:
        raise InputError(f"{row}, references", "there are none", "Give at least one, or leave the row out")
    for k, reference in enumerate(references, start=1):
        _check_text(f"{row}, reference {k}", reference)
        if not reference.strip():
            raise InputError(f"{row}, reference {k}", f"is blank ({reference!r})", "Remove it or write it out")


def check_longest(
    captions: Captions, metric: str, limit: int, candidate_limit: Callable[[Sequence[str]], int] | None = None
) -> None:
    """Refuses captions of more than ``limit`` tokens, for tools that run out of memory or time on them.

    Args:
        candidate_limit: the limit of a candidate, given its tokenized references; ``limit`` by default.

    Raises:
        InputError: names the row, its length and the limit.
    """
    for row, candidate, references in zip(
        captions.rows, captions.tokens.candidates, captions.tokens.references, strict=True
    ):
        named = [(f"reference {k}", text, limit) for k, text in enumerate(references, start=1)]
        named.append(("candidate", candidate, candidate_limit(references) if candidate_limit else limit))
        for name, text, most in named:
            words = text.count(" ") + 1
            if words > most:
                raise InputError(
                    f"{row}, {name}",
                    f"has {words:,} words, and {metric} cannot take more than {most:,}",
                    f"Shorten or leave out the caption, or leave out {metric}",
                )


def _check_sequence(name: str, value: object) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(name, f"are {_shown(value)}", "Give a list")


def _check_text(item: str, text: object) -> None:
    if not isinstance(text, str):
        raise InputError(item, f"is {_shown(text)}", "Give a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            item,
            f"holds a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}",
            "Decode the text as UTF-8 or UTF-16 before scoring it",
        ) from error


def _shown(value: object) -> str:
    text = repr(value)
    return f"a {type(value).__name__} ({text if len(text) <= 60 else text[:57] + '…'})"
