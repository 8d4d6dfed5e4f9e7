"""Exact search for the most similar rows of a large memory: in blocks, or most of them screened in 8 bits first."""

import warnings

import torch

BLOCK_ROWS = 4096  # rows at a time: 8 MB of float32 at D = 512, and scores that stay in the cache
PACK_ROWS = 8192  # rows packed together
INDEX_SHARE = 0.18  # of the memory's size, at most, for its packed rows
MANY = 2  # candidates for each place among the best before a tighter bound is worth a selection
ROUNDING = 1e-5  # of float32 products of unit rows, generously


def search_in_blocks(memory: torch.Tensor, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k rows with the largest inner products: their products (B, k), descending, and indices (B, k).

    Args:
        memory: (M, D) of any floating type.
        queries: (B, D); their dtype is that of the computation.
        k: 1 to M.
    """
    found = _Best(queries, k)
    found.look_through(memory, 0, len(memory))
    return found.products, found.index


class ScreenedSearch:
    """The same result a few times faster on a CPU: 8-bit products first, exact ones for the rows that may matter.

    Rows and queries are rounded to 8 and 7 bits, q = q̂ + δ, m = m̂ + ρ. By Cauchy–Schwarz
    |q·m − q̂·m̂| ≤ ‖q‖·‖ρ‖ + ‖δ‖·‖m̂‖ =: slack. With t the k-th best product found so far, only rows with
    q̂·m̂ ≥ t − slack can belong to the result, and those are computed exactly. The bound holds for any data; only the
    time depends on them. So that the index takes no more than ``INDEX_SHARE`` of the memory, one stretch of rows is
    computed exactly before each packed one; being spread over the memory, they also make t a tight bound early on.

    Args:
        memory: (M, D) floats on the CPU, rows of norm about one. It is not copied; an index belongs to these values.
    """

    def __init__(self, memory: torch.Tensor):
        self.memory = memory
        self._version = memory._version
        share = min(INDEX_SHARE * memory.element_size(), 0.75)  # of the rows
        self._exact_rows = round(PACK_ROWS * (1 / share - 1))
        self._packs = []  # (first row, packed rows, bound of ‖ρ‖, bound of ‖m̂‖)
        for start in range(self._exact_rows, len(memory), self._exact_rows + PACK_ROWS):
            rows = memory[start : start + PACK_ROWS].float()
            pack, rounded = _pack(rows)
            self._packs.append((start, pack, (rows - rounded).norm(dim=1).max(), rounded.norm(dim=1).max()))
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
        if k > min(self._exact_rows, len(self.memory)):  # nothing could be screened before the first packed rows
            return search_in_blocks(self.memory, queries, k)
        # The kernel rounds the queries itself; against the identity it shows what it made of them.
        delta = (queries - _multiply(queries, self._identity)).norm(dim=1)
        length = queries.norm(dim=1)
        found = _Best(queries, k)
        done = 0
        for start, pack, residual, longest in self._packs:
            found.look_through(self.memory, done, start)
            screened = _multiply(queries, pack)
            slack = length * (residual + ROUNDING) + delta * longest
            who, where = self._candidates(screened, found, slack)
            if len(who) > MANY * k * len(queries):  # a loose bound, as of a first pack: tighten it by what seems best
                best = screened.topk(min(k, screened.shape[1]), dim=1).indices
                who = torch.arange(len(queries)).repeat_interleave(best.shape[1])
                self._take(found, who, best.flatten(), start)
                screened.scatter_(1, best, -torch.inf)
                who, where = self._candidates(screened, found, slack)
            self._take(found, who, where, start)
            done = start + screened.shape[1]
        found.look_through(self.memory, done, len(self.memory))
        return found.products, found.index

    @staticmethod
    def _candidates(screened: torch.Tensor, found: "_Best", slack: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(P,) queries and (P,) rows of all screened products (B, M) that may reach the query's k-th best."""
        return (screened >= (found.products[:, -1] - slack)[:, None]).nonzero(as_tuple=True)

    def _take(self, found: "_Best", who: torch.Tensor, where: torch.Tensor, start: int) -> None:
        found.take(who, where + start, self._products(found.queries[who], where + start))

    def _products(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(P,) exact products of P queries (P, D) with a row (P,) each, a block of them at a time."""
        parts = zip(queries.split(BLOCK_ROWS), rows.split(BLOCK_ROWS), strict=True)
        return torch.cat([torch.linalg.vecdot(query, self.memory[row].float()) for query, row in parts])


class _Best:
    """The k best rows that each query has met so far: ``products`` (B, k), descending, and ``index`` (B, k)."""

    def __init__(self, queries: torch.Tensor, k: int):
        self.queries, self.k = queries, k
        self.products = queries.new_empty(len(queries), 0)
        self.index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)

    def look_through(self, memory: torch.Tensor, first: int, last: int) -> None:
        """Takes the rows ``first`` to ``last``, exclusive, a block at a time."""
        for start in range(first, last, BLOCK_ROWS):
            scores = self.queries @ memory[start : min(start + BLOCK_ROWS, last)].to(self.queries.dtype).T
            if self.products.shape[1] < self.k:
                index = torch.arange(start, start + scores.shape[1], device=scores.device).expand_as(scores)
                self._merge(scores, index)
            else:  # later blocks hold few rows that are better than the k found so far
                who, where = (scores > self.products[:, -1:]).nonzero(as_tuple=True)
                self.take(who, where + start, scores[who, where])

    def take(self, who: torch.Tensor, where: torch.Tensor, products: torch.Tensor) -> None:
        """Takes P single rows: queries (P,) in ascending order, rows (P,) and their products (P,)."""
        if not len(who):
            return
        counts = who.bincount(minlength=len(self.queries))
        place = torch.arange(len(who), device=who.device) - (counts.cumsum(0) - counts)[who]
        shape = len(self.queries), int(counts.max())
        scores, index = products.new_full(shape, -torch.inf), where.new_zeros(shape)
        scores[who, place], index[who, place] = products, where
        self._merge(scores, index)

    def _merge(self, scores: torch.Tensor, index: torch.Tensor) -> None:
        """Takes the rows ``index`` (B, P) with the products ``scores`` (B, P)."""
        scores, index = torch.cat([self.products, scores], 1), torch.cat([self.index, index], 1)
        self.products, order = scores.topk(min(self.k, scores.shape[1]), dim=1)
        self.index = index.gather(1, order)


def _pack(rows: torch.Tensor):
    """Rows (M, D) for the 8-bit kernel, each with its own scale; also their rounded values (M, D)."""
    scales = rows.abs().amax(1).clamp(min=1e-12).double() / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another way of quantizing models; the kernel is the same
        rounded = torch.quantize_per_channel(rows, scales, torch.zeros(len(rows), dtype=torch.long), 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rounded, None), rounded.dequantize()


def _multiply(queries: torch.Tensor, pack) -> torch.Tensor:
    """q̂·m̂ (B, M). Seven bits for the queries: with eight, sums of two products could overflow 16 bits."""
    return torch.ops.quantized.linear_dynamic(queries, pack, reduce_range=True)
