"""What all reports share: figures as documents hold them, the cells and tables that show them, and the two files."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..analysis.bootstrap import Estimate
from ..files import write_json, write_whole

LEVEL = 0.95
DIGITS = 6  # of stored figures: what is beyond float32's resolution differs from machine to machine


class SeededResult(Protocol):
    """The figures of one method over its seeds, such as `MethodResult` and `CaptionResult`."""

    def estimate(self, name: str) -> Estimate: ...

    def by_seed(self, name: str) -> Sequence[float]: ...


def figure_of(result: SeededResult, name: str) -> dict[str, Any]:
    """A figure of a method as documents hold it: ``value``, ``low``, ``high``, ``by_seed`` and ``std``."""
    return figure(result.by_seed(name), result.estimate(name))


def figure(by_seed: Sequence[float] | None, estimate: Estimate | None = None) -> dict[str, Any]:
    """As `figure_of`, without an interval where there is no estimate, and without seeds where there are none."""
    low, high = estimate.interval(LEVEL) if estimate else (None, None)
    value = estimate.value if estimate else float(np.mean(by_seed))
    found = {"value": rounded(value), "low": rounded(low), "high": rounded(high)}
    if by_seed is None:
        return found
    std = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 and np.isfinite(by_seed).all() else None
    return {**found, "by_seed": [rounded(one) for one in by_seed], "std": rounded(std)}


def rounded(value: float | None) -> float | None:
    """To `DIGITS`; None for what JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return round(value, DIGITS) + 0.0  # no negative zero


def with_interval(figure: Mapping[str, Any], digits: int = 3) -> str:
    """“0.688 [0.680, 0.696] ±0.002”, as far as there are intervals and several seeds; “∞” for null."""
    if figure["value"] is None:
        return "∞"
    text = f"{figure['value']:.{digits}f}"
    if figure["low"] is not None:
        text += f" [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    if len(figure["by_seed"]) > 1 and figure["std"] is not None:
        text += f" ±{figure['std']:.{digits}f}"
    return text


def difference_cell(figure: Mapping[str, Any], factor: int = 1, digits: int = 3) -> str:
    """A difference, ``factor`` times, with its interval; bold where that leaves out zero."""
    value, low, high = (f"{factor * figure[key]:+.{digits}f}" for key in ("value", "low", "high"))
    text = f"{value} [{low}, {high}]"
    return f"**{text}**" if figure["low"] > 0 or figure["high"] < 0 else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others are centered."""
    lines = [header, ["---", *[":---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plain(text: str) -> str:
    r"""Text as it is, on one line: nothing in it is Markdown or HTML.

    Examples:
        >>> print(plain("a|b <script>"))
        a\|b \<script\>
    """
    return re.sub(r"([\\`*\[\]<>|!#])", r"\\\1", " ".join(str(text).split()))


def left_out_section(
    failures: Sequence[Mapping[str, str]], words: str = "Recordings left out, with their captions"
) -> list[str]:
    """The recordings that could not be used, each with its reason."""
    if not failures:
        return []
    rows = ([plain(failure["audio"]), plain(failure["reason"])] for failure in failures)
    return [f"{words}: {len(failures):,}\n", table(["recording", "why"], rows)]


def intervals_line(settings: Mapping[str, Any], items: str = "recordings") -> str:
    """What brackets and ± mean."""
    return (
        f"Brackets: {settings['level']:.0%} intervals of the mean over seeds, by {settings['resamples']:,} bootstrap "
        f"resamples of {items}; ±: standard deviation over seeds."
    )


def times_section(times: Mapping[str, Mapping[str, Sequence[float | None]]]) -> str:
    """The last section of a report: the only one that differs between equal runs."""

    def mean(seconds: Sequence[float | None], digits: int) -> str:
        return "–" if None in seconds else f"{np.mean(seconds):.{digits}f}"

    return "## Times\n\n" + table(
        ["method", "fitting (s)", "bridging 1,000 rows (s)"],
        ([name, mean(of["fit_seconds"], 1), mean(of["bridge_seconds_per_1000_rows"], 3)] for name, of in times.items()),
    )


def write_document(document: Mapping[str, Any], markdown: str, folder: str | Path) -> None:
    """Write ``results.json`` and ``report.md``, each whole or not at all.

    Raises:
        DataError: they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", document, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "report.md", markdown.encode())
