"""SPICE (Anderson et al., 2016): F-score of scene-graph tuples, one process for all captions."""

import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

from .captions import Captions, CaptionScores, check_longest
from .downloads import download, metrics_folder
from .errors import MetricDependencyError, MetricToolError
from .java import INSTALL_METRICS, REPORT, java_executable, pycocoevalcap_file, pycocoevalcap_folder, run_java

FETCH_COMMAND = "diffusion-link score --fetch spice"
CORENLP_URL = "https://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
PROGRAM = Path(__file__).with_name("SpiceRun.java")
MEMORY = "8G"  # for the models of the parser; SPICE's own recommendation
MAX_WORDS = 300  # the parser's time and memory grow with the cube of the length
START_SECONDS, SECONDS_PER_CAPTION = 900.0, 2.0
# The parser's models are Java objects saved by an older Java; Java 16 and later ask for leave to read them.
OPEN_PACKAGES = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.lang", "java.util", "java.io", "java.math")
]


def fetch_spice(archive: str | os.PathLike | None = None) -> Path:
    """Installs Stanford CoreNLP 3.6.0 (its program and models, about 0.5 GB) where `spice` finds it.

    Args:
        archive: a copy of stanford-corenlp-full-2015-12-09.zip; None fetches it.

    Returns:
        The folder that now holds both jars.

    Raises:
        MetricDependencyError: the archive cannot be fetched, is none, or lacks a jar.
    """
    folder = metrics_folder() / "corenlp"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        if archive is None:
            archive = Path(temporary) / "corenlp.zip"
            download("spice", CORENLP_URL, archive)
        try:
            with zipfile.ZipFile(archive) as file:
                members = {Path(name).name: name for name in file.namelist()}
                for jar in CORENLP_JARS:
                    extracted = file.extract(members[jar], temporary)
                    os.replace(extracted, folder / jar)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise MetricDependencyError(
                "spice",
                f"{archive} does not hold {' and '.join(CORENLP_JARS)} ({error})",
                f"Download it from {CORENLP_URL}",
            ) from error
    return folder


def check_spice() -> None:
    """Raises MetricDependencyError where a JDK, pycocoevalcap or CoreNLP is missing."""
    java_executable("spice")
    if java_version() < 11:
        raise MetricDependencyError(
            "spice", f"needs Java 11 or newer, and this is {java_version()}", "Install a newer JDK"
        )
    try:
        java_executable("spice", "javac")
    except MetricDependencyError as error:
        raise MetricDependencyError(
            "spice", "needs a JDK, and this Java has no compiler", "Install one, such as openjdk-17-jdk-headless"
        ) from error
    pycocoevalcap_file("spice", "spice", "spice-1.0.jar")
    corenlp_folder()


def java_version() -> int:
    """Major version of the Java found; "1.8" counts as 8."""
    output = subprocess.run([java_executable("spice"), "-version"], capture_output=True, check=False).stderr.decode()
    parts = output.partition('"')[2].partition('"')[0].replace("-", ".").split(".")
    number = parts[1] if parts[0] == "1" and len(parts) > 1 else parts[0]
    if not number.isdigit():
        raise MetricToolError(
            "spice", f"`java -version` printed {output.strip()[:200]!r}", "Check the Java installation"
        )
    return int(number)


def corenlp_folder() -> Path:
    """Folder with the jars of CoreNLP 3.6.0: ours, or the one that pycocoevalcap fills itself.

    Raises:
        MetricDependencyError: neither holds both.
    """
    folders = [metrics_folder() / "corenlp", pycocoevalcap_folder("spice") / "spice" / "lib"]
    for folder in folders:
        if all((folder / jar).is_file() for jar in CORENLP_JARS):
            return folder
    raise MetricDependencyError(
        "spice",
        f"needs Stanford CoreNLP 3.6.0 (about 0.5 GB), and {' and '.join(CORENLP_JARS)} are not in {folders[0]}",
        f"Run once: {FETCH_COMMAND}",
    )


def spice(captions: Captions) -> CaptionScores:
    """SPICE in [0, 1] for English: the mean over the captions, by the program that pycocoevalcap runs.

    A candidate without words, or without any object that the parser finds, scores 0.

    Raises:
        InputError: a caption of more than 300 words, which the parser cannot take.
        MetricDependencyError: no JDK 11 or newer, no pycocoevalcap, or no CoreNLP.
        MetricToolError: the program failed or did not end in time.
    """
    check_spice()
    check_longest(captions, "spice", MAX_WORDS)
    return CaptionScores.mean_of("spice", _run(captions, spice_class_path()))


def spice_class_path() -> list[str]:
    """SPICE, its libraries and CoreNLP."""
    folder = pycocoevalcap_folder("spice") / "spice"
    jars = [str(corenlp_folder() / jar) for jar in CORENLP_JARS]
    return [str(folder / "spice-1.0.jar"), *jars, str(folder / "lib" / "*")]


def _run(captions: Captions, class_path: list[str]) -> list[float]:
    tokens = captions.tokens
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary) / "captions.txt", Path(temporary) / "scores.txt"
        rows = zip(tokens.candidates, tokens.references, strict=True)
        lines = [line for candidate, references in rows for line in (str(len(references)), candidate, *references)]
        source.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
        threads = str(os.cpu_count() or 1)
        run_java(
            "spice",
            [
                *(f"-Xmx{MEMORY}", *OPEN_PACKAGES, "-cp", os.pathsep.join(class_path)),
                *(str(PROGRAM), str(source), str(target), threads),
            ],
            "",
            timeout=START_SECONDS + SECONDS_PER_CAPTION * len(lines),
        )
        scores = [float(line) for line in target.read_text(encoding="utf-8").split()] if target.is_file() else []
    if len(scores) != len(captions):
        raise MetricToolError(
            "spice", f"gave {len(scores)} scores for {len(captions)} captions", f"{REPORT} ({INSTALL_METRICS})"
        )
    return scores
