"""The estimators without a game loop: two-stage least squares, its polynomial version, KIV and the minimax in RKHS.

Each maps one data set of a design (arrays without the seed axis) to a function of inputs [T, D] and a note of what was chosen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

from reprise.papers.semgame import kiv
from reprise.papers.semgame.linear import Quadratic, moments, polynomials, sieve, tsls, violation
from reprise.params import Params

SIEVE, LIMIT = 3, 60  # degree of the sieve, and the most test functions it may have
CHI2_95 = 3.84  # 95 % quantile of chi-squared with one degree of freedom
Function = Callable[[np.ndarray], np.ndarray]


class Estimator(Params):
    """Base of the estimators in this module."""

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        """The estimate and a note. `half` permutes the training examples, for those that split them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Candidate:
    """A fit on offer: how rough it is (compared in order), its function and a note."""

    roughness: tuple[float, ...]
    f: Function
    note: str


def choose(candidates: list[Candidate], d: dict[str, np.ndarray]) -> tuple[Function, str]:
    """The smoothest candidate that dev data cannot tell from the best; of equally smooth ones the best.

    The criterion is V = max_nu E[r psi'nu] - E[(psi'nu)^2]/2 over a fixed polynomial sieve of the instruments. It hardly sees
    the directions that make the problem ill-posed, so its least value alone would pick far too little regularisation. Like
    the points of a likelihood interval for one parameter, candidates with 2 n (V - min V) <= 3.84 sd(r)^2 count as equal.
    """
    psi_NQ = sieve(d["z_dev"], SIEVE, LIMIT)
    residuals = [sum(c * candidate.f(d["x_dev"][:, k]) for k, c in enumerate(d["c"])) - d["y_dev"] for candidate in candidates]
    value_C = np.array([violation(r_N, psi_NQ) for r_N in residuals])
    best = int(value_C.argmin())
    equal = value_C <= value_C[best] + CHI2_95 * np.square(residuals[best]).mean() / 2 / len(psi_NQ)
    chosen = min(np.flatnonzero(equal), key=lambda i: (candidates[i].roughness, value_C[i]))
    return candidates[chosen].f, candidates[chosen].note


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
        candidates, most = [], self.largest * len(d["y_train"])
        count = lambda key, degree: math.comb(d[f"{key}_train"].shape[-1] + degree, degree)  # noqa: E731
        fits = lambda dx, dz: (dx, dz) == (1, 1) or max(count("x", dx), count("z", dz)) <= most  # noqa: E731
        for dx in self.degrees_x:
            for dz in (dz for dz in self.degrees_z if dz >= dx and fits(dx, dz)):
                feature, psi_NQ = partial(polynomials, degree=dx), polynomials(d["z_train"], dz)
                scale_Q = np.sqrt(np.square(psi_NQ).mean(0))
                game = Quadratic(moments(feature, d["x_train"], d["c"]), feature(d["x_train"][:, 0]), psi_NQ / np.where(scale_Q > 0, scale_Q, 1), d["y_train"])
                for ridge, theta_P in zip(self.ridges, game.solutions(0.0, [0.0], self.ridges)):
                    candidates.append(Candidate((dx, -ridge), _span(feature, theta_P), f"degrees {dx}, {dz}, ridge {ridge:g}"))
        return choose(candidates, d)


def _span(feature: Function, theta_P: np.ndarray) -> Function:
    return lambda x_TD: feature(x_TD) @ theta_P


class Kiv(Estimator):
    """Kernel instrumental variables: the first half for stage 1, the second for stage 2."""

    method: Literal["kiv"] = Field(description="kernel instrumental variables")
    exponents: tuple[float, float] = Field(description="first and last power of ten on the grid of both ridges")
    values: int = Field(gt=0, description="values on the grid")
    most: int = Field(gt=1, description="examples of both halves that it takes at most; its time grows as their cube")

    def fit(self, d: dict[str, np.ndarray], half: np.ndarray) -> tuple[Function, str]:
        halves = [tuple(d[f"{key}_train"][rows] for key in "xyz") for rows in np.array_split(half[: self.most], 2)]
        fitted = kiv.fit(*halves, d["c"], np.logspace(*self.exponents, self.values))
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
        pairs = [(u, f) for u in self.ridges_u for f in self.ridges_f]
        fits = zip(pairs, game.solutions(self.alpha, self.ridges_u, self.ridges_f))
        return choose([Candidate((-ridge_f, -ridge_u), _span(feature, theta_P), f"ridges {ridge_u:g}, {ridge_f:g}") for (ridge_u, ridge_f), theta_P in fits], d)


def _nystrom(landmarks_LD: np.ndarray) -> Function:
    """Features [T, L] whose inner products are the RBF kernel projected on the landmarks' span; then a constant."""
    scale = kiv.median_scale(landmarks_LD)
    s_L, q_LL = np.linalg.eigh(kiv.rbf(landmarks_LD, landmarks_LD, scale))
    keep = s_L > 1e-8 * s_L[-1]
    root_LP = q_LL[:, keep] / np.sqrt(s_L[keep])
    return lambda x_TD: np.column_stack([kiv.rbf(x_TD, landmarks_LD, scale) @ root_LP, np.ones(len(x_TD))])
