"""Bootstrap over groups: what is resampled, intervals, and pairing of two figures."""

import numpy as np
import pytest

from diffusion_link_hf.analysis.bootstrap import Estimate, GroupBootstrap, average
from diffusion_link_hf.errors import InputError

GROUP = np.array([3, 3, 7, 7, 7, 1])
VALUES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])


def test_whole_groups_are_resampled():
    """Every resample is the mean over the rows of some three groups, drawn with replacement."""
    estimate = GroupBootstrap(GROUP, resamples=200).mean(VALUES, GROUP)
    assert estimate.value == VALUES.mean()
    rows = [VALUES[item == GROUP] for item in (1, 3, 7)]
    possible = {round(np.concatenate([a, b, c]).mean(), 9) for a in rows for b in rows for c in rows}
    assert {round(value, 9) for value in estimate.resampled} == possible


def test_the_order_of_rows_does_not_matter():
    order = np.random.default_rng(0).permutation(len(GROUP))
    one = GroupBootstrap(GROUP).mean(VALUES, GROUP)
    other = GroupBootstrap(GROUP[order]).mean(VALUES[order], GROUP[order])
    np.testing.assert_allclose(one.resampled, other.resampled, rtol=1e-12)
    assert not np.array_equal(one.resampled, GroupBootstrap(GROUP, seed=1).mean(VALUES, GROUP).resampled)


def test_the_interval_is_that_of_the_mean():
    """Against the normal approximation, for one row per group."""
    values = np.random.default_rng(0).normal(2, 3, size=400)
    low, high = GroupBootstrap(np.arange(400), 4000).mean(values, np.arange(400)).interval()
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    few = GroupBootstrap(np.arange(400), 4000).mean(values, np.arange(400)).interval(0.5)
    assert low < few[0] < values.mean() < few[1] < high


def test_dependent_rows_widen_it():
    """Five copies of every row say no more than one."""
    values = np.random.default_rng(0).normal(size=50)
    once = GroupBootstrap(np.arange(50)).mean(values, np.arange(50))
    copies, group = np.repeat(values, 5), np.repeat(np.arange(50), 5)
    np.testing.assert_allclose(GroupBootstrap(group).mean(copies, group).resampled, once.resampled)


def test_differences_are_paired():
    boot = GroupBootstrap(GROUP)
    shifted = boot.mean(VALUES + 0.25, GROUP) - boot.mean(VALUES, GROUP)
    assert shifted.value == 0.25
    assert shifted.interval() == pytest.approx((0.25, 0.25))
    mean = average([boot.mean(VALUES, GROUP), boot.mean(3 * VALUES, GROUP)])
    np.testing.assert_allclose(mean.resampled, boot.mean(2 * VALUES, GROUP).resampled)
    assert isinstance(mean, Estimate)


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="empty"):
        GroupBootstrap(np.array([], dtype=int))
    with pytest.raises(InputError, match="resamples"):
        GroupBootstrap(GROUP, 0)
    for stranger in (0, 4, 99):
        with pytest.raises(InputError, match="does not know"):
            GroupBootstrap(GROUP).mean(VALUES, np.where(GROUP == 1, stranger, GROUP))
