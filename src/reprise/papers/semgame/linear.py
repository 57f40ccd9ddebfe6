"""Reference solutions with fixed features: least squares, two-stage least squares, and the game solved in closed form.

With f = Phi theta and u = Psi nu the game of section 3 is quadratic and has the solution

    theta = [ C' G C + alpha Phi0'Phi0/n + l_f I ]^-1 C' G Psi'Y/n,    C = Psi'Phi/n,   G = (Psi'Psi/n + l_u I)^-1,

Phi the features' moments sum_k c_k phi(X_k), Phi0 those of the first point. With linear features, no ridge and alpha = 0
this is two-stage least squares; with the ReLU-gradient features of the two-layer network it is where a run of that
width would end. Shapes: N examples, P features of f, Q features of u, E instruments.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import PolynomialFeatures

from reprise.errors import ReproError


def ols(phi_NP: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Least squares, theta_P."""
    return np.linalg.lstsq(phi_NP, y_N, rcond=None)[0]


def tsls(phi_NP: np.ndarray, psi_NQ: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    """Two-stage least squares, theta_P: regress Phi on Psi, then Y on the fitted Phi.

    Raises:
        ReproError: fewer instruments than regressors.
    """
    if psi_NQ.shape[1] < phi_NP.shape[1]:
        raise ReproError(f"two-stage least squares needs as many instruments as regressors: {psi_NQ.shape[1]} for {phi_NP.shape[1]}")
    return ols(psi_NQ @ ols(psi_NQ, phi_NP), y_N)


def first_stage_f(endogenous_N: np.ndarray, excluded_NE: np.ndarray, controls_NC: np.ndarray) -> float:
    """F statistic of the excluded instruments in the regression of the endogenous variable on them and the controls.

    Below about 10 the instruments are called weak. Controls include the constant.
    """
    both = np.column_stack([excluded_NE, controls_NC])
    rss = [np.square(endogenous_N - x @ ols(x, endogenous_N)).sum() for x in (controls_NC, both)]
    return float((rss[0] - rss[1]) / excluded_NE.shape[1] / (rss[1] / (len(both) - both.shape[1])))


@dataclass(frozen=True)
class Quadratic:
    """The quadratic game of given features, solved for whole grids of ridges.

    Args:
        phi_NP: moments of f's features; phi0_NP: the features at the moment's first point; psi_NQ: u's; y_N.
    """

    phi_NP: np.ndarray
    phi0_NP: np.ndarray
    psi_NQ: np.ndarray
    y_N: np.ndarray

    def solutions(self, alpha: float, ridges_u: list[float], ridges_f: list[float]) -> Iterator[np.ndarray]:
        """theta_P for every pair of ridges, those of u outermost; the shortest one where a pair leaves it open.

        As a least-squares problem, which loses no digits to normal equations: with Psi/sqrt n = U diag(s) V' the solution
        minimises |T theta - t|^2 + alpha |Phi0 theta|^2/n + l_f |theta|^2, [T t] = diag(s / sqrt(s^2 + l_u)) U' [Phi Y]/sqrt n.
        """
        root_n = np.sqrt(len(self.y_N))
        u_NR, s_R, _ = np.linalg.svd(self.psi_NQ / root_n, full_matrices=False)
        u_NR, s_R = u_NR[:, s_R > 1e-12 * s_R[0]], s_R[s_R > 1e-12 * s_R[0]]
        seen_RP1 = u_NR.T @ np.column_stack([self.phi_NP, self.y_N]) / root_n
        tikhonov_PP = np.linalg.qr(self.phi0_NP, mode="r") * (np.sqrt(alpha) / root_n) if alpha else np.zeros((0, self.phi_NP.shape[1]))
        for ridge_u in ridges_u:
            t_RP1 = (s_R / np.sqrt(s_R**2 + ridge_u))[:, None] * seen_RP1
            for ridge_f in ridges_f:
                rows = np.concatenate([t_RP1[:, :-1], tikhonov_PP, np.sqrt(ridge_f) * np.eye(t_RP1.shape[1] - 1)])
                yield ols(rows, np.concatenate([t_RP1[:, -1], np.zeros(len(rows) - len(t_RP1))]))


def fixed_features(phi_NP: np.ndarray, psi_NQ: np.ndarray, y_N: np.ndarray, alpha: float = 0.0, ridge_u: float = 0.0, ridge_f: float = 0.0, phi0_NP: np.ndarray | None = None) -> np.ndarray:
    """theta_P of the game's solution with fixed features (module docstring)."""
    return next(Quadratic(phi_NP, phi_NP if phi0_NP is None else phi0_NP, psi_NQ, y_N).solutions(alpha, [ridge_u], [ridge_f]))


def relu_gradients(x_ND: np.ndarray, start_MD: np.ndarray, b_M: np.ndarray) -> np.ndarray:
    """Gradient features of the two-layer network at its start, m^-1/2 b_r 1[W_r(0)' x > 0] x: [N, M D]."""
    active_NM = (x_ND @ start_MD.T > 0) * b_M / np.sqrt(len(b_M))
    return (active_NM[:, :, None] * x_ND[:, None]).reshape(len(x_ND), -1)


def polynomials(x_ND: np.ndarray, degree: int) -> np.ndarray:
    """All monomials up to a total degree, the constant among them, [N, P]."""
    return PolynomialFeatures(degree).fit_transform(x_ND)


def moments(feature, x_NKD: np.ndarray, c_K: np.ndarray) -> np.ndarray:
    """sum_k c_k feature(x_k), [N, P]."""
    return sum(c * feature(x_NKD[:, k]) for k, c in enumerate(c_K))


def sieve(z_NE: np.ndarray, degree: int, limit: int) -> np.ndarray:
    """Test functions of the instruments: monomials up to `degree`, of lower degree where there would be more than `limit`."""
    while degree > 1 and polynomials(z_NE[:1], degree).shape[1] > limit:
        degree -= 1
    return polynomials(z_NE, degree)


def violation(residual_N: np.ndarray, psi_NQ: np.ndarray) -> float:
    """max_nu E[r psi'nu] - E[(psi'nu)^2] / 2 = 1/2 g' (Psi'Psi/n)^-1 g, g = Psi'r/n: the game's value against a linear adversary."""
    fitted_N = psi_NQ @ ols(psi_NQ, residual_N)
    return float(residual_N @ fitted_N / len(residual_N) / 2)


def moment_check(residual_N: np.ndarray, psi_NQ: np.ndarray) -> float:
    """max_q |sqrt(n) mean(r psi_q) / sd(r psi_q)|: the largest t statistic of the moment conditions on held-out data.

    A test function that is 0 on all examples counts as 0.
    """
    products_NQ = residual_N[:, None] * psi_NQ
    error_Q = products_NQ.std(0, ddof=1) / np.sqrt(len(residual_N))
    return float(np.max(np.abs(products_NQ.mean(0)) / np.maximum(error_Q, np.finfo(float).tiny)))
