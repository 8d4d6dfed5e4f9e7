"""A query in an index of 100,000 windows: exact and with faiss, the best window of each recording and all windows.

    python benchmarks/sound_search.py

Rows are random unit vectors of 512 dimensions, in recordings of ten windows. Both backends must find the same.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from diffusion_link_hf import SoundIndex
from diffusion_link_hf.applications.index_files import Manifest, write_manifest
from diffusion_link_hf.applications.index_writer import IndexWriter

WIDTH, WINDOWS_EACH, QUERIES, TOP = 512, 10, 50, 10


def make_index(folder: Path, windows: int) -> SoundIndex:
    """An index on the disk, as `index_sounds` writes it."""
    generator = torch.Generator().manual_seed(0)
    manifest = Manifest("benchmark", WIDTH, 10.0)
    writer = IndexWriter(folder, manifest, part_seconds=float("inf"))
    starts = 10.0 * torch.arange(WINDOWS_EACH, dtype=torch.float64)
    for k in range(windows // WINDOWS_EACH):
        writer.begin(f"{k:06d}.wav", "")
        writer.add(F.normalize(torch.randn(WINDOWS_EACH, WIDTH, generator=generator), dim=1), starts, starts + 10)
        writer.end()
    writer.flush()
    manifest.unfinished = False
    write_manifest(folder, manifest)
    return SoundIndex(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    queries = F.normalize(torch.randn(QUERIES, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1)
    with tempfile.TemporaryDirectory() as folder:
        make_index(Path(folder), args.windows)
        begun = time.perf_counter()
        index = SoundIndex(folder)
        index.windows()
        print(f"{len(index):,} windows, {args.threads} threads; read in {time.perf_counter() - begun:.2f} s")
        found = {}
        for backend in ("exact", "faiss"):
            try:
                if backend == "faiss":
                    import faiss

                    faiss.omp_set_num_threads(args.threads)
                nearest = index._searcher(None, backend)
            except ImportError:
                print("faiss: not installed")
                continue
            for all_windows in (False, True):
                times = []
                for k, query in enumerate(queries):
                    begun = time.perf_counter()
                    matches = index._matches(nearest, query, TOP, all_windows)
                    times.append(1000 * (time.perf_counter() - begun))
                    assert found.setdefault((all_windows, k), matches) == matches, "the backends disagree"
                what = "all windows" if all_windows else "best of each recording"
                print(f"{backend}, {what}: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")


if __name__ == "__main__":
    main()
