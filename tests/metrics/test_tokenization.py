"""The PTB tokenizer against pycocoevalcap's wrapper, and what that wrapper gets wrong."""

import os
import subprocess

import pytest

from diffusion_link_hf.metrics import MetricDependencyError, MetricToolError
from diffusion_link_hf.metrics.tokenization import ptb_tokenize

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_equals_pycocoevalcap_on_audiocaps(audiocaps):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    reference = PTBTokenizer()
    candidates = reference.tokenize({k: [{"caption": text}] for k, text in enumerate(audiocaps.candidates)})
    references = reference.tokenize(
        {k: [{"caption": text} for text in row] for k, row in enumerate(audiocaps.references)}
    )
    assert audiocaps.tokens.candidates == [candidates[k][0] for k in range(len(audiocaps))]
    assert audiocaps.tokens.references == [references[k] for k in range(len(audiocaps))]


ODD = {
    "A dog barks, loudly.": "a dog barks loudly",
    "": "",
    "  \t ": "",
    "...": "",
    "🐶🎉": "",
    "狗在叫": "狗在叫",
    "C'est l'été !": "c'est l'été",
    "a\nb": "a b",
    "a\r\nb": "a b",
    "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x00h": "a b c d e f g h",
    "x ||| y": "x | | | y",
    "dog " * 25_000: ("dog " * 25_000).strip(),
    "a" * 100_000: "a" * 100_000,
    "last": "last",
}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_odd_captions_keep_their_rows_in_any_locale(ptb, monkeypatch, locale):
    monkeypatch.setenv("LC_ALL", locale)
    assert ptb_tokenize(list(ODD)) == list(ODD.values())


def test_blank_captions_at_the_end_keep_their_rows(ptb):
    assert ptb_tokenize(["a dog", "", " "]) == ["a dog", "", ""]
    assert ptb_tokenize([""]) == [""]
    assert ptb_tokenize([]) == []


def test_one_process_for_all(ptb, monkeypatch):
    runs = []
    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: runs.append(args) or original(*args, **kwargs))
    ptb_tokenize(["a dog"] * 50)
    assert len(runs) == 1


def test_without_java(no_java):
    with pytest.raises(MetricDependencyError, match=r"needs Java.*Install a Java runtime"):
        ptb_tokenize(["a"])


def test_without_pycocoevalcap(monkeypatch, stand_in_java):
    stand_in_java("exit 0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MetricDependencyError, match=r"needs the package pycocoevalcap.*diffusion-link-hf\[metrics\]"):
        ptb_tokenize(["a"])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'no memory' >&2; exit 3", "ended with status 3: no memory"),
        ("cat > /dev/null; echo one", "gave 1 lines for 2 captions"),
        ("exit 0", "gave 1 lines for 2 captions"),
    ],
)
def test_failures_of_the_process(ptb, stand_in_java, script, message):
    stand_in_java(script)
    with pytest.raises(MetricToolError, match=message):
        ptb_tokenize(["a", "b"])


def test_a_process_that_hangs_is_ended(ptb, stand_in_java, monkeypatch):
    import diffusion_link_hf.metrics.tokenization as module

    original = module.run_java
    monkeypatch.setattr(module, "run_java", lambda *args, timeout: original(*args, timeout=0.3))
    stand_in_java("exec sleep 30")
    with pytest.raises(MetricToolError, match="did not end within"):
        ptb_tokenize(["a"])


def test_java_home_that_is_no_folder_is_passed_over(ptb, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", os.devnull)
    assert ptb_tokenize(["Dogs!"]) == ["dogs"]
