"""Exact search for the most similar rows of a large memory: in blocks, or screened in 8 bits first."""

import warnings

import torch
from torch.nn import functional as F

BLOCK_ROWS = 4096  # rows at a time: 8 MB of float32 at D = 512, and scores that stay in the cache
PACK_ROWS = 49_152  # rows packed together, a multiple of GROUP
GROUP = 64  # neighbouring rows that share a maximum
ROUNDING = 1e-5  # of float32 products of unit rows, generously


def search_in_blocks(memory: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows with the largest inner products: their products (B, k), descending, and indices (B, k).

    Args:
        memory: (M, D) of any floating type.
        queries: (B, D); their dtype is that of the computation.
        k: 1 to M.
    """
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(memory), BLOCK_ROWS):
        scores = queries @ memory[start : start + BLOCK_ROWS].to(queries.dtype).T
        # Later blocks rarely hold a row that is better than the k found so far, and then need no selection.
        if best.shape[1] == k and not (scores.amax(1) > best[:, -1]).any():
            continue
        found, where = scores.topk(min(k, scores.shape[1]), dim=1)
        best, order = torch.cat([best, found], 1).topk(min(k, best.shape[1] + found.shape[1]), dim=1)
        index = torch.cat([index, where + start], 1).gather(1, order)
    return best, index


class ScreenedSearch:
    """The same result a few times faster on a CPU: 8-bit products first, exact ones for the rows that may matter.

    Rows and queries are rounded to 8 and 7 bits, q = q̂ + δ, m = m̂ + ρ. By Cauchy–Schwarz
    |q·m − q̂·m̂| ≤ ‖q‖·‖ρ‖ + ‖δ‖·‖m̂‖ =: slack. The k rows that seem best are computed exactly; their worst product is
    a lower bound t of the k-th best, so only rows with q̂·m̂ ≥ t − slack can belong to the result, and those are computed
    exactly too. The bound holds for any data; only the time depends on them.

    Args:
        memory: (M, D) floats on the CPU, rows of norm about one. It is not copied; an index belongs to these values.
    """

    def __init__(self, memory: torch.Tensor):
        self.memory = memory
        self._version = memory._version
        self._packs = []
        residual, length = [], []
        for start in range(0, len(memory), PACK_ROWS):
            rows = memory[start : start + PACK_ROWS].float()
            pack, rounded = _pack(rows)
            self._packs.append(pack)
            residual.append((rows - rounded).norm(dim=1).max())
            length.append(rounded.norm(dim=1).max())
        self._residual, self._length = torch.stack(residual).max(), torch.stack(length).max()
        self._identity, _ = _pack(torch.eye(memory.shape[1]))

    @staticmethod
    def is_available(memory: torch.Tensor, queries: torch.Tensor) -> bool:
        """Whether this machine has the 8-bit kernels, and the memory is one for which they pay."""
        return (
            memory.device.type == "cpu"
            and queries.dtype == torch.float32
            and len(queries) > 0
            and len(memory) > 4 * BLOCK_ROWS
            and torch.backends.quantized.engine in ("x86", "fbgemm")
        )

    def is_of(self, memory: torch.Tensor) -> bool:
        """Whether this is the index of ``memory`` as it is now."""
        return self.memory is memory and self._version == memory._version

    def __deepcopy__(self, memo):
        """None: the packed rows cannot be copied, and a copied memory builds its own index."""

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `search_in_blocks`, for float32 ``queries``."""
        if k > len(self.memory) // GROUP:  # fewer groups than results: no room to screen
            return search_in_blocks(self.memory, queries, k)
        batch = len(queries)
        # The kernel rounds the queries itself; against the identity it shows what it made of them.
        delta = (queries - _multiply(queries, self._identity)).norm(dim=1)
        slack = queries.norm(dim=1) * (self._residual + ROUNDING) + delta * self._length
        screened = [_multiply(queries, pack) for pack in self._packs]
        short = -screened[-1].shape[1] % GROUP
        screened[-1] = F.pad(screened[-1], (0, short), value=-torch.inf)
        screened = [scores.view(batch, -1, GROUP) for scores in screened]
        peaks = [scores.amax(2) for scores in screened]  # (B, groups) each
        sizes = [peak.shape[1] for peak in peaks]
        # The best row of each of the k best groups: k different rows.
        groups = torch.cat(peaks, 1).topk(k, dim=1).indices
        seeds = _first_best(screened, sizes, torch.arange(batch).repeat_interleave(k), groups.flatten()).view(batch, k)
        bound = torch.stack([self._products(q, rows).amin() for q, rows in zip(queries, seeds, strict=True)]) - slack
        who, where = _at_least(screened, peaks, sizes, bound)
        best, index = queries.new_empty(batch, k), torch.empty(batch, k, dtype=torch.long)
        for b, query in enumerate(queries):
            rows = where[who == b]
            best[b], order = self._products(query, rows).topk(k)
            index[b] = rows[order]
        return best, index

    def _products(self, query: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(P,) exact products of a query (D,) and the rows (P,), a block of them at a time."""
        return torch.cat([self.memory[part].float() @ query for part in rows.split(BLOCK_ROWS)])


def _pack(rows: torch.Tensor):
    """Rows (M, D) for the 8-bit kernel, each with its own scale; also their rounded values (M, D)."""
    scales = rows.abs().amax(1).clamp(min=1e-12).double() / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another way of quantising models; the kernel is the same
        rounded = torch.quantize_per_channel(rows, scales, torch.zeros(len(rows), dtype=torch.long), 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, None), rounded.dequantize()


def _multiply(queries: torch.Tensor, pack) -> torch.Tensor:
    """q̂·m̂ (B, M). Seven bits for the queries: with eight, sums of two products could overflow 16 bits."""
    return torch.ops.quantized.linear_dynamic(queries, pack, reduce_range=True)


def _first_best(screened, sizes, who, groups) -> torch.Tensor:
    """Index in the memory of the best row of each (query, group), (P,)."""
    result, start = torch.empty_like(groups), 0
    for scores, size in zip(screened, sizes, strict=True):
        here = (groups >= start) & (groups < start + size)
        result[here] = groups[here] * GROUP + scores[who[here], groups[here] - start].argmax(1)
        start += size
    return result


def _at_least(screened, peaks, sizes, bound) -> tuple[torch.Tensor, torch.Tensor]:
    """(P,) queries and (P,) rows of all screened scores that reach the query's bound (B,)."""
    who, where, start = [], [], 0
    for scores, peak, size in zip(screened, peaks, sizes, strict=True):
        query, group = (peak >= bound[:, None]).nonzero(as_tuple=True)
        pair, offset = (scores[query, group] >= bound[query, None]).nonzero(as_tuple=True)
        who.append(query[pair])
        where.append((group[pair] + start) * GROUP + offset)
        start += size
    return torch.cat(who), torch.cat(where)
