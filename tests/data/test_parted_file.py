"""Reads in parts: the same bytes as of the whole, a bounded number at a time, errors in their place."""

import io
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffusion_link_hf.data.parted_file import PartedFile, in_order


def test_it_reads_as_a_file_does():
    """Any order of seeks and reads, past the end too."""
    content, draw = random.Random(0).randbytes(1000), random.Random(1)
    plain = io.BytesIO(content)
    with (
        ThreadPoolExecutor(3) as pool,
        PartedFile(lambda start, end: content[start:end], len(content), pool, ahead=3, part_bytes=64) as parted,
    ):
        assert parted.size() == 1000
        for _ in range(200):
            place = draw.choice([(draw.randrange(1100), 0), (draw.randrange(-300, 0), 2), (draw.randrange(50), 1)])
            assert parted.seek(*place) == plain.seek(*place)
            size = draw.choice([-1, 0, 1, 63, 64, 65, 300, 2000])
            assert parted.read(size) == plain.read(size)
            assert parted.tell() == plain.tell()
        assert io.BufferedReader(parted).raw is parted


def test_a_part_that_comes_short_is_an_error():
    with ThreadPoolExecutor(2) as pool:
        file = PartedFile(lambda start, end: bytes(end - start - (start == 20)), 100, pool, ahead=2, part_bytes=10)
        assert file.read(20) == bytes(20)
        with pytest.raises(OSError, match="of bytes 20 to 30 came 9"):
            file.read()


def test_what_runs_ahead_is_bounded():
    """However slowly results are taken: of 20 calls at most 3 are ahead of what was asked for."""
    begun, taken = [], 0
    with ThreadPoolExecutor(3) as pool:
        for value in in_order(pool, lambda k: begun.append(k) or k, range(20), ahead=3):
            assert value == taken
            taken += 1
            assert len(begun) <= taken + 3
    assert taken == 20


def test_an_error_comes_in_its_place():
    def halve(k):
        if k == 3:
            raise ValueError("odd")
        return k

    with ThreadPoolExecutor(4) as pool:
        results = in_order(pool, halve, range(9), ahead=4)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="odd"):
            next(results)
