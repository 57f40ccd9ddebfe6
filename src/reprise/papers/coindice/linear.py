"""Function approximation with general features (sections 3 and 4): Q = beta' phi, tested against the span of phi.

The flow constraints of the dual programme are required only along phi ("function space embedding"), and the ratio is sought in
the same span, tau = alpha' phi. Then both sides of the saddle point are linear systems of the size of phi, under weights w, v:

    A_w beta = E_w[phi r],   A_w' alpha = (1 - gamma) E_v[phi0],   A_w = E_w[phi (phi - gamma phi')'],
    ell_i = (1 - gamma) beta' phi0_i + alpha' phi_i (r_i + gamma beta' phi'_i - beta' phi_i),   rho = (1 - gamma) beta' E_v[phi0].

phi0 and phi' are averages over the target policy's actions. beta is LSTD-Q, exact where Q is in the span; the constraint
tau >= 0 of the paper is not imposed (with one feature per pair it holds by itself, and this module equals `tabular`).

Shapes: B datasets, J bounds, n transitions, N initial states, F features.
"""

import numpy as np

from reprise.errors import ReproError
from reprise.papers.coindice import bounds as fixed_point
from reprise.papers.coindice.bounds import Ball, Bounds, Pairing
from reprise.papers.coindice.gel import DivergenceName


class Features:
    """The saddle point in the span of features, batched; call it with weights (w_BJn, v_BJN) as `bounds.bounds` does.

    Args:
        phi_BnF, r_Bn, next_BnF: features of (s, a), rewards, expected features of (s', a'), a' by the target policy.
        start_BNF: expected features of (s0, a0); start_n: to which of the N each transition belongs (for `per_transition`).
    """

    def __init__(self, phi_BnF: np.ndarray, r_Bn: np.ndarray, next_BnF: np.ndarray, start_BNF: np.ndarray, gamma: float, start_n: np.ndarray | None = None):
        self.r, self.start, self.gamma, self.start_n = r_Bn, start_BNF, gamma, start_n
        self.phi, self.delta = phi_BnF, phi_BnF - gamma * next_BnF
        # phi times (delta, r) of each transition, so that moments under any weights are one matrix product
        right_Bnf = np.concatenate([self.delta, r_Bn[..., None]], -1)
        self.moments_Bnf = (phi_BnF[..., :, None] * right_Bnf[..., None, :]).reshape(*r_Bn.shape, -1)

    def __call__(self, w_BJn: np.ndarray, v_BJN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rho_BJ, td_BJn, first_BJN), see the head of this module and `bounds.Saddle`.

        Raises:
            ReproError: the features are linearly dependent on some dataset.
        """
        gamma, F = self.gamma, self.phi.shape[-1]
        A_BJFf = (w_BJn @ self.moments_Bnf).reshape(*w_BJn.shape[:2], F, F + 1)
        A_BJFF, b_BJF1 = A_BJFf[..., :F], A_BJFf[..., F:]
        m_BJF = (1 - gamma) * v_BJN @ self.start
        try:
            beta_BJF = np.linalg.solve(A_BJFF, b_BJF1)[..., 0]
            alpha_BJF = np.linalg.solve(A_BJFF.swapaxes(-1, -2), m_BJF[..., None])[..., 0]
        except np.linalg.LinAlgError:
            raise ReproError("the features are linearly dependent on a dataset: use fewer, or more data") from None
        td_BJn = (alpha_BJF @ self.phi.swapaxes(-1, -2)) * (self.r[:, None] - beta_BJF @ self.delta.swapaxes(-1, -2))
        first_BJN = (1 - gamma) * beta_BJF @ self.start.swapaxes(-1, -2)
        return (first_BJN * v_BJN).sum(-1), td_BJn, first_BJN


def bounds(features: Features, levels: np.ndarray, divergence: DivergenceName = "kl", pairing: Pairing = "two_sample", tol: float = 1e-9, rounds: int = 60) -> Bounds:
    """Intervals of every dataset and level; arguments as in `bounds.bounds`."""
    ball = Ball(np.ones(features.r.shape), np.ones(features.start.shape[:2]), features.start_n, divergence, pairing)
    return fixed_point.bounds(features, ball, levels, tol, rounds)


def quadratic(s_RD: np.ndarray, a_RK: np.ndarray, sd: float = 0.0) -> np.ndarray:
    """1 and all products of two of the variables x = (s, a), [R, F]; with sd > 0 their mean over a + sd * normal."""
    x_RX = np.concatenate([s_RD, a_RK], -1)
    i, j = np.triu_indices(x_RX.shape[-1])
    noisy = ((i == j) & (i >= s_RD.shape[-1])) * sd**2
    return np.concatenate([np.ones((len(x_RX), 1)), x_RX[:, i] * x_RX[:, j] + noisy], -1)
