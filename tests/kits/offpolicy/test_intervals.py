"""Baseline intervals against scipy, their textbook constants, and the coverage they promise."""

import numpy as np
import pytest
from scipy import stats

from reprise.errors import ReproError
from reprise.kits.offpolicy import intervals

LEVELS = [0.5, 0.8, 0.95]


def test_student_t_is_scipys():
    x = np.random.default_rng(0).gamma(2.0, size=(4, 30))
    lower, upper = intervals.student_t(x, LEVELS)
    for i, level in enumerate(LEVELS):
        low, high = stats.t.interval(level, 29, x.mean(-1), stats.sem(x, axis=-1))
        assert np.allclose(lower[:, i], low, rtol=1e-12) and np.allclose(upper[:, i], high, rtol=1e-12)


def test_hoeffding_and_bernstein_by_hand():
    x = np.array([0.0, 0.0, 1.0, 1.0])
    lower, upper = intervals.hoeffding(x, [0.9], 0, 1)
    assert upper[0] - lower[0] == pytest.approx(2 * np.sqrt(np.log(20) / 8))
    lower, upper = intervals.empirical_bernstein(x, [0.9], 0, 2)
    assert (upper[0] - lower[0]) / 2 == pytest.approx(np.sqrt(2 * (1 / 3) * np.log(40) / 4) + 7 * 2 * np.log(40) / 9)


def test_ranges_may_differ_by_dataset():
    x = np.random.default_rng(0).random((3, 10))
    lower, upper = intervals.hoeffding(x, [0.9], 0, np.array([1.0, 2.0, 4.0]))
    assert np.allclose((upper - lower)[:, 0] / (upper - lower)[0, 0], [1, 2, 4])


def test_bca_agrees_with_scipy():
    x = np.random.default_rng(1).exponential(size=40)
    lower, upper = intervals.bca(x, LEVELS, 40_000, np.random.default_rng(2))
    for i, level in enumerate(LEVELS):
        peer = stats.bootstrap((x,), np.mean, confidence_level=level, n_resamples=40_000, method="BCa", rng=np.random.default_rng(3)).confidence_interval
        width = peer.high - peer.low
        assert abs(lower[i] - peer.low) < 0.03 * width and abs(upper[i] - peer.high) < 0.03 * width


def test_bca_equals_scipy_on_equal_resamples():
    """Given scipy's own resamples, the end points differ by the rule for quantiles between order statistics only."""
    x = np.random.default_rng(4).exponential(size=25)
    peer = stats.bootstrap((x,), np.mean, confidence_level=0.9, n_resamples=4000, method="BCa", rng=np.random.default_rng(5))

    class Recorded:
        """Multinomial counts that reproduce the bootstrap distribution exactly."""

        def multinomial(self, n, p, size):
            rows = np.random.default_rng(5).integers(0, n, (size, n))
            return np.stack([np.bincount(row, minlength=n) for row in rows])

    lower, upper = intervals.bca(x, [0.9], 4000, Recorded())
    spread = np.sort(peer.bootstrap_distribution)
    gap = np.diff(spread)[20:-20].max()
    assert abs(lower[0] - peer.confidence_interval.low) <= 2 * gap and abs(upper[0] - peer.confidence_interval.high) <= 2 * gap


def test_bca_leans_towards_the_long_tail_and_t_does_not():
    x = np.random.default_rng(6).exponential(size=(50, 20))
    for make, skewed in ((lambda: intervals.bca(x, [0.9], 3000, np.random.default_rng(7)), True), (lambda: intervals.student_t(x, [0.9]), False)):
        lower, upper = make()
        lean = (upper[:, 0] - x.mean(-1)) / (x.mean(-1) - lower[:, 0])
        assert (lean.mean() > 1.2) == skewed


def test_coverage_of_a_mean():
    x = np.random.default_rng(8).random((2000, 30))
    found = {
        "t": intervals.student_t(x, [0.9]),
        "bca": intervals.bca(x, [0.9], 1000, np.random.default_rng(9)),
        "hoeffding": intervals.hoeffding(x, [0.9], 0, 1),
        "bernstein": intervals.empirical_bernstein(x, [0.9], 0, 1),
    }
    covered = {name: ((lower <= 0.5) & (0.5 <= upper)).mean() for name, (lower, upper) in found.items()}
    assert abs(covered["t"] - 0.9) < 0.025 and abs(covered["bca"] - 0.9) < 0.035
    assert covered["hoeffding"] > 0.97 and covered["bernstein"] > 0.97


def test_constant_values_and_too_few():
    lower, upper = intervals.bca(np.ones((2, 5)), LEVELS, 100, np.random.default_rng(0))
    assert (lower == 1).all() and (upper == 1).all()
    with pytest.raises(ReproError, match="at least 2"):
        intervals.student_t(np.ones((3, 1)), LEVELS)
