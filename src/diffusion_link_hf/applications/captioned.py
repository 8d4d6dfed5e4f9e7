"""A recording with its captions, as it is written to files: JSON lines, tables and subtitles."""

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ..errors import InputError
from ..pipelines.output import CaptionSegment

COLUMNS = ("file", "start", "end", "caption", "score", "error")  # of csv
FORMATS = ("csv", "jsonl", "parquet", "srt", "vtt", "txt")
RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class CaptionedFile:
    """What became of one recording.

    Attributes:
        file: its name.
        segments: its captions in time order; empty if it failed.
        error: why it has none.
    """

    file: str
    segments: tuple[CaptionSegment, ...] = ()
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """``{"file", "captions": [{"start", "end", "text", "score", "alternatives"}]}`` or ``{"file", "error"}``."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, "captions": [_segment_as_json(segment) for segment in self.segments]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "CaptionedFile":
        """What `as_json` made."""
        segments = [
            CaptionSegment(
                one["start"],
                one["end"],
                one["text"],
                tuple(each["text"] for each in one.get("alternatives", ())),
                one.get("score"),
                tuple(each["score"] for each in one.get("alternatives", ()) if "score" in each),
            )
            for one in row.get("captions", ())
        ]
        return cls(row["file"], tuple(segments), row.get("error"))

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per segment, or one with the error, for tables."""
        if self.error is not None:
            yield {"file": self.file, "start": None, "end": None, "caption": None, "score": None, "error": self.error}
        for segment in self.segments:
            yield {
                "file": self.file,
                "start": segment.start,
                "end": segment.end,
                "caption": segment.text,
                "score": segment.score,
                "error": None,
            }


def _segment_as_json(segment: CaptionSegment) -> dict[str, Any]:
    row: dict[str, Any] = {"start": segment.start, "end": segment.end, "text": segment.text}
    if segment.score is not None:
        row["score"] = segment.score
    if segment.alternatives:
        scores = segment.alternative_scores or [None] * len(segment.alternatives)
        row["alternatives"] = [
            {"text": text} | ({} if score is None else {"score": score})
            for text, score in zip(segment.alternatives, scores, strict=True)
        ]
    return row


def merge_segments(segments: Iterable[CaptionSegment]) -> list[CaptionSegment]:
    """Neighbors with the same caption as one segment, whose score is the mean, weighted by their lengths.

    Examples:
        >>> from diffusion_link_hf import CaptionSegment
        >>> parts = [CaptionSegment(0, 10, "Rain"), CaptionSegment(10, 20, "Rain"), CaptionSegment(20, 30, "A dog")]
        >>> [(part.start, part.end, part.text) for part in merge_segments(parts)]
        [(0, 20, 'Rain'), (20, 30, 'A dog')]
    """
    merged: list[CaptionSegment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if last is None or last.text != segment.text:
            merged.append(segment)
            continue
        score = None
        if last.score is not None and segment.score is not None:
            length, more = last.end - last.start, segment.end - segment.start
            score = (last.score * length + segment.score * more) / (length + more)
        merged[-1] = CaptionSegment(last.start, segment.end, last.text, score=score)
    return merged


def write_captions(captioned: Iterable[CaptionedFile], file: IO[bytes], format: str) -> None:
    """Write captions in one of `FORMATS`.

    In ``srt`` and ``vtt``, the recordings follow one another on one time line, each beginning where the one before
    ends; failed ones are left out.

    Args:
        file: open for writing bytes.
        format: ``csv`` (a row per segment), ``jsonl`` (a line per recording), ``parquet``, ``srt``, ``vtt``, ``txt``.

    Raises:
        InputError: another format.
    """
    if format == "parquet":
        return _write_parquet(captioned, file)
    writers = {"csv": _csv, "jsonl": _jsonl, "srt": _srt, "vtt": _vtt, "txt": _txt}
    if format not in writers:
        raise InputError("format", f"is {format!r}", f"Use one of {', '.join(FORMATS)}")
    for text in writers[format](captioned):
        file.write(text.encode("utf-8", "surrogateescape"))
    return None


def _jsonl(captioned: Iterable[CaptionedFile]) -> Iterator[str]:
    for one in captioned:
        yield json.dumps(one.as_json()) + "\n"


def _csv(captioned: Iterable[CaptionedFile]) -> Iterator[str]:
    return csv_lines((row for one in captioned for row in one.rows()), COLUMNS)


def csv_lines(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """A header and a line for each row, with their ends; what a row lacks is empty."""
    for row in itertools.chain([{name: name for name in columns}], rows):
        out = io.StringIO()
        csv.writer(out).writerow([_cell(row.get(name)) for name in columns])
        yield out.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front, which makes it text."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(RUN_BY_SPREADSHEETS) else value
    return "" if value is None else f"{value:g}"


def _txt(captioned: Iterable[CaptionedFile]) -> Iterator[str]:
    for one in captioned:
        for segment in one.segments:
            span = f" [{segment.start:g}–{segment.end:g} s]" if len(one.segments) > 1 else ""
            yield f"{one.file}{span}: {' '.join(segment.text.split())}\n"


def _srt(captioned: Iterable[CaptionedFile]) -> Iterator[str]:
    for number, start, end, text in _cues(captioned):
        yield f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n"


def _vtt(captioned: Iterable[CaptionedFile]) -> Iterator[str]:
    yield "WEBVTT\n\n"
    for _, start, end, text in _cues(captioned):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{_time(start, '.')} --> {_time(end, '.')}\n{text}\n\n"


def _cues(captioned: Iterable[CaptionedFile]) -> Iterator[tuple[int, float, float, str]]:
    number, begin = 0, 0.0
    for one in captioned:
        for k, segment in enumerate(one.segments):
            number += 1
            # Overlapping windows would be shown over one another.
            following = one.segments[k + 1].start if k + 1 < len(one.segments) else segment.end
            end = min(segment.end, following)
            yield number, begin + segment.start, begin + end, " ".join(segment.text.split())
        begin += one.segments[-1].end if one.segments else 0.0


def _time(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _write_parquet(captioned: Iterable[CaptionedFile], file: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    alternatives = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())]))
    schema = pa.schema(
        [
            ("file", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("caption", pa.string()),
            ("score", pa.float64()),
            ("error", pa.string()),
            ("alternatives", alternatives),
        ]
    )
    with pq.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, Any]] = []
        for one in captioned:
            others = [_segment_as_json(segment).get("alternatives", []) for segment in one.segments] or [[]]
            rows += [row | {"alternatives": more} for row, more in zip(one.rows(), others, strict=True)]
            if len(rows) >= 10_000:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
