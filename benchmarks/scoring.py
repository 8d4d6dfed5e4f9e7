"""Caption metrics against `pycocoevalcap` called metric by metric."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

from diffusion_link_hf import score
from harness import Row, Settings, agree, interleave

CAPTIONS, REFERENCES = 500, 5
METRICS = ("bleu", "rouge_l", "meteor", "cider_d")
TOLERANCE = 1e-6
WANTED = "≥ 1.5× pycocoevalcap"
SUBJECTS = ("a dog", "a man", "two women", "an engine", "rain", "a crowd", "water", "birds", "a telephone", "a siren")
VERBS = ("is barking", "speaks", "are talking loudly", "idles", "falls steadily", "is cheering", "splashes", "chirp")
PLACES = (
    "",
    "in the distance",
    "nearby",
    "while music plays",
    "followed by a loud bang",
    "as wind blows",
    "repeatedly",
)


def rows(settings: Settings) -> Iterator[Row]:
    name = f"scoring {CAPTIONS} captions, {REFERENCES} references: {', '.join(METRICS)}"
    if settings.device == "cuda":
        return
    missing = [
        what
        for what, found in (("Java", shutil.which("java")), ("pycocoevalcap", find_spec("pycocoevalcap")))
        if not found
    ]
    if missing:
        yield Row("scoring", name, None, wanted=WANTED, note=f"needs {' and '.join(missing)}")
        return
    candidates, references = make_captions(settings.scaled(CAPTIONS, 20))
    own, peer = ours(candidates, references), by_pycocoevalcap(candidates, references)
    for metric, value in peer.items():
        agree(f"{name}: {metric}", own[metric], value, TOLERANCE)
    times, repeats = interleave(
        {
            "ours": lambda: ours(candidates, references),
            "peer": lambda: by_pycocoevalcap(candidates, references),
            "floor": lambda: ours(candidates, references, ("meteor",)),
        },
        settings,
    )
    met = times["peer"] >= 1.5 * times["ours"]
    note = "floor: METEOR alone, whose program both run; the corpus scores agree to 1e-6"
    yield Row("scoring", name, **times, wanted=WANTED, met=met, note=note, threads=1, repeats=repeats)


def make_captions(count: int) -> tuple[list[str], list[list[str]]]:
    """Candidates and references that share some of their words."""
    draw = random.Random(0)

    def phrase(subject: str) -> str:
        return " ".join(f"{subject} {draw.choice(VERBS)} {draw.choice(PLACES)}".split()).capitalize() + "."

    subjects = [draw.choice(SUBJECTS) for _ in range(count)]
    return [phrase(subject) for subject in subjects], [[phrase(s) for _ in range(REFERENCES)] for s in subjects]


def ours(candidates: list[str], references: list[list[str]], metrics=METRICS) -> dict[str, float]:
    return dict(score(candidates, references, metrics).corpus)


@contextlib.contextmanager
def quiet_processes() -> Iterator[None]:
    """Drops what processes started meanwhile write to their error stream, as the tokenizer does."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def by_pycocoevalcap(candidates: list[str], references: list[list[str]]) -> dict[str, float]:
    """The corpus scores by this package's names; tokenized once, then metric by metric."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()), quiet_processes():
        tokenizer = PTBTokenizer()
        truth = tokenizer.tokenize({k: [{"caption": text} for text in row] for k, row in enumerate(references)})
        found = tokenizer.tokenize({k: [{"caption": text}] for k, text in enumerate(candidates)})
        scores = {f"bleu_{n}": value for n, value in enumerate(Bleu(4).compute_score(truth, found, verbose=0)[0], 1)}
        scores["rouge_l"] = Rouge().compute_score(truth, found)[0]
        scores["meteor"] = Meteor().compute_score(truth, found)[0]
        scores["cider_d"] = Cider().compute_score(truth, found)[0]
    return {name: float(score) for name, score in scores.items()}
