"""The benchmark of the first caption: where its clock stops, and whose seconds it names."""

import os
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import start_up  # noqa: E402
from harness import DisagreementError, Settings  # noqa: E402

REPORT = """import time: self [us] | cumulative | imported package
import time:      1500 |       1500 |   torch._C
import time:      2000 |       3500 | torch
import time:      4000 |       4000 |     scipy.special
a warning | of a | library
import time:       500 |       4500 | diffusers
"""


def test_seconds_are_summed_by_package_without_what_each_imports():
    shares = start_up.own_seconds(REPORT)
    assert list(shares) == ["scipy", "torch", "diffusers"]
    assert shares == pytest.approx({"scipy": 0.004, "torch": 0.0035, "diffusers": 0.0005})


def test_the_clock_stops_at_the_first_line(tmp_path):
    """A process that would go on for an hour is not waited for."""
    left = tmp_path / "left"
    program = f"import time; print(' a bell ', flush=True); time.sleep(3600); open({str(left)!r}, 'w')"
    assert start_up._first_line(dict(os.environ), "-c", program)() == "a bell"
    assert not left.exists()


def test_a_process_that_says_nothing_is_an_error():
    with pytest.raises(RuntimeError, match="wrote nothing and ended with 3"):
        start_up._first_line(dict(os.environ), "-c", "import sys; sys.exit(3)")()


def test_captions_that_differ_are_not_timed(monkeypatch):
    def say(environment, *arguments):
        return lambda: "a.ogg: A dog barks" if "caption" in arguments else "A bell chimes"

    monkeypatch.setattr(start_up, "_first_line", say)
    with pytest.raises(DisagreementError, match="A bell chimes"):
        list(start_up.rows(Settings(seconds=0.0)))
