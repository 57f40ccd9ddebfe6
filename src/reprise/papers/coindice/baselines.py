"""The intervals that the paper compares with: classical ones, for the mean of importance-weighted returns (section 6).

All need the behaviour policy. Their guarantees presume independent values, which self-normalised (`weighted_step`) returns are not.
"""

import numpy as np

from reprise.kits.offpolicy import intervals
from reprise.kits.offpolicy.estimators import Weighting, returns
from reprise.kits.offpolicy.intervals import Interval

WEIGHTINGS: tuple[Weighting, ...] = ("trajectory", "step", "weighted_step")


def all_of_them(
    r_BNT: np.ndarray,
    ratio_BNT: np.ndarray,
    gamma: float,
    levels: np.ndarray,
    resamples: int,
    rng: np.random.Generator,
    reward: tuple[float, float] | None,
    most: float,
) -> dict[str, tuple[np.ndarray, Interval]]:
    """{interval_weighting: (estimate [B], (lower, upper) [B, L])}: Student t and BCa for each weighting and, where rewards are
    bounded, Hoeffding and empirical Bernstein.

    Args:
        resamples: of the bootstrap; reward: the least and the largest; most: the largest ratio pi / behaviour.
    """
    found = {}
    for weighting in WEIGHTINGS:
        x_BN = returns(r_BNT, ratio_BNT, gamma, weighting)
        methods = {"t": intervals.student_t(x_BN, levels), "bca": intervals.bca(x_BN, levels, resamples, rng)}
        if reward is not None:
            low, high = reach(*r_BNT.shape[-2:], gamma, weighting, reward, most)
            methods["hoeffding"] = intervals.hoeffding(x_BN, levels, low, high)
            methods["bernstein"] = intervals.empirical_bernstein(x_BN, levels, low, high)
        found |= {f"{name}_{weighting}": (x_BN.mean(-1), ends) for name, ends in methods.items()}
    return found


def reach(N: int, T: int, gamma: float, weighting: Weighting, reward: tuple[float, float], most: float) -> tuple[float, float]:
    """What a weighted return can be at most and at least: w_t <= most^(t+1) (`step`), most^T (`trajectory`), N (`weighted_step`)."""
    discount_T = gamma ** np.arange(T)
    w_T = {"trajectory": np.full(T, most**T), "step": most ** np.arange(1.0, T + 1), "weighted_step": np.full(T, float(N))}[weighting]
    largest = float((discount_T * w_T).sum() / discount_T.sum())
    return min(0.0, reward[0]) * largest, max(0.0, reward[1]) * largest
