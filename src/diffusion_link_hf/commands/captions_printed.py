"""Captions as lines of a terminal."""

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..applications.captioned import CaptionedFile


def printable(text: str) -> str:
    """Text for a terminal: control characters, which could forge lines or move the cursor, are escaped.

    Examples:
        >>> printable("a\\nb\\x1b[2J")
        'a\\\\nb\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_captions(captioned: "CaptionedFile", as_json: bool, with_scores: bool) -> None:
    """A line for each caption on standard output, or the error on standard error; or all as one JSON line."""
    if as_json:
        line = json.dumps(captioned.as_json(), ensure_ascii=False)
        try:
            line.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            line = json.dumps(captioned.as_json())
        print(line, flush=True)
        return
    if captioned.error is not None:
        print(printable(f"diffusion-link: {captioned.error}"), file=sys.stderr, flush=True)
    for segment in captioned.segments:
        span = f" [{segment.start:g}–{segment.end:g} s]" if len(captioned.segments) > 1 else ""
        texts = [segment.text, *segment.alternatives]
        scores = [segment.score, *segment.alternative_scores] if segment.score is not None else [None] * len(texts)
        for text, score in zip(texts, scores, strict=True):
            shown = f" ({score:.2f})" if with_scores and score is not None else ""
            print(printable(f"{captioned.file}{span}: {' '.join(text.split())}{shown}"), flush=True)
