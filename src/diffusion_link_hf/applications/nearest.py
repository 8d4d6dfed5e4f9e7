"""The most similar rows of a matrix: exactly, block by block, or by a flat faiss index."""

import numpy as np
import torch

from ..errors import InputError

BACKENDS = ("exact", "faiss")
BLOCK_ROWS = 65_536


class Nearest:
    """Finds rows by cosine.

    Args:
        rows: (N, D) float32 unit rows on the CPU.
        backend: "exact" multiplies with all rows, `BLOCK_ROWS` of them at a time; "faiss" does so in a
            `faiss.IndexFlatIP`, which holds the rows a second time.

    Raises:
        InputError: another backend, or faiss is not installed.

    Examples:
        >>> import torch
        >>> from diffusion_link_hf.applications.nearest import Nearest
        >>> scores, numbers = Nearest(torch.eye(4)).search(torch.tensor([0.6, 0.0, 0.8, 0.0]), 2)
        >>> numbers.tolist(), [round(score, 6) for score in scores.tolist()]
        ([2, 0], [0.8, 0.6])
    """

    def __init__(self, rows: torch.Tensor, backend: str = "exact"):
        if backend not in BACKENDS:
            raise InputError("backend", f"is {backend!r}", f"Use one of {', '.join(BACKENDS)}")
        self.rows = rows
        self._flat = _flat_index(rows) if backend == "faiss" else None

    def search(self, query: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The ``count`` most similar rows, or all if there are fewer.

        Args:
            query: (D,) float32 unit row.
            count: at least 1.

        Returns:
            (K,) float64 cosines, best first, and (K,) int64 row numbers; equal cosines by row number. Cosines are
            computed anew in float64, so that both backends give the same ones.
        """
        count = min(count, len(self.rows))
        if not count:
            return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.long)
        # Some more than asked for: among the last ones, float32 may have the order wrong.
        numbers = self._candidates(query.float(), min(count + 16, len(self.rows))).sort().values
        scores = self.rows[numbers].double() @ query.double()
        order = scores.argsort(descending=True, stable=True)[:count]
        return scores[order], numbers[order]

    def _candidates(self, query: torch.Tensor, count: int) -> torch.Tensor:
        if self._flat is not None:
            return torch.from_numpy(self._flat.search(query[None].numpy(), count)[1][0])
        best, numbers = torch.empty(0), torch.empty(0, dtype=torch.long)
        for first in range(0, len(self.rows), BLOCK_ROWS):
            scores = torch.mv(self.rows[first : first + BLOCK_ROWS], query)
            found = scores.topk(min(count, len(scores)))
            best, numbers = torch.cat([best, found.values]), torch.cat([numbers, found.indices + first])
            best, kept = best.topk(min(count, len(best)))
            numbers = numbers[kept]
        return numbers


def _flat_index(rows: torch.Tensor):
    try:
        import faiss
    except ImportError as error:
        remedy = "Run pip install 'diffusion-link-hf[search]', or use the exact search, which finds the same"
        raise InputError("backend", "is 'faiss', which is not installed", remedy) from error
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows.numpy()))
    return index
