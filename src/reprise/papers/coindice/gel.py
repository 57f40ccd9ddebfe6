"""Generalised empirical likelihood (section 3): the weights of a divergence ball that maximise a mean, in closed form.

A sample i may carry the weight w_i as long as D_f(w || 1/n) <= xi / n, where D_f(w || 1/n) = (1/n) sum_i f(n w_i) and
f(1) = f'(1) = 0, f''(1) = 2; the 2 is what makes xi a quantile of chi-square with one degree of freedom.

Shapes: C values, those that are equal pooled with a count; leading axes are batches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtri

DivergenceName = Literal["kl", "rkl", "chi2"]


@dataclass(frozen=True)
class Divergence:
    """f by its inverse derivative: t = phi(z) solves f'(t) = 2 z. `slope` is phi'(z) in terms of t; `value` is f(t) from t and
    z, less terms that average to zero when t averages to 1; `most` is D when all weight lies on a share p of the sample."""

    phi: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    most: Callable[[np.ndarray], np.ndarray]


DIVERGENCES: dict[str, Divergence] = {
    # f(t) = 2 t log t - 2 t + 2: exponential tilting
    "kl": Divergence(np.exp, lambda t: t, lambda t, z: 2 * t * z, lambda p: -2 * np.log(p)),
    # f(t) = -2 log t + 2 t - 2: the classical empirical likelihood
    "rkl": Divergence(lambda z: 1 / (1 - z), np.square, lambda t, z: -2 * np.log(t), lambda p: np.full_like(p, np.inf)),
    # f(t) = (t - 1)^2: the Euclidean likelihood
    "chi2": Divergence(lambda z: np.maximum(1 + z, 0.0), lambda t: (t > 0).astype(float), lambda t, z: np.square(t - 1), lambda p: 1 / p - 1),
}


def budget(level: float | np.ndarray) -> np.ndarray:
    """xi: the `level` quantile of chi-square with one degree of freedom."""
    return chdtri(1, 1 - np.asarray(level, float))


@dataclass(frozen=True)
class Sample:
    """Values x [..., C], the larger the more weight they should get, with counts [..., C] (broadcast; 0: absent)."""

    x: np.ndarray
    count: np.ndarray


def tilt(samples: list[Sample], xi: np.ndarray, divergence: DivergenceName, lam: np.ndarray | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """The weights that maximise sum_g E_{w_g}[x_g] under sum_g n_g D_f(w_g || 1/n_g) <= xi.

    Stationarity gives n w_i = phi((x_i - mu) / (n lam)) for each sample, with mu so that weights sum to 1 and one multiplier lam
    for all samples so that the budget is spent. D^(-1/2) is nearly linear in lam (at large n exactly), so a bracketed Newton
    iteration on it takes a handful of rounds for the whole batch; d D / d lam = -2 / lam^3 Var_{phi'}(x) is closed form too.

    Args:
        samples: one or two; leading axes are batches, the same for all.
        xi: the budget, broadcast to the leading axes.
        lam: where to start, such as the multiplier found in an earlier round.

    Returns:
        ([t], lam): ratios t = n w of each sample [..., C], averaging to 1 under the counts, and the multiplier [...].
        Where all x are equal the weights stay uniform; where even all weight on the largest x stays within the budget, that is
        the answer. lam is 0 in both cases.
    """
    f = DIVERGENCES[divergence]
    parts = [_standard(sample) for sample in samples]
    shape = parts[0].x.shape[:-1]
    xi = np.broadcast_to(np.asarray(xi, float), shape)
    # to first order t = 1 + (x - mean) / (n lam), and the budget is spent at lam = se / sqrt(xi)
    first = np.sqrt(sum(part.var / part.n for part in parts) / xi)
    top = sum(part.n * np.where(part.var > 0, f.most(part.top), 0.0) for part in parts) <= xi * (1 + 1e-12)
    live = (first > 0) & ~top
    lam = np.where(live, first if lam is None else np.where(lam > 0, lam, first), 1.0)
    low, high = np.zeros(shape), np.full(shape, np.inf)
    for _ in range(80):
        ts, spent, slope = [], 0.0, 0.0
        for part in parts:
            t, D, dD = _weights(part, lam * part.n, divergence)
            ts.append(t)
            spent, slope = spent + part.n * D, slope + part.n * part.n * dD
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            # Newton on g(lam) = spent^(-1/2) - xi^(-1/2)
            newton = lam + 2 * spent * (1 - np.sqrt(spent / xi)) / slope
        done = ~live | (np.abs(spent / xi - 1) < 1e-10)
        if done.all():
            break
        low, high = np.where(spent > xi, lam, low), np.where(spent > xi, high, lam)
        halfway = np.where(np.isfinite(high), (low + high) / 2, 2 * lam)
        inside = (newton > low) & (newton < high)
        lam = np.where(done, lam, np.where(inside, newton, halfway))
        if (high - low <= 1e-15 * low)[~done].all():
            break
    chosen = []
    for part, t in zip(parts, ts, strict=True):
        peak = (part.x >= part.x.max(-1, keepdims=True)) & (part.p > 0)
        extreme = np.where(part.var[..., None] > 0, peak / part.top[..., None], 1.0)
        chosen.append(np.where(live[..., None], t, np.where((first > 0)[..., None], extreme, 1.0)))
    return chosen, np.where(live, lam, 0.0)


@dataclass(frozen=True)
class _Part:
    """A sample with its values centred: shares p, size n, variance, and the share of the largest value."""

    x: np.ndarray
    p: np.ndarray
    n: np.ndarray
    var: np.ndarray
    top: np.ndarray


def _standard(sample: Sample) -> _Part:
    count = np.broadcast_to(sample.count, sample.x.shape)
    n = count.sum(-1)
    p = count / n[..., None]
    mean = (p * sample.x).sum(-1, keepdims=True)
    x = np.where(p > 0, sample.x - mean, 0.0)  # absent values must not weigh exp(0)
    spread = np.where(p > 0, np.abs(sample.x), 0.0).max(-1, keepdims=True)
    x = np.where(np.abs(x) <= 1e-13 * spread, 0.0, x)  # values equal up to rounding
    largest = np.where(p > 0, x, -np.inf).max(-1, keepdims=True)
    return _Part(x, p, n, (p * x**2).sum(-1), np.where(x >= largest, p, 0.0).sum(-1))


def _weights(part: _Part, lam: np.ndarray, divergence: DivergenceName) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, D, dD / dlam) of one sample at its multiplier; t = phi((x - mu) / lam) averages to 1."""
    f = DIVERGENCES[divergence]
    y = part.x / lam[..., None]
    if divergence == "kl":
        top = y.max(-1, keepdims=True)
        e = np.exp(y - top)
        total = (part.p * e).sum(-1, keepdims=True)
        t, z = e / total, y - top - np.log(total)
    else:
        z = y - _centre(part, y, divergence)[..., None]
        t = f.phi(z)
        t = np.where(part.p > 0, t, 1.0)  # what is absent may lie outside the domain
    D = (part.p * f.value(t, z)).sum(-1)
    k = part.p * f.slope(t)
    total = k.sum(-1)
    mean = (k * part.x).sum(-1) / total
    return t, D, -2 / lam**3 * (k * np.square(part.x - mean[..., None])).sum(-1)


def _centre(part: _Part, y: np.ndarray, divergence: DivergenceName) -> np.ndarray:
    """m with E_p[phi(y - m)] = 1, by Newton iterations that approach it monotonically from below."""
    f = DIVERGENCES[divergence]
    present = part.p > 0
    if divergence == "chi2":
        m = np.zeros(y.shape[:-1])  # E[(1 + y)+] >= E[1 + y] = 1
    else:
        least = np.where(present, y, -np.inf).max(-1) - 1 + part.top  # there the largest y alone contributes 1
        m = np.maximum(least, (part.p * y**2).sum(-1))
    unit = 1e-15 * (1 + np.where(present, np.abs(y), 0.0).max(-1))  # what rounding leaves of m
    for _ in range(100):
        t = np.where(present, f.phi(y - m[..., None]), 0.0)
        excess = (part.p * t).sum(-1) - 1
        slope = (part.p * f.slope(t)).sum(-1)
        before = m
        if divergence == "chi2":
            m = m + excess / slope
        else:  # Newton on 1 / E[phi], which is concave: no step from below overshoots
            m = np.maximum(m + excess * (1 + excess) / slope, least)
        if (np.abs(m - before) <= unit).all():
            break
    return m
