"""How time and memory grow with 1×, 10× and 100× the work: a table, and a plot in the style of the analysis."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness import Settings, interleave

FACTORS = (1, 10, 100)
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Work:
    """Something whose amount can grow.

    Attributes:
        unit: what is counted.
        least: the amount at 1×.
        make: amount → the work itself, with its input made.
    """

    unit: str
    least: int
    make: Callable[[int], Callable[[], Any]]


@dataclass(frozen=True)
class Curve:
    """Measured growth: seconds, and the peak of resident memory beyond the libraries and the input, by amount."""

    name: str
    unit: str
    amounts: list[int]
    seconds: list[float]
    megabytes: list[float]

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "growth": self.growth}

    @property
    def growth(self) -> float:
        """How many times longer the largest amount takes; linear growth would be largest / smallest amount."""
        return self.seconds[-1] / self.seconds[0]

    def text(self) -> str:
        points = "  ".join(
            f"{amount:>9,} {self.unit}: {1e3 * seconds:10.2f} ms {megabytes:6.0f} MB"
            for amount, seconds, megabytes in zip(self.amounts, self.seconds, self.megabytes, strict=True)
        )
        return f"{self.name:18} {points}"


def _log_mel(clips: int) -> Callable[[], Any]:
    from diffusion_link_hf import ClapLogMel

    front_end, waveform = ClapLogMel(), torch.randn(1, 480_000) * 0.1
    # The same ten clips again and again: what grows is the work, not the input.
    batches = [waveform.expand(min(10, clips - first), -1) for first in range(0, clips, 10)]
    return lambda: [front_end(batch) for batch in batches]


def _bridging(rows: int) -> Callable[[], Any]:
    from bridging import make_link

    link, embeds = make_link(), torch.nn.functional.normalize(torch.randn(rows, 512), dim=-1)
    return lambda: link.bridge(embeds, "audio")


def _memory(rows: int) -> Callable[[], Any]:
    from memory import make_projection, make_queries

    projection = make_projection(rows)
    queries = make_queries(projection.memory, 16)
    return lambda: projection.bridge(queries, "audio")


def _training(steps: int) -> Callable[[], Any]:
    import tempfile

    from link_training import make_pairs, ours

    pairs = make_pairs(1024)

    def work():
        with tempfile.TemporaryDirectory() as folder:
            ours(pairs, steps, folder)

    return work


WORKS = {
    "log-mel": Work("clips", 1, _log_mel),
    "bridging": Work("rows", 41, _bridging),
    "memory projection": Work("memory rows", 4500, _memory),
    "link training": Work("steps", 4, _training),
}


def curves(settings: Settings) -> list[Curve]:
    """Each work at each amount, in a process of its own, so that its peak of memory is its own too."""
    if settings.device == "cuda":
        return []
    found = []
    for name, work in WORKS.items():
        amounts = [settings.scaled(work.least * factor) for factor in FACTORS]
        points = [_in_a_process(name, amount, settings) for amount in amounts]
        found.append(Curve(name, work.unit, amounts, [point[0] for point in points], [point[1] for point in points]))
    return found


def _in_a_process(name: str, amount: int, settings: Settings) -> tuple[float, float]:
    command = [
        sys.executable,
        str(HERE / "scaling.py"),
        name,
        str(amount),
        str(settings.threads),
        str(settings.seconds),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, megabytes = done.stdout.splitlines()[-1].split()
    return float(seconds), float(megabytes)


def measure(name: str, amount: int, threads: int, seconds: float) -> tuple[float, float]:
    """Median seconds of a work, and megabytes at its peak beyond what was resident before its first call."""
    torch.set_num_threads(threads)
    work = WORKS[name].make(amount)
    WORKS[name].make(WORKS[name].least)()  # the libraries' own buffers
    before = _peak()
    work()
    grown = _peak() - before
    times, _ = interleave({name: work}, Settings(threads=threads, seconds=seconds / len(FACTORS)))
    return times[name], grown


def _peak() -> float:
    """Megabytes of this process at its peak so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def draw(path: Path, found: list[Curve]) -> None:
    """Time by amount of work, both relative to the smallest, beside the line of linear growth."""
    import matplotlib
    from matplotlib.figure import Figure

    from diffusion_link_hf.reports.figures import INK, LINES, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.loglog(FACTORS, FACTORS, color=INK, linestyle=":", label="linear")
        for curve, color, marker in zip(found, LINES, "os^vDPX", strict=False):
            work = [amount / curve.amounts[0] for amount in curve.amounts]
            time = [seconds / curve.seconds[0] for seconds in curve.seconds]
            label = f"{curve.name} ({curve.amounts[0]:,} to {curve.amounts[-1]:,} {curve.unit})"
            axes.loglog(work, time, color=color, marker=marker, markersize=5, label=label)
        axes.set_xlabel("times the work")
        axes.set_ylabel("times the seconds")
        axes.legend(fontsize=8)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    print(*measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
