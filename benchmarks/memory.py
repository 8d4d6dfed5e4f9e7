"""Projection onto a large text memory against NumPy's `argpartition` over the full product; time and memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from diffusion_link_hf import MemoryProjection
from harness import Row, Settings, agree, interleave, needs_gpu

ROWS, WIDTH, TOP_K, TEMPERATURE = 450_000, 512, 32, 0.01
QUERIES = (1, 64)
TOLERANCE = 1e-4  # of unit rows
WANTED = "≥ 2× NumPy, memory ≤ 1.2× the bank"

# Of a process that makes a bank and searches it, beyond one that only has the libraries, in banks.
PEAK = """
import resource, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from memory import make_projection, make_queries
projection = make_projection(20_000)
projection.bridge(make_queries(projection.memory, int(sys.argv[2])), "audio")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - projection.memory.nbytes / 1024
projection = make_projection(int(sys.argv[1]))
projection.bridge(make_queries(projection.memory, int(sys.argv[2])), "audio")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / projection.memory.nbytes)
"""


def rows(settings: Settings) -> Iterator[Row]:
    bank = settings.scaled(ROWS, 2000)
    on_gpu = settings.device == "cuda"
    projection = None
    for queries in QUERIES:
        name = f"memory projection, {ROWS:,} × {WIDTH}, {queries} queries" + (", GPU" if on_gpu else "")
        if on_gpu and not torch.cuda.is_available():
            yield needs_gpu("memory", name, WANTED)
            continue
        projection = projection or make_projection(bank).to(settings.device)
        yield _row(name, projection, queries, settings)


def make_projection(bank: int) -> MemoryProjection:
    """A memory of clustered rows, as captions are: a random direction per row beside one that 500 rows share."""
    # Made in place: through `set_memory` it would be there twice for a moment, which is not what is measured here.
    projection = MemoryProjection(WIDTH, bank, temperature=TEMPERATURE, top_k=TOP_K).eval()
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(max(bank // 500, 1), WIDTH, generator=generator)
    for part in projection.memory.split(10_000):
        part.normal_(generator=generator)
        part += 0.7 * centers[torch.randint(len(centers), (len(part),), generator=generator)]
        part /= part.norm(dim=1, keepdim=True)
    return projection


def make_queries(bank: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of the memory, moved away from it by noise of their own length. (B, D) unit rows."""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(len(bank), (count,), generator=generator)
    noise = F.normalize(torch.randn(count, bank.shape[1], generator=generator), dim=-1).to(bank.device)
    return F.normalize(bank[chosen.to(bank.device)].float() + noise, dim=-1)


def by_numpy(bank: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The softmax-weighted sum of the ``TOP_K`` most similar rows. (B, D) unit rows."""
    scores = queries @ bank.T
    best = np.argpartition(scores, -TOP_K, axis=1)[:, -TOP_K:]
    weights = np.exp((np.take_along_axis(scores, best, 1) - scores.max(1, keepdims=True)) / TEMPERATURE)
    total = (weights[:, :, None] * bank[best]).sum(1)
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def peak_memory(bank: int, queries: int, threads: int) -> float:
    """Resident memory at the peak of a search, the bank itself included, in banks."""
    command = [sys.executable, "-c", PEAK, str(bank), str(queries), str(threads)]
    folder = Path(__file__).resolve().parent
    return float(subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout)


def _row(name: str, projection: MemoryProjection, queries: int, settings: Settings) -> Row:
    asked = make_queries(projection.memory, queries)
    bank, arrays = projection.memory.cpu().numpy(), asked.cpu().numpy()

    def ours():
        return projection.bridge(asked, "audio")

    def peer():
        return by_numpy(bank, arrays)

    difference = agree(name, ours(), peer(), TOLERANCE)
    product = projection.memory.T
    times, repeats = interleave({"ours": ours, "peer": peer, "floor": lambda: asked @ product}, settings)
    on_gpu, threads = settings.device == "cuda", torch.get_num_threads()
    used = None if on_gpu else peak_memory(len(bank), queries, threads)
    met = times["peer"] >= 2 * times["ours"] and (used is None or used <= 1.2)
    memory = "" if used is None else f"; memory at the peak: {used:.2f} banks"
    note = f"floor: the full product in float32{memory}; results differ by {difference:.1e} at most"
    more = None if used is None else {"memory_in_banks": used}
    return Row("memory", name, **times, wanted=WANTED, met=met, note=note, threads=threads, repeats=repeats, more=more)
