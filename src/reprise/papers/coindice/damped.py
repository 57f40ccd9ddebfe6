"""The saddle point by damped steps, one bound after the other: how the paper's released code solves the tabular problem.

Per bound the iterates are nu and zeta over pairs, with one-hot features of every sample. In each round

- the weights w follow from ell(nu, zeta) of the round before, exponential tilting, log lam by bisection;
- nu takes a tenth of a Newton step on  (1 - gamma) E_w[nu(s0)] + E_w[e^2] / (2 alpha),  e(s,a) the mean residual of a pair;
- zeta moves a tenth of the way to its closed form  e / alpha.

The regulariser alpha E[zeta^2] biases nu by a term linear in alpha; two copies, +alpha and -alpha, are averaged, so that it
cancels. `tabular` and `bounds` reach the same numbers directly; this module is what they are checked and timed against.

Shapes: C cells (give each transition a cell of its own to solve sample by sample), K seen pairs, S states, 2 copies.
"""

import numpy as np

from reprise.errors import ReproError
from reprise.papers.coindice.bounds import Ball, Bounds, signs_and_budgets
from reprise.papers.coindice.tabular import Cells, Model, Unseen

LOG_LAM = (-8.0, 32.0)


def bounds(
    cells: Cells,
    policy_SA: np.ndarray,
    gamma: float,
    levels: np.ndarray,
    unseen: Unseen = "restrict",
    iterations: int = 1000,
    rate: float = 0.1,
    alpha: float = 0.01,
    bisections: int = 16,
) -> Bounds:
    """Intervals of one dataset with divergence kl and pairing `per_transition`.

    Args:
        cells: of one dataset, with initial states (pairing `per_transition`).
        rate: what share of a step is taken; alpha: the regulariser; bisections: of log lam, 16 leave it within 6e-4.

    Raises:
        ReproError: more than one dataset.
    """
    if len(cells.count_BC) != 1:
        raise ReproError(f"the damped iteration solves one dataset at a time, found {len(cells.count_BC)}")
    model = Model(cells, policy_SA, gamma, unseen)
    cells = model.cells
    S, A = policy_SA.shape
    seen_K = np.unique(model.key_C[cells.count_BC[0] > 0])
    pi_SK = np.zeros((S, len(seen_K)))
    pi_SK[seen_K // A, np.arange(len(seen_K))] = model.mass_B1K[0, 0, seen_K]
    phi_CK = (model.key_C[:, None] == seen_K).astype(float)
    advance_CK = model.gamma_C[:, None] * pi_SK[cells.next_C] - phi_CK  # gamma phi(s', pi) - phi(s, a)
    start_CK = (1 - gamma) * pi_SK[cells.start_C]
    p_C, n = cells.count_BC[0] / cells.count_BC.sum(), cells.count_BC.sum()
    copies_2 = alpha * np.array([1.0, -1.0])

    def solve(sign: float, xi: float) -> tuple[float, np.ndarray]:
        """(the bound, ell_C); sign 0 for the estimate."""
        nu_K2, zeta_K2 = np.full((len(seen_K), 2), p_C @ cells.r_C), np.ones((len(seen_K), 2))
        w_C = p_C
        for _ in range(iterations):
            B_KK = phi_CK.T @ (w_C[:, None] * advance_CK)
            q_K1 = (w_C @ phi_CK)[:, None]
            e_K2 = ((w_C * cells.r_C) @ phi_CK)[:, None] / q_K1 + B_KK @ nu_K2 / q_K1
            slope_K2 = (w_C @ start_CK)[:, None] + B_KK.T @ e_K2 / copies_2
            nu_K2 = nu_K2 - rate * copies_2 * np.linalg.solve(B_KK.T @ (B_KK / q_K1), slope_K2)
            zeta_K2 = zeta_K2 + rate * (e_K2 / copies_2 - zeta_K2)
            ell_C = (start_CK @ nu_K2 + (phi_CK @ zeta_K2) * (cells.r_C[:, None] + advance_CK @ nu_K2)).mean(-1)
            if sign:
                w_C = p_C * _tilt(p_C, sign * ell_C, xi / n, bisections)
        return float(w_C @ ell_C), ell_C

    sign_J, xi_J = signs_and_budgets(np.asarray(levels, float))
    estimate, ell_C = solve(0.0, 0.0)
    ends_J = np.array([solve(sign, xi)[0] for sign, xi in zip(sign_J, xi_J, strict=True)])
    ball = Ball(cells.count_BC, cells.start_BS, cells.start_C, "kl", "per_transition")
    se_B = ball.standard_error(ell_C[None, None], np.zeros((1, 1, S)))
    return Bounds(ends_J[None, : len(levels)], ends_J[None, len(levels) :], np.array([estimate]), se_B, np.zeros(1), iterations)


def _tilt(p_C: np.ndarray, x_C: np.ndarray, most: float, bisections: int) -> np.ndarray:
    """t_C = exp(x / lam) / E_p[exp(x / lam)] with D_kl = `most`."""
    low, high = LOG_LAM
    x_C = np.where(p_C > 0, x_C - x_C[p_C > 0].max(), -np.inf)
    for _ in range(bisections):
        lam = np.exp((low + high) / 2)
        e_C = np.exp(x_C / lam)
        t_C = e_C / (p_C @ e_C)
        spent = 2 * (p_C @ (t_C * np.log(np.maximum(t_C, 1e-300))))
        low, high = ((low + high) / 2, high) if spent > most else (low, (low + high) / 2)
    return t_C
