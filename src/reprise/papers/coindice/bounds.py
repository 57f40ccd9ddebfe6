"""The interval as a fixed point (sections 3 and 4): optimal weights for the terms at hand, then the saddle point under them.

    l = min_w rho(w),   u = max_w rho(w)   over the ball D_f(w || 1/n) <= xi / n.

d rho / d w_i is, up to a constant, the Lagrangian term ell_i = (1 - gamma) V(s0_i) + tau_i (r_i + gamma V'_i - Q_i) at the
saddle point under w (the envelope theorem). So the bound with sign s = +1 (upper) or -1 (lower) is a fixed point of two closed
forms: weights that are optimal for s ell, then the saddle point, and with it ell, under those weights. Where data are few and
the second step falls back behind the first, only a share of the way to the new weights is taken (the ball is convex).

Who is independent of whom is the `pairing`. The paper gives each transition a copy of its trajectory's initial state
(`per_transition`), which counts N independent draws as n. `two_sample` gives the n transitions and the N initial states
weights of their own, w and v, under one budget n D(w) + N D(v) <= xi.

Shapes: B datasets, J bounds of each (2 signs x L levels), C cells (equal transitions) with counts, M initial states with counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import ndtri

from reprise.papers.coindice.gel import DivergenceName, Sample, budget, tilt
from reprise.papers.coindice.solve import segment_sums

Pairing = Literal["per_transition", "two_sample"]

# (weights w_BJC, v_BJM, each summing to 1) -> (rho_BJ, td_BJC, first_BJM): the saddle point under these weights, with the two
# parts of ell: first = (1 - gamma) V(s0), and td, the rest.
Saddle = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Ball:
    """The weights that B datasets allow.

    count_BC, start_BM: how often each cell and each initial state occurs; start_C: the initial state that the trajectories of
    a cell share (a cell is then a transition *with* its initial state), needed for `per_transition` alone.
    """

    count_BC: np.ndarray
    start_BM: np.ndarray
    start_C: np.ndarray | None = None
    divergence: DivergenceName = "kl"
    pairing: Pairing = "two_sample"

    @cached_property
    def _starts(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """From weights of cells to weights of initial states, where these are tied."""
        return segment_sums(self.start_C, self.start_BM.shape[-1]) if self.pairing == "per_transition" else None

    @cached_property
    def uniform(self) -> tuple[np.ndarray, np.ndarray]:
        """(w_B1C, v_B1M) of the data as they are."""
        w_B1C, v_B1M = ((c / c.sum(-1, keepdims=True))[:, None] for c in (self.count_BC, self.start_BM))
        return w_B1C, self._starts(w_B1C) if self._starts else v_B1M

    def _samples(self, td_BJC: np.ndarray, first_BJM: np.ndarray) -> list[Sample]:
        if self._starts:
            return [Sample(td_BJC + first_BJM[..., self.start_C], self.count_BC[:, None])]
        return [Sample(td_BJC, self.count_BC[:, None]), Sample(first_BJM, self.start_BM[:, None])]

    def extreme(self, td_BJC: np.ndarray, first_BJM: np.ndarray, sign_J: np.ndarray, xi_J: np.ndarray, lam_BJ: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(w_BJC, v_BJM, lam_BJ): the weights that move the mean of td + first furthest in direction `sign`."""
        sign_J1 = sign_J[:, None]
        ts, lam_BJ = tilt(self._samples(sign_J1 * td_BJC, sign_J1 * first_BJM), xi_J, self.divergence, lam_BJ)
        w0_B1C, v0_B1M = self.uniform
        w_BJC = w0_B1C * np.maximum(ts[0], 1e-12)  # a pair all of whose weights vanish keeps its model
        w_BJC = w_BJC / w_BJC.sum(-1, keepdims=True)
        return w_BJC, self._starts(w_BJC) if self._starts else v0_B1M * ts[1], lam_BJ

    def standard_error(self, td_B1C: np.ndarray, first_B1M: np.ndarray) -> np.ndarray:
        """Of the mean of td + first, [B]."""
        square = 0.0
        for sample in self._samples(td_B1C, first_B1M):
            n = sample.count.sum(-1)
            p = sample.count / n[..., None]
            square = square + (p * np.square(sample.x - (p * sample.x).sum(-1, keepdims=True))).sum(-1) / n
        return np.sqrt(square)[:, 0]


def signs_and_budgets(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sign_J, xi_J): the lower bounds of all levels, then the upper ones."""
    return np.repeat([-1.0, 1.0], len(levels)), np.tile(budget(levels), 2)


@dataclass(frozen=True)
class Bounds:
    """Intervals [B, L] of each dataset and level; estimate and its standard error [B]; how far the last round moved a bound of
    each dataset [B], and the rounds it took."""

    lower: np.ndarray
    upper: np.ndarray
    estimate: np.ndarray
    se: np.ndarray
    moved: np.ndarray
    rounds: int

    def wald(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """estimate +- z se, [B, L]: what the interval is to first order in 1/sqrt(n)."""
        return wald(self.estimate, self.se, levels)


def wald(estimate_B: np.ndarray, se_B: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) = estimate -+ z se, [B, L]."""
    half_BL = ndtri((1 + np.asarray(levels)) / 2) * se_B[:, None]
    return estimate_B[:, None] - half_BL, estimate_B[:, None] + half_BL


def bounds(saddle: Saddle, ball: Ball, levels: np.ndarray, tol: float = 1e-9, rounds: int = 60) -> Bounds:
    """All intervals of a batch of datasets, every level and both signs at once.

    Args:
        saddle: the saddle point under given weights; called with J = 1 first, then with J = 2 L.
        levels: nominal coverages, such as (.9, .95).
        tol: stop when no bound moves by more; rounds: or after so many (`moved` then tells).
    """
    levels = np.asarray(levels, float)
    L = len(levels)
    sign_J, xi_J = signs_and_budgets(levels)
    rho_B1, td, first = saddle(*ball.uniform)
    se_B = ball.standard_error(td, first)
    rho_BJ, (w, v), lam = np.repeat(rho_B1, 2 * L, 1), ball.uniform, None
    share_BJ1 = np.ones((*rho_BJ.shape, 1))
    for step in range(1, rounds + 1):
        w_to, v_to, lam = ball.extreme(td, first, sign_J, xi_J, lam)
        w, v = w + share_BJ1 * (w_to - w), v + share_BJ1 * (v_to - v)
        before = rho_BJ
        rho_BJ, td, first = saddle(w, v)
        moved_B = np.abs(rho_BJ - before).max(-1)
        if moved_B.max() < tol:
            break
        # the way to w_to leads uphill (the envelope theorem): a bound that fell back went too far
        share_BJ1[sign_J * (rho_BJ - before) < -tol] /= 2
    return Bounds(rho_BJ[:, :L], rho_BJ[:, L:], rho_B1[:, 0], se_B, moved_B, step)
