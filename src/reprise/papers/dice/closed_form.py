"""The saddle points of tabular problems with f(x) = x^2 / 2, in closed form (appendix), and the quadratic programme of zeta >= 0.

With m = |S||A|, D = diag(d^D), P = P^pi over pairs, B = gamma P - I and mu = mu0 pi, a saddle without constraint satisfies
    (1 - gamma) mu + B' D zeta + alpha_Q D Q = 0,   alpha_R r + B Q - lambda 1 - alpha_zeta zeta = 0,   d^D' zeta = 1 (lambda on).
(I - gamma P)^-1 and its transpose act on pairs but are applied through a solve over states only. Leading axes are batches
of empirical models; x = D zeta, the mass that zeta puts on each pair, stays finite where a pair was never seen.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import nnls

from reprise.errors import ReproError
from reprise.kits.offpolicy.tables import Table, transitions
from reprise.papers.dice.objective import Switches


@dataclass(frozen=True)
class Problem:
    """A model, the policy to evaluate, the data's distribution d_SA [..., S, A] and the discount."""

    table: Table
    policy_SA: np.ndarray
    d_SA: np.ndarray
    gamma: float

    def values(self, u_SA: np.ndarray) -> np.ndarray:
        """(I - gamma P)^-1 u: action values for the reward u, [..., S, A]."""
        u_S = (self.policy_SA * u_SA).sum(-1)
        V_S = np.linalg.solve(self._system, u_S[..., None])[..., 0]
        return u_SA + self.gamma * (self.table.P_SAS @ V_S[..., None, :, None])[..., 0]

    def flow(self, y_SA: np.ndarray) -> np.ndarray:
        """(I - gamma P')^-1 y: the discounted visits that start as y, [..., S, A]."""
        arrive_S = np.einsum("...iaj,...ia->...j", self.table.P_SAS, y_SA)
        visits_S = np.linalg.solve(np.swapaxes(self._system, -1, -2), self.gamma * arrive_S[..., None])[..., 0]
        return y_SA + visits_S[..., None] * self.policy_SA

    @property
    def mu_SA(self) -> np.ndarray:
        """mu0 pi, [..., S, A]."""
        return self.table.mu0_S[..., None] * self.policy_SA

    @property
    def _system(self) -> np.ndarray:
        return np.eye(self.table.states) - self.gamma * transitions(self.table, self.policy_SA)


@dataclass(frozen=True)
class Saddle:
    """Q_SA, x_SA = d^D zeta and lambda, [...]."""

    Q_SA: np.ndarray
    x_SA: np.ndarray
    lam: np.ndarray

    def zeta(self, problem: Problem) -> np.ndarray:
        """The ratio where d^D > 0, else 0, [..., S, A]."""
        return np.divide(self.x_SA, problem.d_SA, out=np.zeros_like(self.x_SA), where=problem.d_SA > 0)


def saddle(problem: Problem, switches: Switches) -> Saddle:
    """The saddle point of one member of the family with p = 2 that regularises one side, or none.

    Raises:
        ReproError: both sides are regularised or p is not 2 (no closed form here).
    """
    if switches.p != 2 or (switches.alpha_q and switches.alpha_zeta):
        raise ReproError("closed forms: p = 2 and one regulariser at most (train a network, or solve the linear system, for others)")
    if switches.alpha_q == 0:
        return dual_regularised(problem, switches)
    if switches.positive and switches.alpha_r:
        return positive_saddle(problem, switches)
    return primal_regularised(problem, switches)


def dual_regularised(problem: Problem, switches: Switches) -> Saddle:
    """alpha_Q = 0: zeta is the true ratio d^pi / d^D, always, and so satisfies both constraints by itself.

    Q = (I - gamma P)^-1 (alpha_R r - alpha_zeta zeta*). With lambda on, (Q + c, lambda - (1 - gamma) c) is one flat
    direction; lambda = 0 is the representative here.
    """
    x_SA = problem.flow((1 - problem.gamma) * problem.mu_SA)
    zeta_SA = np.divide(x_SA, problem.d_SA, out=np.zeros_like(x_SA), where=problem.d_SA > 0)
    return Saddle(problem.values(switches.alpha_r * problem.table.R_SA - switches.alpha_zeta * zeta_SA), x_SA, np.zeros(x_SA.shape[:-2]))


