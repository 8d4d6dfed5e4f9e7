"""A remote file whose long reads are fetched in parts, several at a time."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

T, R = TypeVar("T"), TypeVar("R")

PART_BYTES = 2**23  # long enough that the wait for an answer is short beside it


class PartedFile(io.RawIOBase):
    """A read-only file over a function that fetches ranges of bytes.

    What is in memory is what a read returns, and as many parts as are fetched at a time.

    Args:
        fetch: (start, end) → the bytes from ``start`` to ``end``, exclusive; called from several threads.
        size: of the file.
        pool: in which it is called.
        ahead: parts that are fetched at a time.

    Examples:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> content = bytes(range(100))
        >>> with ThreadPoolExecutor(2) as pool:
        ...     file = PartedFile(lambda start, end: content[start:end], len(content), pool, ahead=2, part_bytes=8)
        ...     _ = file.seek(30)
        ...     file.read(50) == content[30:80], file.tell()
        (True, 80)
    """

    def __init__(
        self,
        fetch: Callable[[int, int], bytes],
        size: int,
        pool: Executor,
        ahead: int,
        part_bytes: int = PART_BYTES,
    ):
        super().__init__()
        self._fetch, self._size, self._pool = fetch, size, pool
        self._ahead, self._part = ahead, part_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, fewer at the end of the file; all that are left if negative.

        Raises:
            OSError: a part has another length than was asked for.
        """
        end = self._size if size is None or size < 0 else min(self._size, self._position + size)
        starts = range(self._position, end, self._part)
        spans = [(start, min(start + self._part, end)) for start in starts]
        content = b"".join(in_order(self._pool, lambda span: self._fetch_whole(*span), spans, self._ahead))
        self._position = max(self._position, end)
        return content

    def readinto(self, buffer) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _fetch_whole(self, start: int, end: int) -> bytes:
        part = self._fetch(start, end)
        if len(part) != end - start:
            raise OSError(f"of bytes {start} to {end} came {len(part)}")
        return part


def in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """``map(function, items)`` with the next ``ahead`` calls running in the pool, or done and waiting to be taken.

    Examples:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with ThreadPoolExecutor(2) as pool:
        ...     list(in_order(pool, abs, [-3, 1, -2], ahead=2))
        [3, 1, 2]
    """
    items = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(items, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
