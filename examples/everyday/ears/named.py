"""The measure of the sealed set, for a tagger: would a caption of the class it puts first hold a word of the true class?

Needs the pen's phrases.json and event_words.json: of a class's phrases, the share that hold a stem of another class.
"""

import json
import re
from pathlib import Path

import numpy as np


def named_matrix(pen: Path, names: list[str]) -> np.ndarray:
    """(C, C): how often a phrase of the row's class names the column's."""
    phrases = json.loads((pen / "phrases.json").read_text())
    words = json.loads((pen / "event_words.json").read_text())
    patterns = {
        name: re.compile("|".join(rf"\b{stem.replace('$', chr(92) + 'b')}" for stem in words[name]))
        for name in names
        if words.get(name)
    }
    out = np.eye(len(names))
    for i, guess in enumerate(names):
        said = [clause for entry in phrases.get(guess, []) for forms in entry["clauses"] for clause in forms]
        for j, truth in enumerate(names):
            if said and truth in patterns and i != j:
                out[i, j] = np.mean([bool(patterns[truth].search(clause.lower())) for clause in said])
    return out
