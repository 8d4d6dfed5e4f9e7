"""What all benchmarks share: rows, interleaved timing, the check that both sides agree, the data, the machine."""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SOUNDS = REPOSITORY / "examples" / "sounds"
TINY = REPOSITORY / "hub_configs" / "tiny"
LIBRARIES = ("torch", "transformers", "diffusers", "peft", "accelerate", "numpy", "soxr", "librosa", "pycocoevalcap")
CLOCK_SECONDS = 1e-4  # a contestant that is faster than this is called several times per measurement


@dataclass(frozen=True)
class Settings:
    """How a benchmark is to be run.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch, in every row that does not name its own number.
        seconds: spent on the repeats of a row, at least three of them.
        share: of the full amount of work; below 1, only whether everything runs can be told.
    """

    device: str = "cpu"
    threads: int = 1
    seconds: float = 8.0
    share: float = 1.0

    def scaled(self, amount: int, least: int = 1) -> int:
        """``amount`` of work at this share."""
        return max(least, round(amount * self.share))


@dataclass(frozen=True)
class Row:
    """One line of the table; times are seconds for the same work.

    Attributes:
        group: the file it is from, without ".py".
        name: what is measured.
        ours: median seconds; None where it could not be measured, and ``note`` says why.
        peer: of the usual way to do the same.
        floor: of the part that no implementation can leave out.
        wanted: the demand in words, empty where there is none.
        met: whether it holds; None where nothing was demanded or measured.
        note: what peer and floor are, and what else was found.
        threads: of the measurement.
        repeats: the medians are of so many.
        more: further figures by name.
    """

    group: str
    name: str
    ours: float | None
    peer: float | None = None
    floor: float | None = None
    wanted: str = ""
    met: bool | None = None
    note: str = ""
    threads: int = 1
    repeats: int = 0
    more: Mapping[str, float] | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster than the peer."""
        return self.peer / self.ours if self.peer and self.ours else None

    @property
    def distance(self) -> float | None:
        """How many times the floor."""
        return self.ours / self.floor if self.floor and self.ours else None

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "distance": self.distance}


class DisagreementError(RuntimeError):
    """The two sides of a benchmark computed different things, so that their times say nothing."""


def needs_gpu(group: str, name: str, wanted: str = "") -> Row:
    """The row of a measurement that this machine cannot make."""
    return Row(group, name, None, wanted=wanted, note="needs a GPU")


def interleave(contestants: Mapping[str, Callable[[], Any]], settings: Settings) -> tuple[dict[str, float], int]:
    """Median seconds by name, and the number of repeats.

    All are called once to warm up (caches, allocator, lazy imports); then they take turns, so that whatever else the
    machine does meets them alike.
    """
    calls = {}
    for name, work in contestants.items():
        cold = _seconds(work, 1, settings)
        warm = cold if cold > 1 else _seconds(work, 1, settings)
        calls[name] = max(1, round(CLOCK_SECONDS / max(warm, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    begun, repeats = time.perf_counter(), 0
    while repeats < 3 or (time.perf_counter() - begun < settings.seconds and repeats < 101):
        for name, work in contestants.items():
            times[name].append(_seconds(work, calls[name], settings))
        repeats += 1
    return {name: statistics.median(values) for name, values in times.items()}, repeats


def _seconds(work: Callable[[], Any], calls: int, settings: Settings) -> float:
    _wait(settings)
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    _wait(settings)
    return (time.perf_counter() - begun) / calls


def _wait(settings: Settings) -> None:
    if settings.device == "cuda":
        torch.cuda.synchronize()


def agree(what: str, ours: Any, peer: Any, tolerance: float) -> float:
    """The largest absolute difference of two tensors or arrays.

    Raises:
        DisagreementError: another shape, or a difference beyond ``tolerance``.
    """
    ours, peer = (
        np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, np.float64) for value in (ours, peer)
    )
    if ours.shape != peer.shape:
        raise DisagreementError(f"{what}: shape {ours.shape} against {peer.shape}")
    difference = float(np.abs(ours - peer).max())
    if not difference <= tolerance:
        raise DisagreementError(f"{what}: they differ by {difference:.3g}, more than {tolerance:g}")
    return difference


def recordings(count: int) -> tuple[list[Path], str]:
    """``count`` audio files and what they are: ESC-10 where it is at hand, the sample sounds of this repository else.

    Where ESC-10 is, says DIFFUSION_LINK_TEST_DATA, as for the tests. Fewer files than asked for are repeated.
    """
    folder = Path(os.environ.get("DIFFUSION_LINK_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "esc10"
    found = sorted(folder.glob("*/*.ogg"))
    kind = "recordings of ESC-10"
    if not found:
        found, kind = sorted(SOUNDS.glob("*.ogg")), "synthesized sample sounds"
    step = max(1, len(found) // count)
    chosen = found[::step]
    return [chosen[k % len(chosen)] for k in range(count)], kind


def machine(settings: Settings) -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions, date, and how busy the machine was."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "share": settings.share,
        "gpu": gpu,
        "device": settings.device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        **versions,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
