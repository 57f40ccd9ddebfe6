"""Classical confidence intervals for the mean of N independent values, many datasets at once.

Every function takes x [..., N] and nominal coverages `levels` [L] and returns (lower, upper), [..., L] each, two-sided with the
error split evenly. Values that are not independent, such as self-normalised returns, void the guarantees, not the formulas.
"""

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from reprise.errors import ReproError

Interval = tuple[np.ndarray, np.ndarray]


def student_t(x_N: np.ndarray, levels: np.ndarray) -> Interval:
    """mean +- t_{N-1} s / sqrt(N): exact for normal values, asymptotically right for others."""
    mean, sd, n = _moments(x_N)
    return _around(mean, stdtrit(n - 1, _upper(levels)) * sd[..., None] / np.sqrt(n))


def hoeffding(x_N: np.ndarray, levels: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> Interval:
    """mean +- (high - low) sqrt(log(2 / alpha) / (2 N)): holds for all independent values within [low, high]."""
    mean, _, n = _moments(x_N)
    reach = np.broadcast_to(np.asarray(high, float) - low, mean.shape)
    return _around(mean, reach[..., None] * np.sqrt(np.log(2 / _alpha(levels)) / (2 * n)))


def empirical_bernstein(x_N: np.ndarray, levels: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> Interval:
    """mean +- [sqrt(2 s^2 log(4 / alpha) / N) + 7 (high - low) log(4 / alpha) / (3 (N - 1))].

    Maurer and Pontil (2009), theorem 4, once for each side with error alpha / 2: holds for all independent values within
    [low, high], and profits from a small variance.
    """
    mean, sd, n = _moments(x_N)
    reach = np.broadcast_to(np.asarray(high, float) - low, mean.shape)
    log = np.log(4 / _alpha(levels))
    return _around(mean, sd[..., None] * np.sqrt(2 * log / n) + 7 * reach[..., None] * log / (3 * (n - 1)))


def bca(x_N: np.ndarray, levels: np.ndarray, resamples: int, rng: np.random.Generator) -> Interval:
    """The bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    All datasets share the resamples: one multinomial matrix [resamples, N], one matrix product. Where all values are equal the
    interval is that value.
    """
    mean, _, n = _moments(x_N)
    draws_RN = rng.multinomial(n, np.full(n, 1 / n), resamples) / n
    means_R = np.sort(x_N @ draws_RN.T, -1)
    below = ((means_R < mean[..., None]).sum(-1) + 0.5 * (means_R == mean[..., None]).sum(-1)) / resamples
    z0 = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    # the jackknife's influence of a value on a mean is proportional to its deviation
    deviation_N = x_N - mean[..., None]
    square = np.square(deviation_N).sum(-1)
    acceleration = (deviation_N**3).sum(-1) / (6 * np.where(square > 0, square, 1) ** 1.5)
    ends = []
    for z in (-ndtri(_upper(levels)), ndtri(_upper(levels))):
        shifted = z0[..., None] + z
        share = ndtr(z0[..., None] + shifted / (1 - acceleration[..., None] * shifted))
        position = np.clip(share * resamples - 0.5, 0, resamples - 1)
        left = np.floor(position).astype(int)
        right = np.minimum(left + 1, resamples - 1)
        at_left, at_right = (np.take_along_axis(means_R, i, -1) for i in (left, right))
        ends.append(at_left + (position - left) * (at_right - at_left))
    return ends[0], ends[1]


def _moments(x_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    if x_N.shape[-1] < 2:
        raise ReproError(f"an interval needs at least 2 values, found {x_N.shape[-1]}")
    return x_N.mean(-1), x_N.std(-1, ddof=1), x_N.shape[-1]


def _alpha(levels: np.ndarray) -> np.ndarray:
    return 1 - np.asarray(levels, float)


def _upper(levels: np.ndarray) -> np.ndarray:
    return (1 + np.asarray(levels, float)) / 2


def _around(mean: np.ndarray, half_L: np.ndarray) -> Interval:
    return mean[..., None] - half_L, mean[..., None] + half_L
