"""The estimators without a game loop: two-stage least squares, its polynomial version, KIV and the minimax in RKHS.

Each maps one data set of a design (arrays without the seed axis) to a function of inputs [T, D] and a note of what was chosen.
Choices are made by the moments on dev data, max_nu E[r psi'nu] - E[(psi'nu)^2]/2 over a fixed polynomial sieve of the instruments.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from reprise.papers.semgame import kiv
from reprise.papers.semgame.linear import Quadratic, moments, polynomials, sieve, tsls, violation
from reprise.params import Params

SIEVE, LIMIT = 3, 60  # degree of the sieve, and the most test functions it may have
Function = Callable[[np.ndarray], np.ndarray]


class Estimator(Params):
    """Base of the estimators in this module."""

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        """The estimate and a note. `half` permutes the training examples, for those that split them."""
        raise NotImplementedError


def dev_violation(f: Function, d: dict[str, np.ndarray], psi_NQ: np.ndarray) -> float:
    """The criterion of a choice: how far f violates the moments on dev data."""
    m_N = sum(c * f(d["x_dev"][:, k]) for k, c in enumerate(d["c"]))
    return violation(m_N - d["y_dev"], psi_NQ)


class Tsls(Estimator):
    """Two-stage least squares, linear in X and Z with a constant."""

    method: Literal["tsls"] = Field(description="two-stage least squares")

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        x_NP = moments(lambda x: polynomials(x, 1), d["x_train"], d["c"])
        keep = np.abs(x_NP).sum(0) > 0  # the constant drops out of a difference
        theta_P = np.zeros(x_NP.shape[1])
        theta_P[keep] = tsls(x_NP[:, keep], polynomials(d["z_train"], 1), d["y_train"])
        return lambda x: polynomials(x, 1) @ theta_P, "linear"


class Polynomial(Estimator):
    """Two-stage least squares in polynomials, degrees of both sides and ridges chosen on dev data."""

    method: Literal["poly"] = Field(description="polynomial two-stage least squares")
    degrees_x: list[int] = Field(description="total degrees of f")
    degrees_z: list[int] = Field(description="total degrees of the instruments; those below f's are left out")
    ridges: list[float] = Field(description="ridges of f")
    largest: float = Field(gt=0, le=1, description="most features, as a share of the examples")

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        psi_NQ, best = sieve(d["z_dev"], SIEVE, LIMIT), (np.inf, None, "")
        most = self.largest * len(d["y_train"])
        for dx in self.degrees_x:
            phi_NP, phi0_NP = moments(lambda x: polynomials(x, dx), d["x_train"], d["c"]), polynomials(d["x_train"][:, 0], dx)
            for dz in self.degrees_z:
                psi_train_NQ = polynomials(d["z_train"], dz) if dz >= dx else np.empty((0, 0))
                if dz < dx or (max(phi_NP.shape[1], psi_train_NQ.shape[1]) > most and (dx, dz) != (1, 1)):
                    continue
                scale_Q = np.sqrt(np.square(psi_train_NQ).mean(0))
                game = Quadratic(phi_NP, phi0_NP, psi_train_NQ / np.where(scale_Q > 0, scale_Q, 1), d["y_train"])
                for ridge, theta_P in zip(self.ridges, game.solutions(0.0, [0.0], self.ridges)):
                    f = _polynomial(dx, theta_P)
                    score = dev_violation(f, d, psi_NQ)
                    if score < best[0]:
                        best = (score, f, f"degrees {dx}, {dz}, ridge {ridge:g}")
        return best[1:]


def _polynomial(degree: int, theta_P: np.ndarray) -> Function:
    return lambda x_TD: polynomials(x_TD, degree) @ theta_P


class Kiv(Estimator):
    """Kernel instrumental variables: the first half for stage 1, the second for stage 2."""

    method: Literal["kiv"] = Field(description="kernel instrumental variables")
    ridges: list[float] = Field(description="grid of both ridges")
    choose_on: Literal["dev", "first_half"] = Field(description="data for the second ridge: dev, by the error of E[f(X) | Z]; or the first half, by that of f(X), as the authors' code does")

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        halves = [tuple(d[f"{key}_train"][rows] for key in "xyz") for rows in np.array_split(half, 2)]
        dev = tuple(d[f"{key}_dev"] for key in "xyz") if self.choose_on == "dev" else None
        fitted = kiv.fit(*halves, d["c"], self.ridges, dev)
        return fitted, f"ridges {fitted.ridge1:g}, {fitted.ridge2:g}"


class Rkhs(Estimator):
    """The minimax of section 3 with both players in RKHS: RBF kernels on Nystrom landmarks, the fixed-feature formula."""

    method: Literal["rkhs"] = Field(description="fixed-feature solution with RBF kernels")
    landmarks: int = Field(gt=0, description="training examples that span either space")
    alpha: float = Field(ge=0, description="Tikhonov parameter on E f^2")
    ridges_u: list[float] = Field(description="grid for the adversary's norm")
    ridges_f: list[float] = Field(description="grid for f's norm")

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        rows = half[: self.landmarks]
        feature, instrument = _nystrom(d["x_train"][rows, 0]), _nystrom(d["z_train"][rows])
        game = Quadratic(moments(feature, d["x_train"], d["c"]), feature(d["x_train"][:, 0]), instrument(d["z_train"]), d["y_train"])
        dev_NP, psi_NQ, best = moments(feature, d["x_dev"], d["c"]), sieve(d["z_dev"], SIEVE, LIMIT), (np.inf, None, "")
        pairs = [(u, f) for u in self.ridges_u for f in self.ridges_f]
        for (ridge_u, ridge_f), theta_P in zip(pairs, game.solutions(self.alpha, self.ridges_u, self.ridges_f)):
            score = violation(dev_NP @ theta_P - d["y_dev"], psi_NQ)
            if score < best[0]:
                best = (score, theta_P, f"ridges {ridge_u:g}, {ridge_f:g}")
        theta_P = best[1]
        return lambda x_TD: feature(x_TD) @ theta_P, best[2]


def _nystrom(landmarks_LD: np.ndarray) -> Function:
    """Features [T, L] whose inner products are the RBF kernel projected on the landmarks' span; then a constant."""
    scale = kiv.median_scale(landmarks_LD)
    s_L, q_LL = np.linalg.eigh(kiv.rbf(landmarks_LD, landmarks_LD, scale))
    keep = s_L > 1e-8 * s_L[-1]
    root_LP = q_LL[:, keep] / np.sqrt(s_L[keep])
    return lambda x_TD: np.column_stack([kiv.rbf(x_TD, landmarks_LD, scale) @ root_LP, np.ones(len(x_TD))])