def primal_regularised(problem: Problem, switches: Switches) -> Saddle:
    """alpha_zeta = 0, zeta free (or alpha_R = 0, where the free zeta is the true ratio and positive).

    Q = (I - gamma P)^-1 (alpha_R r - lambda 1),  D zeta = (I - gamma P')^-1 ((1 - gamma) mu + alpha_Q D Q), and lambda so that
    the masses D zeta sum to 1, which they do linearly in lambda.
    """
    R_SA = problem.table.R_SA
    Q_SA = problem.values(switches.alpha_r * R_SA)
    x_SA = problem.flow((1 - problem.gamma) * problem.mu_SA + switches.alpha_q * problem.d_SA * Q_SA)
    lam = np.zeros(x_SA.shape[:-2])
    if switches.normalised:
        unit_SA = problem.values(np.ones_like(R_SA))
        per_lam_SA = switches.alpha_q * problem.flow(problem.d_SA * unit_SA)
        lam = (x_SA.sum((-1, -2)) - 1) / per_lam_SA.sum((-1, -2))
        Q_SA, x_SA = Q_SA - lam[..., None, None] * unit_SA, x_SA - lam[..., None, None] * per_lam_SA
    return Saddle(Q_SA, x_SA, lam)


def positive_saddle(problem: Problem, switches: Switches) -> Saddle:
    """alpha_Q > 0, zeta >= 0, one problem (no batch): Q eliminated, a strictly concave quadratic programme in x = D zeta >= 0,

        max_x  alpha_R r' x - |D^-1/2 ((1 - gamma) mu + B' x)|^2 / (2 alpha_Q)        (and sum x = 1 when lambda is on),

    then Q = -((1 - gamma) mu + B' x) / (alpha_Q d^D). Without the equality this is a non-negative least-squares problem,
    solved by its active-set method; the equality enters as a heavy row, and the system on the support settles the digits.
    """
    d_M, shape = problem.d_SA.ravel(), problem.d_SA.shape
    P_MM = (problem.table.P_SAS[..., None] * problem.policy_SA).reshape(len(d_M), len(d_M))
    B_MM = problem.gamma * P_MM - np.eye(len(d_M))
    mu_M = (1 - problem.gamma) * problem.mu_SA.ravel()
    # minimise x' H x / 2 - c' x
    H_MM = B_MM @ (B_MM.T / d_M[:, None]) / switches.alpha_q
    c_M = switches.alpha_r * problem.table.R_SA.ravel() - B_MM @ (mu_M / d_M) / switches.alpha_q
    L_MM = np.linalg.cholesky(H_MM)
    A_MM, b_M = L_MM.T, solve_triangular(L_MM, c_M, lower=True)
    if switches.normalised:
        heavy = 1e3 * np.abs(A_MM).max()
        A_MM, b_M = np.vstack([A_MM, np.full(len(d_M), heavy)]), np.append(b_M, heavy)
    x_M, _ = nnls(A_MM, b_M, maxiter=100 * len(d_M))
    support = np.flatnonzero(x_M > 0)
    x_M, lam = np.zeros(len(d_M)), 0.0
    if switches.normalised:  # H x + lambda 1 = c on the support, 1' x = 1
        one = np.ones((len(support), 1))
        solved = np.linalg.solve(np.block([[H_MM[np.ix_(support, support)], one], [one.T, np.zeros((1, 1))]]), np.append(c_M[support], 1.0))
        x_M[support], lam = solved[:-1], solved[-1]
    else:
        x_M[support] = np.linalg.solve(H_MM[np.ix_(support, support)], c_M[support])
    Q_M = -(mu_M + B_MM.T @ x_M) / (switches.alpha_q * d_M)
    return Saddle(Q_M.reshape(shape), x_M.reshape(shape), np.array(lam))


def readouts(problem: Problem, point: Saddle) -> dict[str, np.ndarray]:
    """rho_Q, rho_zeta (raw and self-normalised) and rho_{Q, zeta} of a saddle point, [...] each, as `objective.readouts`."""
    V_S = (problem.policy_SA * point.Q_SA).sum(-1)
    primal = (1 - problem.gamma) * (problem.table.mu0_S * V_S).sum(-1) + point.lam
    dual, mean = (point.x_SA * problem.table.R_SA).sum((-1, -2)), point.x_SA.sum((-1, -2))
    next_SA = (problem.table.P_SAS @ V_S[..., None, :, None])[..., 0]
    delta_SA = problem.table.R_SA + problem.gamma * next_SA - point.Q_SA - point.lam[..., None, None]
    moment = (point.x_SA * point.zeta(problem)).sum((-1, -2))
    return {
        "primal": primal,
        "dual": dual,
        "dual_selfnorm": dual / mean,
        "lagrangian": primal + (point.x_SA * delta_SA).sum((-1, -2)),
        "mean_zeta": mean,
        "moment": moment,
    }
