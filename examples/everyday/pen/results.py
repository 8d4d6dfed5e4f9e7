"""Prints the measured figures of runs side by side."""

import json
import sys
from pathlib import Path

keys = (
    "exact",
    "all_named",
    "any_named",
    "exact_bank",
    "named_bank",
    "exact_esc10",
    "speech_as_speech",
    "cider_d",
    "distinct_words",
    "most_frequent_caption",
    "words_per_caption",
)
for run in sys.argv[1:]:
    m = json.load(open(Path(run) / "measured.json"))
    print("##", run)
    for s, row in m.items():
        if s != "of_1000":
            print(s.removeprefix("validation-"), {k: row[k] for k in keys if k in row}, "n", row["n"])
    o = m["of_1000"]
    print(
        "1000 captions:",
        o["distinct_words"],
        "words;",
        o["distinct_captions"],
        "distinct; most frequent",
        o["most_frequent_caption"],
        o["connectors"][:3],
    )
    p = Path(run) / "scores.txt"
    if p.is_file():
        print(p.read_text())
