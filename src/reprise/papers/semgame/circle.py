"""The circle: a structural equation whose operator, truth, regularised solution and primal error are all known exactly.

    Z ~ U[0, 2 pi),   X = Z + eps, eps ~ N(0, s^2),   Y = f0(X) + kappa sin(eps) cos(Z) + s_n N(0, 1)

E[error | Z] = 0, but E[error | X] = kappa E[sin^2 eps] sin X: the regressor is endogenous. A acts on Fourier modes,
A e^{ikx} = sigma_k e^{ikz} with sigma_k = exp(-k^2 s^2 / 2), and X is uniform, so that every norm is a sum over modes.
Shapes: N draws, G points of a grid, F = G/2 + 1 modes of a real function on it.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from reprise.params import Params

GRID = 256  # points; the functions in play have no power near its Nyquist mode of 128
X_G = 2 * np.pi * np.arange(GRID) / GRID


class Circle(Params):
    """Parameters of the design."""

    s: float = Field(gt=0, description="standard deviation of eps: the larger, the more ill-posed")
    kappa: float = Field(description="strength of the endogeneity; 0: X is exogenous")
    noise: float = Field(ge=0, description="standard deviation s_n of the independent noise of Y")


@dataclass(frozen=True)
class Draws:
    """Angles x and z and outcomes y, each of one shape."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray


def truth(x: np.ndarray) -> np.ndarray:
    """f0(x) = sin x + .7 cos 2x - .4 sin 3x."""
    return np.sin(x) + 0.7 * np.cos(2 * x) - 0.4 * np.sin(3 * x)


def draw(circle: Circle, shape: tuple[int, ...], rng: np.random.Generator) -> Draws:
    """Independent draws (X, Y, Z) of that shape."""
    z = 2 * np.pi * rng.random(shape)
    eps, nu = circle.s * rng.standard_normal(shape), rng.standard_normal(shape)
    x = z + eps
    return Draws(x, truth(x) + circle.kappa * np.sin(eps) * np.cos(z) + circle.noise * nu, z)


def features(angle: np.ndarray) -> np.ndarray:
    """(cos, sin, 1) / sqrt 2, unit norm, on a new last axis.

    Without the constant coordinate a two-layer ReLU network, which has no bias, cannot represent odd modes from 3 on.
    """
    return np.stack([np.cos(angle), np.sin(angle), np.ones_like(angle)], -1) / np.sqrt(2)


def modes(f_G: np.ndarray) -> np.ndarray:
    """Fourier coefficients f_k, k = 0..G/2, of functions on the grid, [..., G] -> [..., F] complex."""
    return np.fft.rfft(f_G, axis=-1) / f_G.shape[-1]


def energy(f_F: np.ndarray, weight_F: np.ndarray | float = 1.0) -> np.ndarray:
    """sum over all k, negative ones too, of weight_k |f_k|^2: E[f(X)^2] where the weight is 1."""
    twice_F = np.full(f_F.shape[-1], 2.0)
    twice_F[[0, -1]] = 1.0  # mode 0 and the Nyquist mode have no mirror image
    return (twice_F * weight_F * np.abs(f_F) ** 2).sum(-1)


def sigma(circle: Circle) -> np.ndarray:
    """Singular values sigma_k of A on the modes of the grid, [F]."""
    return np.exp(-np.square(np.arange(GRID // 2 + 1) * circle.s) / 2)


def tikhonov(circle: Circle, alpha: float) -> np.ndarray:
    """Modes of the regularised solution f_alpha = (A*A + alpha)^-1 A* b: sigma_k^2 / (sigma_k^2 + alpha) f0_k."""
    sigma_F = sigma(circle)
    return sigma_F**2 / (sigma_F**2 + alpha) * modes(truth(X_G))


def primal_error(circle: Circle, alpha: float, f_G: np.ndarray) -> np.ndarray:
    """E(f) = L(f) - L(f_alpha) = 1/2 sum_k (sigma_k^2 + alpha) |f_k - f_alpha,k|^2 of functions on the grid, [..., G] -> [...]."""
    return energy(modes(f_G) - tikhonov(circle, alpha), sigma(circle) ** 2 + alpha) / 2


def squared_error(f_G: np.ndarray) -> np.ndarray:
    """E[(f(X) - f0(X))^2] of functions on the grid, [..., G] -> [...]."""
    return energy(modes(f_G - truth(X_G)))


def least_squares(circle: Circle) -> np.ndarray:
    """What direct regression converges to, E[Y | X] on the grid: f0 + kappa (1 - exp(-2 s^2)) / 2 sin x."""
    return truth(X_G) + circle.kappa * (1 - np.exp(-2 * circle.s**2)) / 2 * np.sin(X_G)
