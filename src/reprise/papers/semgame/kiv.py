"""Kernel instrumental variables (Singh, Sahani and Gretton 2019): two ridge regressions on split halves, RBF kernels.

Stage 1, on (X, Z) of the first half, n of them: Gamma = (K_ZZ + n l1 I)^-1 K_ZZ~, so that E[phi(X) | Z~] = Phi' Gamma.
Stage 2, on (Z~, Y~) of the other half, m of them: beta = (W W' + m l2 K_XX)^-1 W Y~, W = K_XX Gamma; f(x) = beta' k(X, x).

One eigendecomposition serves the whole grid of each ridge, instead of one solve a value:
stage 1 through K_ZZ = Q diag(s) Q'; stage 2 through beta = Gamma (M + m l2 I)^-1 Y~, M = Gamma' K_XX Gamma = V diag(t) V'
(K_XX cancels, and the push-through identity moves Gamma out). Shapes: N, M halves, L values of a grid, T points to predict at.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import cdist, pdist


def median_scale(x_ND: np.ndarray) -> float:
    """The median squared distance between examples; 1 where most examples coincide."""
    return float(np.median(pdist(x_ND, "sqeuclidean"))) or 1.0


def rbf(a_ND: np.ndarray, b_MD: np.ndarray, scale: float) -> np.ndarray:
    """exp(-|a - b|^2 / scale), [N, M]; the scale is a squared distance."""
    return np.exp(-cdist(a_ND, b_MD, "sqeuclidean") / scale)


def gram(x_NKD: np.ndarray, c_K: np.ndarray, other_MKD: np.ndarray, d_K: np.ndarray, scale: float) -> np.ndarray:
    """Kernel of moments, sum_kl c_k d_l k(x_k, x'_l), [N, M]."""
    return sum(c * d * rbf(x_NKD[:, k], other_MKD[:, j], scale) for k, c in enumerate(c_K) for j, d in enumerate(d_K))


Data = tuple[np.ndarray, np.ndarray, np.ndarray]  # x_NKD, y_N, z_NE


@dataclass(frozen=True)
class Fit:
    """A fitted function: predict with `Fit(x)`."""

    x_NKD: np.ndarray
    c_K: np.ndarray
    beta_N: np.ndarray
    scale: float
    ridge1: float
    ridge2: float

    def __call__(self, x_TD: np.ndarray) -> np.ndarray:
        """f at points x, [T]."""
        return gram(x_TD[:, None], np.ones(1), self.x_NKD, self.c_K, self.scale) @ self.beta_N


def fit(first: Data, second: Data, c_K: np.ndarray, ridges_L: np.ndarray) -> Fit:
    """Fit on two halves (x_NKD, y_N, z_NE).

    l1 minimises the out-of-sample error of stage 1, tr[K_X~X~ - 2 K_X~X Gamma + Gamma' K_XX Gamma], on the second half.
    l2 minimises, as in the authors' code, the error of f(X) itself on the first half, which favours the endogenous regression.
    """
    (x_NKD, y_N, z_NE), (x2_MKD, y2_M, z2_ME) = first, second
    n, m = len(y_N), len(y2_M)
    scale, scale_z = median_scale(x_NKD[:, 0]), median_scale(z_NE)
    k_NN, k_NM = gram(x_NKD, c_K, x_NKD, c_K, scale), gram(x_NKD, c_K, x2_MKD, c_K, scale)

    # Stage 1: Gamma = Q diag(d) B with d = 1 / (s + n l1), B = Q' K_ZZ~; the trace is a quadratic form in d.
    s_N, q_NN = eigh(rbf(z_NE, z_NE, scale_z))
    b_NM = q_NN.T @ rbf(z_NE, z2_ME, scale_z)
    d_LN = 1 / (s_N + n * ridges_L[:, None])
    inner_NN = (q_NN.T @ k_NN @ q_NN) * (b_NM @ b_NM.T)
    loss_L = ((d_LN @ inner_NN) * d_LN).sum(1) - 2 * d_LN @ (b_NM * (q_NN.T @ k_NM)).sum(1)
    best1 = int(loss_L.argmin())
    gamma_NM = (q_NN * d_LN[best1]) @ b_NM

    # Stage 2: all of the grid at once.
    t_M, v_MM = eigh(gamma_NM.T @ k_NN @ gamma_NM)
    beta_LN = (((v_MM.T @ y2_M) / (t_M + m * ridges_L[:, None])) @ v_MM.T) @ gamma_NM.T
    f_LN = beta_LN @ k_NN
    error_L = np.square(y_N - f_LN).mean(1)
    best2 = int(error_L.argmin())
    return Fit(x_NKD, c_K, beta_LN[best2], scale, float(ridges_L[best1]), float(ridges_L[best2]))
