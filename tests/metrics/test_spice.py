"""SPICE's program around a stand-in for its parser; what is said where something is missing; the fetched archive."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diffusion_link_hf.errors import InputError
from diffusion_link_hf.metrics import Captions, MetricDependencyError, MetricToolError, score
from diffusion_link_hf.metrics import spice as module
from diffusion_link_hf.metrics.java import pycocoevalcap_folder
from diffusion_link_hf.metrics.spice import CORENLP_JARS, fetch_spice, spice
from support.metrics import pretokenized


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_LINK_METRICS", str(tmp_path / "metrics"))
    return tmp_path / "metrics"


@pytest.fixture(scope="module")
def stand_in_class_path(ptb, tmp_path_factory):
    """SPICE as it is, but for the parser; the graphs come from the older CoreNLP that the tokenizer uses."""
    if shutil.which("javac") is None:
        pytest.skip("no JDK on the PATH")
    folder = pycocoevalcap_folder("test")
    jars = [
        str(folder / "spice" / "spice-1.0.jar"),
        str(folder / "tokenizer" / "stanford-corenlp-3.4.1.jar"),
        str(folder / "spice" / "lib" / "*"),
    ]
    classes = tmp_path_factory.mktemp("classes")
    source = classes / "SpiceParser.java"
    shutil.copy(Path(__file__).with_name("SpiceParserStandIn.java"), source)
    subprocess.run(["javac", "-cp", ":".join(jars), "-d", str(classes), str(source)], check=True, capture_output=True)
    return [str(classes), *jars]


@pytest.fixture
def stand_in_parser(stand_in_class_path, empty_folder, monkeypatch):
    (empty_folder / "corenlp").mkdir(parents=True)
    for jar in CORENLP_JARS:
        (empty_folder / "corenlp" / jar).write_bytes(b"")
    monkeypatch.setattr(module, "spice_class_path", lambda: stand_in_class_path)


ROWS = [
    ("dog rain", ["dog", "cat rain"]),
    ("dog", ["dog"]),
    ("", ["dog cat"]),
    ("engine", ["dog"]),
    ("狗 été", ["狗 été", "x"]),
    ("bike", ["bicycle"]),  # synonyms count as equal
]


def f_score(candidate, references):
    candidate, references = set(candidate.split()), set(" ".join(references).split())
    if candidate == {"bike"}:
        candidate = {"bicycle"}
    return 2 * len(candidate & references) / (len(candidate) + len(references))


def test_scores_of_the_words_in_one_process_and_in_order(stand_in_parser, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    runs = []
    original = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: runs.append(args[0]) or original(*args, **kwargs))
    scores = spice(pretokenized(*zip(*ROWS, strict=True)))
    np.testing.assert_allclose(scores.per_caption["spice"], [f_score(*row) for row in ROWS], atol=1e-12)
    assert scores.corpus["spice"] == pytest.approx(np.mean([f_score(*row) for row in ROWS]))
    assert len([run for run in runs if "-version" not in run]) == 1


def test_spider_is_the_mean_of_its_parts(stand_in_parser):
    scores = score(pretokenized(*zip(*ROWS, strict=True)), metrics=["spider", "spice", "cider_d"])
    parts = scores.per_caption
    assert list(scores.corpus) == ["spider", "spice", "cider_d"]
    np.testing.assert_allclose(parts["spider"], (parts["spice"] + parts["cider_d"]) / 2)
    assert scores.corpus["spider"] == pytest.approx(np.mean(parts["spider"]))
    assert np.ptp(parts["spice"]) > 0 < np.ptp(parts["cider_d"])


def test_a_caption_that_cannot_be_parsed_is_no_zero(stand_in_parser):
    with pytest.raises(MetricToolError, match="cannot parse an unparsable one"):
        spice(pretokenized(["a dog", "an unparsable one"], [["a dog"], ["a dog"]]))


def test_too_long_a_caption(stand_in_parser):
    scores = spice(pretokenized([" ".join(["dog"] * 301)], [["a dog"]]))
    assert scores.notes == ("row 1, candidate: spice took the first 300 of its 301 words",)
    with pytest.raises(InputError, match="row 1, reference 1: has 301 words"):
        spice(pretokenized(["a dog"], [[" ".join(["dog"] * 301)]]))


@pytest.mark.parametrize("metrics", [["spice"], ["spider"], ["rouge_l", "spider"]])
def test_without_corenlp_nothing_is_scored(ptb, empty_folder, metrics, monkeypatch):
    if any((pycocoevalcap_folder("test") / "spice" / "lib" / jar).is_file() for jar in CORENLP_JARS):
        pytest.skip("pycocoevalcap has fetched CoreNLP by itself")
    monkeypatch.setattr("diffusion_link_hf.metrics.captions.ptb_tokenize", lambda texts: pytest.fail("work was done"))
    with pytest.raises(MetricDependencyError, match=r"Stanford CoreNLP.*Run once: diffusion-link score --fetch spice"):
        score(Captions(["a", "b"], [["a"], ["b"]]), metrics=metrics)


@pytest.mark.parametrize(
    ("version", "message"),
    [("1.8.0_101", "needs Java 11 or newer, and this is 8"), ("garbage", "java -version` printed")],
)
def test_other_versions_of_java(ptb, stand_in_java, empty_folder, version, message):
    stand_in_java(f"""echo 'openjdk version "{version}" 2016' >&2""")
    with pytest.raises((MetricDependencyError, MetricToolError), match=message):
        spice(pretokenized(["a"], [["a"]]))


@pytest.mark.parametrize(
    ("version", "number"), [("1.8.0_392", 8), ("11.0.2", 11), ("17.0.15", 17), ("21", 21), ("22-ea", 22)]
)
def test_versions_are_read(stand_in_java, version, number):
    stand_in_java(f"""echo 'openjdk version "{version}" 2016' >&2""")
    assert module.java_version() == number


def test_a_runtime_without_a_compiler(ptb, stand_in_java, empty_folder, monkeypatch, tmp_path):
    stand_in_java("""echo 'openjdk version "17.0.1" 2021' >&2""")
    (tmp_path / "java_home" / "bin" / "javac").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "java_home" / "bin"))
    with pytest.raises(MetricDependencyError, match="needs a JDK"):
        spice(pretokenized(["a"], [["a"]]))


def test_an_archive_is_unpacked_where_it_is_found(ptb, empty_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "corenlp.zip", "w") as file:
        for jar in CORENLP_JARS:
            file.writestr(f"stanford-corenlp-full-2015-12-09/{jar}", jar)
        file.writestr("stanford-corenlp-full-2015-12-09/README.txt", "")
    assert fetch_spice(tmp_path / "corenlp.zip") == empty_folder / "corenlp" == module.corenlp_folder()
    assert {path.name: path.read_text() for path in (empty_folder / "corenlp").iterdir()} == {
        jar: jar for jar in CORENLP_JARS
    }


def test_archives_that_are_none(empty_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "")
    (tmp_path / "no.zip").write_bytes(b"no archive")
    for name in ("other.zip", "no.zip", "missing.zip"):
        with pytest.raises(MetricDependencyError, match="does not hold stanford-corenlp"):
            fetch_spice(tmp_path / name)
    assert list((empty_folder / "corenlp").iterdir()) == []
