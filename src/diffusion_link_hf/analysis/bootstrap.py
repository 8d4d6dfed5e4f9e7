"""Bootstrap over recordings: what a figure would be on other recordings of the same kind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

BLOCK = 64  # resamples computed at once: bounds the memory at BLOCK × groups × 8 bytes


@dataclass(frozen=True)
class Estimate:
    """A figure and what it came to on each resample.

    Attributes:
        value: on the recordings as they are.
        resampled: (R,) float64. Estimates of one `GroupBootstrap` share their resamples, so that their difference is
            that of paired measurements.
    """

    value: float
    resampled: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile interval (Efron 1979); a resample on which the figure is undefined (NaN) does not count."""
        low, high = np.nanquantile(self.resampled, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over estimates of one `GroupBootstrap`, such as those of several training seeds."""
    return Estimate(
        float(np.mean([one.value for one in estimates])), np.mean([one.resampled for one in estimates], axis=0)
    )


class GroupBootstrap:
    """Resamples whole groups with replacement: the captions of one recording are not independent of each other.

    Args:
        group: (N,) integers, the recording of each row.
        resamples: R.
        seed: of the resamples, which depend on it and on the number of groups alone, not on the order of rows.

    Raises:
        InputError: no rows, or fewer than one resample.

    Examples:
        >>> import numpy as np
        >>> recording = np.array([0, 0, 1, 2])  # two captions of the first recording
        >>> boot = GroupBootstrap(recording, resamples=200)
        >>> estimate = boot.mean(np.array([1.0, 0.0, 1.0, 0.5]), recording)
        >>> estimate.value
        0.625
        >>> low, high = estimate.interval()
        >>> low < estimate.value < high
        True
    """

    def __init__(self, group: np.ndarray, resamples: int = 1000, seed: int = 0):
        self.items = np.unique(group)
        if not len(self.items):
            raise InputError("group", "is empty", "Pass at least one row")
        if resamples < 1:
            raise InputError("resamples", f"is {resamples}", "Use at least 1")
        self.resamples, self.seed = resamples, seed

    def mean(self, values: np.ndarray, group: np.ndarray) -> Estimate:
        """Mean of ``values`` (N,) over all rows; ``group`` (N,) holds groups of this bootstrap only."""
        sums = self.group_sums(np.stack([values, np.ones(len(values))], axis=1), group)
        return self.statistic(lambda counts: (counts @ sums[:, 0]) / (counts @ sums[:, 1]))

    def group_sums(self, rows: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Sums of ``rows`` (N, C) within each group, (G, C) float64, in the order of ``items``.

        Raises:
            InputError: a group that the bootstrap does not know.
        """
        place = np.searchsorted(self.items, group).clip(max=len(self.items) - 1)
        if (self.items[place] != group).any():
            raise InputError(
                "group", "has groups that this bootstrap does not know", "Pass rows of the groups that it was made with"
            )
        sums = np.zeros((len(self.items), rows.shape[1]))
        np.add.at(sums, place, rows)
        return sums

    def statistic(self, compute: Callable[[np.ndarray], np.ndarray]) -> Estimate:
        """Estimate of a figure that ``compute`` gives for multiplicities (K, G) of the groups, as (K,) values."""
        value = compute(np.ones((1, len(self.items))))
        return Estimate(float(value[0]), np.concatenate([compute(counts) for counts in self._blocks()]))

    def _blocks(self) -> Iterator[np.ndarray]:
        """(K, G) float64 multiplicities, in all R rows, the same ones every time."""
        random, groups = np.random.default_rng(self.seed), len(self.items)
        for first in range(0, self.resamples, BLOCK):
            rows = min(BLOCK, self.resamples - first)
            drawn = random.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
            yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)
