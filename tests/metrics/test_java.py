"""Where Java and the jars are looked for."""

import pytest

from diffusion_link_hf.metrics import MetricDependencyError, MetricToolError
from diffusion_link_hf.metrics.java import java_executable, last_lines, pycocoevalcap_file, run_java


def test_java_home_goes_before_the_path(stand_in_java, tmp_path):
    stand_in_java("exit 0")
    assert java_executable("m") == str(tmp_path / "java_home" / "bin" / "java")


def test_a_jar_that_is_missing(ptb):
    assert pycocoevalcap_file("m", "meteor", "meteor-1.5.jar").is_file()
    with pytest.raises(MetricDependencyError, match=r"finds no meteor/meteor-9\.jar in pycocoevalcap"):
        pycocoevalcap_file("m", "meteor", "meteor-9.jar")


def test_text_goes_in_and_out_as_utf8(stand_in_java, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    stand_in_java('cat; echo "$@"')
    assert run_java("m", ["-x", "é"], "狗\n", timeout=10) == "狗\n-Dfile.encoding=UTF-8 -Djava.awt.headless=true -x é\n"


def test_a_java_that_cannot_be_started(stand_in_java, tmp_path):
    stand_in_java("exit 0")
    (tmp_path / "java_home" / "bin" / "java").write_bytes(b"\x7fELF no program")
    with pytest.raises(MetricToolError, match="could not be started"):
        run_java("m", [], "", timeout=10)


def test_the_end_of_an_error_stream():
    assert last_lines(b"a\n\nb \xff\n", 2) == "a / b \ufffd"
    assert last_lines(b"\n") == "no message"
