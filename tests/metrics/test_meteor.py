"""METEOR against pycocoevalcap's wrapper, in one process, on captions that stop that wrapper."""

import subprocess

import numpy as np
import pytest

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.metrics import MetricDependencyError, MetricToolError
from diffusion_link_hf.metrics import meteor as module
from diffusion_link_hf.metrics.meteor import meteor
from support.metrics import coco, first_rows, pretokenized


@pytest.fixture
def processes(monkeypatch):
    """The commands of all processes that are started."""
    started = []
    original = subprocess.Popen.__init__

    def record(self, args, *rest, **kwargs):
        started.append(args)
        original(self, args, *rest, **kwargs)

    monkeypatch.setattr(subprocess.Popen, "__init__", record)
    return started


ODD = [  # candidate, references, score; tokens
    ("a dog barks", ["a dog barks", "dogs bark"], 1.0),
    ("été brûlé", ["été brûlé"], 1.0),
    ("狗 在 叫", ["狗 在 叫"], 1.0),
    (" ".join(["dog"] * module.MAX_WORDS), [" ".join(["dog"] * module.MAX_WORDS)], 1.0),
    (" ".join(["x"] * 999 + ["rain"]), ["cats sleep"], 0.0),
    ("", ["a dog barks"], 0.0),
    ("x | | | y", ["a dog barks", "dogs bark"], 0.0),
    ("a", [""], 0.0),
    ("", [""], 0.0),
    ("cats sleep", ["a dog barks"], 0.0),
]


def test_equals_pycocoevalcap_on_audiocaps_and_on_odd_captions(audiocaps, processes, monkeypatch):
    from pycocoevalcap.meteor.meteor import Meteor

    data = first_rows(audiocaps, 50)
    data.candidates += [row[0] for row in ODD]
    data.references += [row[1] for row in ODD]
    data.tokens.candidates.extend(row[0] for row in ODD)
    data.tokens.references.extend(row[1] for row in ODD)
    data.rows = [f"row {k}" for k in range(len(data))]
    with monkeypatch.context() as context:
        context.setenv("LC_ALL", "C")
        ours = meteor(data)
    assert len(processes) == 1
    corpus, per_caption = Meteor().compute_score(*coco(data))
    assert ours.corpus["meteor"] == pytest.approx(corpus, abs=1e-6)
    np.testing.assert_allclose(ours.per_caption["meteor"], per_caption, rtol=0, atol=1e-6)
    assert ours.per_caption["meteor"][50:] == pytest.approx([row[2] for row in ODD], abs=1e-6)


def test_a_word_that_holds_the_separator_does_not_move_the_fields(ptb, stand_in_java, tmp_path):
    stand_in_java(f"head -n 1 > '{tmp_path}/request'")
    with pytest.raises(MetricToolError):
        meteor(pretokenized(["a dog|||barks"], [["the ||| cat", "|||"]]))
    assert (tmp_path / "request").read_text() == "SCORE ||| the cat |||  ||| a dogbarks\n"


def test_a_candidate_without_end_is_cut_and_named_and_the_others_keep_their_scores(ptb):
    words, one = ("dog " * 25_000).strip(), pretokenized(["a cat"], [["a cat sleeps"]])
    scores = meteor(pretokenized(["a cat", words], [["a cat sleeps"], ["a dog"]]))
    assert scores.notes == ("row 2, candidate: meteor took the first 1,000 of its 25,000 words",)
    assert scores.per_caption["meteor"][0] == meteor(one).corpus["meteor"]
    assert 0 < scores.per_caption["meteor"][1] < 0.1
    scores = meteor(pretokenized([("dog " * 301).strip()], [["a", ("dog " * 300).strip()]]))
    assert scores.notes == ("row 1, candidate: meteor took the first 300 of its 301 words",)


def test_too_long_a_reference_is_named(ptb):
    with pytest.raises(InputError, match="row 1, reference 2: has 301 words, and meteor cannot take more than 300"):
        meteor(pretokenized(["a"], [["a", ("dog " * 301).strip()]]))


def test_without_java(no_java):
    with pytest.raises(MetricDependencyError, match="meteor: needs Java"):
        meteor(pretokenized(["a"], [["a"]]))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no memory' >&2; exit 3", "no memory"),
        ("exit 0", "no message"),
        ("while read line; do echo nonsense; done", "the program failed"),
        ("while read line; do echo 1 2 3; done", "the program failed"),
    ],
)
def test_a_program_that_fails_is_no_zero(ptb, stand_in_java, script, message):
    stand_in_java(script)
    with pytest.raises(MetricToolError, match=message):
        meteor(pretokenized(["a"] * 20_000, [["a dog"]] * 20_000))


def test_a_program_that_hangs_is_ended(ptb, stand_in_java, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    stand_in_java("exec sleep 30")
    with pytest.raises(MetricToolError, match="no answer within"):
        meteor(pretokenized(["a"] * 20_000, [["a dog"]] * 20_000))
