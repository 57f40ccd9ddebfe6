"""Weights of the divergence balls: closed forms against first principles, one sample and two."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.stats import chi2

from reprise.papers.coindice.gel import DIVERGENCES, Sample, budget, tilt

F = {"kl": lambda t: 2 * t * np.log(np.maximum(t, 1e-300)) - 2 * t + 2, "rkl": lambda t: -2 * np.log(t) + 2 * t - 2, "chi2": lambda t: (t - 1) ** 2}


def mean_over(count, values):
    return (count * values).sum(-1) / count.sum(-1)


def test_budget_is_the_chi_square_quantile():
    levels = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    np.testing.assert_allclose(budget(levels), [0.4549, 0.7083, 1.0742, 1.6424, 2.7055, 3.8415], atol=5e-5)
    np.testing.assert_allclose(budget(levels), chi2.ppf(levels, 1), rtol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_is_normalised(name):
    h = 1e-4
    f = F[name]
    assert f(1.0) == pytest.approx(0, abs=1e-12)
    assert (f(1 + h) - f(1 - h)) / (2 * h) == pytest.approx(0, abs=1e-6)
    assert (f(1 + h) - 2 * f(1.0) + f(1 - h)) / h**2 == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weights_spend_the_budget_and_sum_to_one(name):
    rng = np.random.default_rng(0)
    x, count = rng.normal(size=(7, 40)), rng.integers(0, 5, (7, 40))
    xi = np.linspace(0.3, 6, 7)
    (t,), lam = tilt([Sample(x, count)], xi, name)
    np.testing.assert_allclose(mean_over(count, t), 1, atol=1e-10)
    present = np.where(count > 0, t, 1.0)
    np.testing.assert_allclose((count * F[name](np.maximum(present, 1e-300 if name == "rkl" else 0))).sum(-1), xi, rtol=1e-8)
    assert (lam > 0).all() and (present >= 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weights_maximise_the_mean(name):
    """Against a generic constrained optimiser over all weights."""
    rng = np.random.default_rng(1)
    x, n, xi = rng.normal(size=15), 15, 2.7
    (t,), _ = tilt([Sample(x[None], np.ones((1, n)))], np.array([xi]), name)
    constraints = [{"type": "eq", "fun": lambda t: t.mean() - 1}, {"type": "ineq", "fun": lambda t: xi - F[name](t).sum()}]
    best = minimize(lambda t: -(t * x).mean(), np.ones(n), bounds=[(1e-9, n)] * n, constraints=constraints, options={"ftol": 1e-14, "maxiter": 500})
    assert (t[0] * x).mean() == pytest.approx(-best.fun, abs=1e-7)


def test_rkl_is_classical_empirical_likelihood_of_a_mean():
    """Owen (1988): mu is inside when -2 log R(mu) <= xi, R the maximal product of n w_i with mean mu."""
    x = np.random.default_rng(2).exponential(size=30)

    def log_ratio(mu):
        z = x - mu
        eta = brentq(lambda eta: (z / (1 + eta * z)).sum(), -1 / z.max() + 1e-9, -1 / z.min() - 1e-9)
        return 2 * np.log1p(eta * z).sum() - budget(0.9)

    ends = [brentq(log_ratio, a, b, xtol=1e-12) for a, b in ((x.min() + 0.05, x.mean()), (x.mean(), x.max() - 0.05))]
    (t,), _ = tilt([Sample(np.stack([-x, x]), np.ones((1, 30)))], budget(0.9), "rkl")
    np.testing.assert_allclose((t * x).mean(-1), ends, atol=1e-9)


def test_kl_is_exponential_tilting():
    x = np.random.default_rng(3).exponential(size=25)
    (t,), _ = tilt([Sample(x[None], np.ones((1, 25)))], np.array([1.0]), "kl")
    z = np.log(t[0])
    slope, intercept = np.polyfit(x, z, 1)
    np.testing.assert_allclose(z, slope * x + intercept, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_two_samples_share_one_budget(name):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=30), 3 * rng.normal(size=8)
    xi = 2.0
    (t, u), lam = tilt([Sample(x[None], np.ones((1, 30))), Sample(y[None], np.ones((1, 8)))], np.array([xi]), name)
    spent = F[name](t).sum() + F[name](u).sum()
    assert spent == pytest.approx(xi, rel=1e-9)
    z = {"kl": np.log, "rkl": lambda t: 1 - 1 / t, "chi2": lambda t: t - 1}[name]  # f'(t) / 2 = (x - mu) / (n lam)
    for values, weights, n in ((x, t[0], 30), (y, u[0], 8)):
        inside = weights > 1e-9
        slope = np.polyfit(values[inside], z(weights[inside]), 1)[0]
        assert slope == pytest.approx(1 / (n * lam[0]), rel=1e-6)


def test_counts_are_repetitions():
    rng = np.random.default_rng(5)
    x, count = rng.normal(size=12), rng.integers(0, 4, 12)
    for name in DIVERGENCES:
        (pooled,), lam = tilt([Sample(x[None], count[None])], np.array([1.5]), name)
        (single,), lam_single = tilt([Sample(np.repeat(x, count)[None], np.ones((1, count.sum())))], np.array([1.5]), name)
        np.testing.assert_allclose(np.repeat(pooled[0], count), single[0], rtol=1e-8)
        np.testing.assert_allclose(lam, lam_single, rtol=1e-8)


def test_edges():
    same = Sample(np.full((1, 6), 3.3), np.ones((1, 6)))
    (t,), lam = tilt([same], np.array([2.0]), "kl")
    assert (t == 1).all() and lam == 0
    few = Sample(np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]]))  # 2 log 2 a sample: a budget of 10 leaves all weight on the larger
    (t,), lam = tilt([few], np.array([10.0]), "kl")
    np.testing.assert_allclose(t, [[0, 2]])
    (t,), _ = tilt([few], np.array([10.0]), "rkl")  # the log barrier never lets a weight vanish
    assert 0 < t[0, 0] < 0.01
    with_absent = Sample(np.array([[1.0, 1e6, 0.0]]), np.array([[5.0, 0.0, 5.0]]))
    (t,), _ = tilt([with_absent], np.array([1.0]), "kl")
    assert np.isfinite(t).all() and mean_over(with_absent.count, t)[0] == pytest.approx(1)
