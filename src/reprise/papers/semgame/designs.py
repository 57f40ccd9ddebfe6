"""Simulated structural equations with a known truth: each design is its parameters and how to draw from it.

Every design is a linear moment E[m(f; X) - Y | Z] = 0 with m(f; X) = sum_k c_k f(X_k) (section 2). Shapes: N examples,
K points of the moment, D inputs of f, E instruments, G points of the curve that is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr

from reprise.params import Params

PARTS = ("train", "dev", "test")


@dataclass(frozen=True)
class Sample:
    """Examples x_NKD, y_N, z_NE and the truth g_N = f(X_1), NaN where nobody knows it."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    g: np.ndarray

    def __getitem__(self, rows: object) -> "Sample":
        """Some of the examples."""
        return Sample(self.x[rows], self.y[rows], self.z[rows], self.g[rows])


class Design(Params):
    """Base of the designs: sizes, the moment and the default ways to split and to draw a curve."""

    seeds: int = Field(gt=1, description="data sets, each with its own draws")
    n: int = Field(gt=1, description="training examples")
    dev: int = Field(gt=1, description="examples for choices")
    test: int = Field(gt=1, description="fresh examples for scores")

    @property
    def c(self) -> list[float]:
        """Coefficients c_K of the moment."""
        return [1.0]

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        """n independent examples for a part."""
        raise NotImplementedError

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        """f at inputs, [N]; NaN where nobody knows it."""
        return np.full(len(x_ND), np.nan)

    def splits(self, rng: np.random.Generator, raw: Path) -> dict[str, Sample]:
        """Train, dev and test of one seed; a simulation ignores the raw folder."""
        return {part: self.draw(n, rng, part) for part, n in zip(PARTS, (self.n, self.dev, self.test))}

    def curve(self, train: Sample, points: int) -> tuple[np.ndarray, np.ndarray]:
        """Coordinate [G] and inputs [G, D]: the first input between its 2.5 and 97.5 % quantiles, the others at their means."""
        x_ND = train.x[:, 0]
        line_G = np.linspace(*np.quantile(x_ND[:, 0], [0.025, 0.975]), points)
        x_GD = np.repeat(x_ND.mean(0)[None], points, 0)
        x_GD[:, 0] = line_G
        return line_G, x_GD


def sample(x: np.ndarray, y_N: np.ndarray, z: np.ndarray, g_N: np.ndarray) -> Sample:
    """A sample of a moment with one point, from columns: x [N] or [N, D], z [N] or [N, E]."""
    return Sample(x.reshape(len(y_N), 1, -1), y_N, z.reshape(len(y_N), -1), g_N)


TOY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "linear": lambda x: x,
    "sin": np.sin,
    "step": lambda x: np.where(x < 0, 1.0, 2.5),
    "quadratic": np.square,
}


class Toy(Design):
    """The suite of DeepGMM: X = (instruments) + e + .1 N, Y = g(X) + 2 e + .1 N, Z uniform on [-3, 3]^2.

    `one` relevant instrument, X = Z_1 + ..., or `two`, each in a half of its range, X = Z_1 1[Z_1 > 0] + Z_2 1[Z_2 < 0] + ...,
    which is harder.
    """

    kind: Literal["toy"] = Field(description="the DeepGMM suite")
    g: Literal[tuple(TOY)] = Field(description="the structural function")
    instruments: Literal["one", "two"] = Field(description="one relevant instrument, or two one-sided ones")

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        return TOY[self.g](x_ND[:, 0])

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        e_N, noise_2N, z_N2 = rng.standard_normal(n), rng.standard_normal((2, n)), rng.uniform(-3, 3, (n, 2))
        signal_N = z_N2[:, 0] if self.instruments == "one" else np.maximum(z_N2[:, 0], 0) + np.minimum(z_N2[:, 1], 0)
        x_N = signal_N + e_N + 0.1 * noise_2N[0]
        g_N = TOY[self.g](x_N)
        return sample(x_N, g_N + 2 * e_N + 0.1 * noise_2N[1], z_N2, g_N)


