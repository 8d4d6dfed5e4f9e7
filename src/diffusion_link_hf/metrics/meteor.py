"""METEOR 1.5 (Denkowski and Lavie, 2014): the authors' program, one process for all captions."""

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence

import numpy as np

from .captions import Captions, CaptionScores, cut_longest
from .errors import MetricToolError
from .java import JAVA_OPTIONS, REPORT, java_executable, last_lines, pycocoevalcap_file

JAR = ("meteor", "meteor-1.5.jar")
# The aligner's time grows with the words of a candidate times those of a reference: two captions of 300 words take
# seconds, two of 1,000 minutes. Far above 1,000 words in one caption it overflows its stack, whatever the other is.
MAX_WORDS = 300
MAX_CANDIDATE_WORDS = 1000
ANSWER_SECONDS = 300.0  # for one caption, and for the start, which reads 60 MB of paraphrases
STATISTICS = 23  # numbers per row
SEPARATOR = "|||"


def check_meteor() -> None:
    """Raises MetricDependencyError where Java or pycocoevalcap is missing."""
    java_executable("meteor")
    pycocoevalcap_file("meteor", *JAR)
    pycocoevalcap_file("meteor", "meteor", "data", "paraphrase-en.gz")


def meteor(captions: Captions) -> CaptionScores:
    """METEOR in [0, 1] for English, equal to ``pycocoevalcap.meteor``.

    The corpus score takes the statistics of all rows together; it is not the mean over the captions. A candidate
    without words scores 0. Of a candidate of more than 1,000 words, or of more than 90,000 / (words of its longest
    reference), METEOR cannot align all: the first so many are scored, and a note says so.

    Raises:
        InputError: a reference of more than 300 words; the row is named.
        MetricDependencyError: no Java, or no pycocoevalcap, which carries the program.
        MetricToolError: the program failed or gave no answer in time.
    """
    check_meteor()
    tokens, notes = cut_longest(captions, "meteor", MAX_WORDS, _candidate_limit)
    requests = [
        f" {SEPARATOR} ".join(["SCORE", *(_one_field(text) for text in [*references, candidate])])
        for candidate, references in zip(tokens.candidates, tokens.references, strict=True)
    ]
    scores = _converse(requests)
    return CaptionScores({"meteor": scores[-1]}, {"meteor": np.array(scores[:-1])}, tuple(notes))


def _candidate_limit(references: Sequence[str]) -> int:
    """How many words of a candidate are aligned with these references."""
    longest = max(text.count(" ") + 1 for text in references)
    return min(MAX_CANDIDATE_WORDS, MAX_WORDS**2 // longest)


def _one_field(text: str) -> str:
    """Without the separator, which a word may hold and which would move the fields."""
    return text.replace(SEPARATOR, "").replace("  ", " ")


def _converse(requests: Sequence[str]) -> list[float]:
    """Statistics of every row, then their scores: N of the rows and one of the corpus."""
    jar = pycocoevalcap_file("meteor", *JAR)
    options = ["-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as stderr:  # a pipe that nobody reads would fill and stop the program
        process = subprocess.Popen(
            [java_executable("meteor"), *JAVA_OPTIONS, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        watchdog = _Watchdog(process)
        # Written by a thread of its own, or both sides would wait for each other once a pipe is full.
        writer = threading.Thread(target=_write, args=(process, requests), daemon=True)
        try:
            writer.start()
            statistics = [watchdog.answer(STATISTICS) for _ in requests]
            writer.join()
            _write(process, [f" {SEPARATOR} ".join(["EVAL", *statistics])])
            return [float(watchdog.answer(1)) for _ in range(len(requests) + 1)]
        except ValueError as error:  # an empty or garbled answer: the process has ended, or is not METEOR
            process.kill()
            process.wait()
            stderr.seek(0)
            reason = f"no answer within {ANSWER_SECONDS:g} s" if watchdog.barked else last_lines(stderr.read())
            raise MetricToolError("meteor", f"the program failed ({reason})", REPORT) from error
        finally:
            watchdog.stop()
            process.kill()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what is still buffered has no reader any more
                    stream.close()
            process.wait()


class _Watchdog:
    """Reads a process's answers, and ends the process if one does not come in time."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.barked = False
        self._since = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def answer(self, count: int) -> str:
        """The next line; raises ValueError if it does not hold ``count`` numbers, as when the process has ended."""
        self._since = time.monotonic()
        line = self.process.stdout.readline().decode("utf-8", errors="replace").strip()
        if len([float(part) for part in line.split()]) != count:
            raise ValueError(f"{line!r} instead of {count} numbers")
        return line

    def stop(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, ANSWER_SECONDS)):
            if time.monotonic() - self._since > ANSWER_SECONDS:
                self.barked = True
                self.process.kill()


def _write(process: subprocess.Popen, lines: Sequence[str]) -> None:
    # OSError: the process has ended; ValueError: its pipe is closed already. The reader finds out and says why.
    with contextlib.suppress(OSError, ValueError):
        process.stdin.write("".join(line + "\n" for line in lines).encode())
        process.stdin.flush()
