"""Where Java and the jars of pycocoevalcap are, and how a tool of theirs is run once for all captions."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import MetricDependencyError, MetricToolError

INSTALL_METRICS = 'pip install "diffusion-link-hf[metrics]"'
# Java before 18 reads and writes in the locale's encoding, which under LC_ALL=C turns every other letter into "?".
JAVA_OPTIONS = ("-Dfile.encoding=UTF-8", "-Djava.awt.headless=true")


def java_executable(metric: str, program: str = "java") -> str:
    """Path of ``program`` in $JAVA_HOME/bin, or else on the PATH.

    Raises:
        MetricDependencyError: it is in neither.
    """
    home = os.environ.get("JAVA_HOME")
    found = (shutil.which(program, path=str(Path(home) / "bin")) if home else None) or shutil.which(program)
    if found is None:
        raise MetricDependencyError(
            metric,
            f"needs Java, and there is no {program!r} on the PATH or in JAVA_HOME",
            "Install a Java runtime, version 8 or newer, such as OpenJDK 17",
        )
    return found


def pycocoevalcap_folder(metric: str) -> Path:
    """Folder of the installed package pycocoevalcap, which carries the jars. It is not imported.

    Raises:
        MetricDependencyError: it is not installed.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise MetricDependencyError(
            metric, "needs the package pycocoevalcap, which is not installed", f"Run: {INSTALL_METRICS}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def pycocoevalcap_file(metric: str, *parts: str) -> Path:
    """A file of pycocoevalcap.

    Raises:
        MetricDependencyError: the package is not installed, or lacks the file.
    """
    path = pycocoevalcap_folder(metric).joinpath(*parts)
    if not path.is_file():
        raise MetricDependencyError(
            metric,
            f"finds no {'/'.join(parts)} in pycocoevalcap",
            f"Install it again: {INSTALL_METRICS}",
        )
    return path


def run_java(metric: str, arguments: Sequence[str], text: str, timeout: float) -> str:
    """One run of ``java`` with ``text`` as its input, UTF-8 both ways; returns its output.

    Args:
        timeout: seconds.

    Raises:
        MetricDependencyError: there is no Java.
        MetricToolError: it failed or did not end in time.
    """
    command = [java_executable(metric), *JAVA_OPTIONS, *arguments]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise MetricToolError(metric, f"did not end within {timeout:.0f} s", "Score fewer captions") from error
    except OSError as error:
        raise MetricToolError(metric, f"Java could not be started ({error})", "Check the Java installation") from error
    if done.returncode != 0:
        raise MetricToolError(metric, f"ended with status {done.returncode}: {last_lines(done.stderr)}", REPORT)
    return done.stdout.decode("utf-8", errors="replace")


REPORT = "Check that Java runs and has memory; if it does, report this with the captions"


def last_lines(stderr: bytes, count: int = 6) -> str:
    """The end of what a process wrote to its error stream, on one line."""
    lines = [line.strip() for line in stderr.decode("utf-8", errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "no message"