class Digits(Design):
    """The suite's one-instrument version seen through images: a number v becomes a random image of the digit round(clip(1.5 v + 5, 0, 9)).

    The truth is g((digit - 5) / 1.5). Images are scikit-learn's 8x8 digits, in disjoint pools for train, dev and test.
    """

    kind: Literal["digits"] = Field(description="the DeepGMM suite with images")
    g: Literal[tuple(TOY)] = Field(description="the structural function")
    images: Literal["x", "z", "xz"] = Field(description="what is shown as an image: the regressor, the instrument, or both")

    @cached_property
    def _pools(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        cuts = np.arange(len(digits)) % 5  # 60/20/20
        return {part: (pixels[keep] / 16, digits[keep]) for part, keep in zip(PARTS, (cuts < 3, cuts == 3, cuts == 4))}

    def _show(self, v_N: np.ndarray, rng: np.random.Generator, part: str) -> tuple[np.ndarray, np.ndarray]:
        digit_N = np.rint(np.clip(1.5 * v_N + 5, 0, 9)).astype(int)
        pixels, digits = self._pools[part]
        order = np.argsort(digits, kind="stable")
        count_10, first_10 = np.bincount(digits), np.searchsorted(digits[order], np.arange(10))
        return pixels[order[first_10[digit_N] + (rng.random(len(v_N)) * count_10[digit_N]).astype(int)]], digit_N

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        toy = Toy(kind="toy", g=self.g, instruments="one", seeds=self.seeds, n=self.n, dev=self.dev, test=self.test).draw(n, rng, part)
        x, z, g_N = toy.x[:, 0, 0], toy.z[:, 0], toy.g
        if "z" in self.images:
            z, _ = self._show(z, rng, part)
        if "x" in self.images:
            x, digit_N = self._show(x, rng, part)
            g_N = TOY[self.g]((digit_N - 5) / 1.5)
        return sample(x, toy.y, z, g_N)

    def curve(self, train: Sample, points: int) -> tuple[np.ndarray, np.ndarray]:
        """The average training image of each digit, or the line of numbers where x is one."""
        if "x" not in self.images:
            return super().curve(train, points)
        pixels, digits = self._pools["train"]
        return np.arange(10.0), np.stack([pixels[digits == d].mean(0) for d in range(10)])

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        """Known for numbers, and for the ten average images of `curve`."""
        return TOY[self.g](x_ND[:, 0] if "x" not in self.images else (np.arange(10) - 5) / 1.5)


class Demand(Design):
    """Airline demand of Hartford et al.: price p, time t, customer type s; the price responds to a shock v of demand.

    psi(t) = 2 ((t-5)^4 / 600 + exp(-4 (t-5)^2) + t/10 - 2), p = 25 + (cost + 3) psi(t) + v,
    Y = 100 + (10 + p) s psi(t) - 2 p + rho v + sqrt(1 - rho^2) N. X = (p, t, s), Z = (cost, t, s).
    Scored on a fixed lattice of 20 prices in [10, 25] x 20 times in [0, 10] x 7 types.
    """

    kind: Literal["demand"] = Field(description="the demand design")
    rho: float = Field(ge=0, le=1, description="endogeneity: correlation of price shock and outcome noise")

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        p, t, s = x_ND.T
        return 100 + (10 + p) * s * self.psi(t) - 2 * p

    @staticmethod
    def psi(t: np.ndarray) -> np.ndarray:
        """The season."""
        return 2 * (np.square(np.square(t - 5)) / 600 + np.exp(-4 * np.square(t - 5)) + t / 10 - 2)

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        cost, t, s, v = rng.standard_normal(n), rng.uniform(0, 10, n), rng.integers(1, 8, n).astype(float), rng.standard_normal(n)
        p = 25 + (cost + 3) * self.psi(t) + v
        if part == "test":  # prices here are set from outside; y and z serve the moment check of the model's own draws
            lattice = np.meshgrid(np.linspace(10, 25, 20), np.linspace(0, 10, 20), np.arange(1.0, 8), indexing="ij")
            x_N3 = np.stack([a.ravel() for a in lattice], -1)
            return sample(x_N3, np.full(len(x_N3), np.nan), np.full((len(x_N3), 3), np.nan), self.truth(x_N3))
        x_N3 = np.stack([p, t, s], -1)
        g_N = self.truth(x_N3)
        return sample(x_N3, g_N + self.rho * v + np.sqrt(1 - self.rho**2) * rng.standard_normal(n), np.stack([cost, t, s], -1), g_N)

    def curve(self, train: Sample, points: int) -> tuple[np.ndarray, np.ndarray]:
        """The price axis at time 5 and customer type 4."""
        p_G = np.linspace(10, 25, points)
        return p_G, np.stack([p_G, np.full(points, 5.0), np.full(points, 4.0)], -1)


class Sigmoid(Design):
    """Newey and Powell's design on the unit interval: f(x) = ln(|16 x - 8| + 1) sign(x - 1/2).

    (e, v) standard normal with correlation 1/2, w ~ N; X = Phi((w + v) / sqrt 2), Z = Phi(w), Y = f(X) + e.
    """

    kind: Literal["sigmoid"] = Field(description="Newey-Powell")

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        return np.log(np.abs(16 * x_ND[:, 0] - 8) + 1) * np.sign(x_ND[:, 0] - 0.5)

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        e, other, w = rng.standard_normal((3, n))
        v = 0.5 * e + np.sqrt(0.75) * other
        x_N = ndtr((w + v) / np.sqrt(2))
        g_N = self.truth(x_N[:, None])
        return sample(x_N, g_N + e, ndtr(w), g_N)


class Gaussian(Design):
    """Everything jointly Gaussian and f linear: two-stage least squares is efficient here, and nobody should beat it.

    X = .8 Z + .6 V, e = .8 V + .6 N, Y = 1.5 X + e; the least-squares slope tends to 1.5 + .48.
    """

    kind: Literal["gaussian"] = Field(description="linear and Gaussian")

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        return 1.5 * x_ND[:, 0]

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        z, v, other = rng.standard_normal((3, n))
        x_N = 0.8 * z + 0.6 * v
        return sample(x_N, 1.5 * x_N + 0.8 * v + 0.6 * other, z, 1.5 * x_N)


class Market(Design):
    """Supply and demand, two simultaneous equations in price and quantity; each side's shifter is the other's instrument.

    Demand q = 4 tanh(-p/2) + w1 + e1, supply q = p + w2 + e2, corr(e1, e2) = .7; the equilibrium price by bisection.
    X = (p, own shifter), Z = (other side's shifter, own shifter). With shifters of unit strength regression is biased by as
    much on both sides: its limit is off by 4 % of Var Y.
    """

    kind: Literal["market"] = Field(description="simultaneous equations")
    side: Literal["demand", "supply"] = Field(description="the equation to estimate")

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        p, w = x_ND.T
        return (4 * np.tanh(-p / 2) if self.side == "demand" else p) + w

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        w1, w2, e1, other = rng.standard_normal((4, n))
        e2 = 0.7 * e1 + np.sqrt(1 - 0.7**2) * other
        low, high = np.full(n, -40.0), np.full(n, 40.0)
        for _ in range(60):  # excess demand falls in p: one root
            p = (low + high) / 2
            excess = 4 * np.tanh(-p / 2) + w1 + e1 - (p + w2 + e2)
            low, high = np.where(excess > 0, p, low), np.where(excess > 0, high, p)
        q = p + w2 + e2
        own, other_side = (w1, w2) if self.side == "demand" else (w2, w1)
        x_N2 = np.stack([p, own], -1)
        return sample(x_N2, q, np.stack([other_side, own], -1), self.truth(x_N2))


class Panel(Design):
    """Dynamic panel y_it = h(y_i,t-1) + mu_i + eps_it with individual effects, in first differences.

    E[dy_t - (h(y_{t-1}) - h(y_{t-2})) | y_{t-2}, y_{t-3}] = 0: c = (1, -1), and h is identified up to a constant.
    h(y) = 1.5 sin y, mu ~ N(0, .5^2), eps ~ N(0, 1); one differenced observation from each individual.
    """

    kind: Literal["panel"] = Field(description="dynamic panel")

    @property
    def c(self) -> list[float]:
        return [1.0, -1.0]

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        return 1.5 * np.sin(x_ND[:, 0])

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        mu_N, y_N, path = 0.5 * rng.standard_normal(n), rng.standard_normal(n), []
        for _ in range(24):  # forgets its start
            y_N = 1.5 * np.sin(y_N) + mu_N + rng.standard_normal(n)
            path.append(y_N)
        y3, y2, y1, y0 = path[-4:]
        x_NKD = np.stack([y1, y2], -1)[:, :, None]
        return Sample(x_NKD, y0 - y1, np.stack([y2, y3], -1), self.truth(x_NKD[:, 0]))
