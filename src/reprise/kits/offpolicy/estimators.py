"""Classical off-policy estimators of rho = (1 - gamma) E[sum gamma^t r_t].

Those that reweight take the ratios of action probabilities, ratio = pi(a|s) / behaviour(a|s), and need the behaviour policy;
they average what a trajectory shows, sum gamma^t r_t / sum gamma^t over its T steps. Leading axes are batches.
"""

from typing import Literal

import numpy as np

from reprise.errors import ReproError
from reprise.kits.offpolicy.tables import Table, value

Weighting = Literal["none", "trajectory", "step", "weighted_trajectory", "weighted_step"]


def returns(r_NT: np.ndarray, ratio_NT: np.ndarray | None, gamma: float, weighting: Weighting) -> np.ndarray:
    """X_j = sum_t gamma^t w_jt r_jt / sum_t gamma^t of each trajectory, [..., N]; their mean is the estimate.

    none                  w = 1: the behaviour's own average
    trajectory            w = the product of all T ratios (Precup et al. 2000)
    step                  w_t = the product of the ratios up to t
    weighted_...          the same, self-normalised over the N trajectories (at each t)

    Raises:
        ReproError: an unknown weighting.
    """
    discount_T = gamma ** np.arange(r_NT.shape[-1])
    discount_T = discount_T / discount_T.sum()
    if weighting == "none":
        return (discount_T * r_NT).sum(-1)
    if weighting not in ("trajectory", "step", "weighted_trajectory", "weighted_step"):
        raise ReproError(f"unknown weighting {weighting!r}: none, trajectory, step, weighted_trajectory or weighted_step")
    with np.errstate(divide="ignore"):
        log_NT = np.cumsum(np.log(ratio_NT), -1)
    if weighting.endswith("trajectory"):
        log_NT = np.broadcast_to(log_NT[..., -1:], log_NT.shape)
    if weighting.startswith("weighted"):
        top_1T = log_NT.max(-2, keepdims=True)
        w_NT = np.exp(log_NT - np.where(np.isfinite(top_1T), top_1T, 0.0))
        total_1T = w_NT.sum(-2, keepdims=True)
        w_NT = w_NT / np.where(total_1T > 0, total_1T, 1.0) * r_NT.shape[-2]
    else:
        w_NT = np.exp(log_NT)
    return (discount_T * w_NT * r_NT).sum(-1)


def importance_sampling(r_NT: np.ndarray, ratio_NT: np.ndarray | None, gamma: float, weighting: Weighting) -> np.ndarray:
    """The mean of `returns` over trajectories, [...]."""
    return returns(r_NT, ratio_NT, gamma, weighting).mean(-1)


def plug_in(model: Table, policy_SA: np.ndarray, gamma: float) -> np.ndarray:
    """The value in the empirical model (`tables.empirical`), [...]: efficient for tabular data."""
    return value(model, policy_SA, gamma)


def fitted_q(model: Table, policy_SA: np.ndarray, gamma: float, sweeps: int) -> tuple[np.ndarray, np.ndarray]:
    """Tabular fitted Q evaluation: `sweeps` times Q <- r + gamma P V from Q = 0; returns (rho, Q_SA), [...] and [..., S, A].

    It approaches the plug-in value geometrically: after k sweeps the error of Q is at most gamma^k of what it was.
    """
    Q_SA = np.zeros_like(model.R_SA)
    for _ in range(sweeps):
        V_S = (policy_SA * Q_SA).sum(-1)
        Q_SA = model.R_SA + gamma * (model.P_SAS @ V_S[..., None, :, None])[..., 0]
    return (1 - gamma) * (model.mu0_S * (policy_SA * Q_SA).sum(-1)).sum(-1), Q_SA
