"""The Penn Treebank tokenization that published caption scores use, by one process for all captions."""

import re
from collections.abc import Sequence

from .errors import MetricToolError
from .java import REPORT, java_executable, pycocoevalcap_file, run_java

# Dropped after tokenization, as in the COCO caption evaluation (pycocoevalcap.tokenizer.ptbtokenizer).
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
# What the tokenizer, or a reader of its lines, takes for the end of a caption.
LINE_BREAKS = re.compile(r"[\n\r\v\f\x00\x1c-\x1e\x85\u2028\u2029]")
JAR = ("tokenizer", "stanford-corenlp-3.4.1.jar")


def check_tokenizer() -> None:
    """Raises MetricDependencyError where Java or pycocoevalcap is missing."""
    java_executable("PTB tokenizer")
    pycocoevalcap_file("PTB tokenizer", *JAR)


def ptb_tokenize(captions: Sequence[str]) -> list[str]:
    """Tokens of each caption, lower-cased, without punctuation, joined by single spaces.

    Equal to ``pycocoevalcap.tokenizer.PTBTokenizer`` on captions without line breaks; a line break inside a caption
    counts as a space here, and would shift all later captions there. What the tokenizer does not know, such as emoji,
    it drops, so that a caption of nothing else becomes the empty string.

    Raises:
        MetricDependencyError: no Java, or no pycocoevalcap.
        MetricToolError: the tokenizer failed, or its lines are not one per caption.
    """
    if not captions:
        return []
    jar = pycocoevalcap_file("PTB tokenizer", *JAR)
    arguments = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "".join(LINE_BREAKS.sub(" ", caption) + "\n" for caption in captions)
    output = run_java("PTB tokenizer", arguments, text, timeout=120 + len(text) / 10_000)
    lines = output.removesuffix("\n").split("\n")
    if len(lines) != len(captions):
        raise MetricToolError("PTB tokenizer", f"gave {len(lines)} lines for {len(captions)} captions", REPORT)
    return [" ".join(token for token in line.split(" ") if token and token not in PUNCTUATION) for line in lines]
