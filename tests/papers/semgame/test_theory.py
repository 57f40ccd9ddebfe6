"""The game of the theory: start, gradients, projection, averages; and the circle, where everything is known exactly."""

import math

import numpy as np
import pytest
import torch

from reprise.papers.semgame import circle as exact
from reprise.papers.semgame.circle import GRID, X_G, Circle
from reprise.papers.semgame.game import Average, MultiLayer, TwoLayer, moment, play, value
from reprise.papers.semgame.linear import fixed_features, ols, relu_gradients

CIRCLE = Circle(s=0.6, kappa=2.0, noise=0.3)
WIDTHS, BALLS, D = [8, 32], [20.0, 20.0], 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_layer(widths=WIDTHS, balls=BALLS, seeds=2, seed=0, d=D, kind=TwoLayer) -> TwoLayer:
    g = generator(seed)
    return kind(widths, balls, [[torch.randn(m // 2, d, generator=g) / math.sqrt(d) for m in widths] for _ in range(seeds)])


def multi_layer(width=16, depth=2, ball=20.0, seeds=2, seed=0) -> MultiLayer:
    g = generator(seed)
    draws = [{"a": torch.randn(width, D, generator=g), "w": torch.randn(depth, width, width, generator=g), "b": torch.randint(0, 2, (width,), generator=g) * 2.0 - 1} for _ in range(seeds)]
    return MultiLayer(width, depth, ball, draws)


def unit(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    """Inputs x_SDB of unit norm."""
    x = torch.randn(*shape, generator=generator(seed))
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("network", [two_layer, multi_layer])
def test_the_function_is_zero_at_the_start(network):
    assert network()(unit((2, D, 50))).abs().max() < 1e-6


def by_autograd(player, w: torch.Tensor, x_SDB: torch.Tensor) -> torch.Tensor:
    """The network's definition, written plainly, as a function of its weights."""
    if isinstance(player, TwoLayer):
        return player.b_NA.T @ (w @ x_SDB).relu()
    h = player.a_CMD @ x_SDB.repeat_interleave(2, 0)
    for k in range(w.shape[1]):
        h = (w[:, k] @ h).relu()
    return (player.b_C1M @ h)[:, 0].unflatten(0, (-1, 2)).sum(1, keepdim=True)


@pytest.mark.parametrize(("network", "arms"), [(two_layer, 2), (multi_layer, 1)])
def test_play_follows_autograd_of_the_objective(network, arms):
    """Both players' steps are those of autograd on phi, for a moment of two points."""
    f, u = network(seed=0), network(seed=5)
    f_ref, u_ref = network(seed=0), network(seed=5)
    for step in range(3):  # away from the start, where u = 0 hides its own gradient
        x_SDKB = unit((2, D, 14), 10 + step).unflatten(-1, (2, 7))
        z_SDB, y_SB = unit((2, D, 7), 20 + step), torch.randn(2, 7, generator=generator(step))
        c_K, alpha_A, eta_A = torch.tensor([1.0, -0.7]), torch.full((arms,), 0.3), torch.full((arms,), 0.5)
        leaves = [p.weights["w"].detach().clone().requires_grad_() for p in (f_ref, u_ref)]
        out = [by_autograd(p, w, x) for p, w, x in zip((f_ref, u_ref), leaves, (x_SDKB.flatten(-2), z_SDB))]
        torch.testing.assert_close(out[1].detach(), u_ref(z_SDB))
        f_SAKB = out[0].unflatten(-1, (2, 7))
        phi = value(moment(f_SAKB, c_K) - y_SB[:, None], out[1], f_SAKB[:, :, 0], 0.3).sum()
        g_f, g_u = torch.autograd.grad(phi, leaves)
        play(f, u, x_SDKB, y_SB, z_SDB, c_K, alpha_A, eta_A)
        rate = 0.5 if network is two_layer else 0.5 / 16
        f_ref.weights["w"].sub_(g_f, alpha=rate)
        u_ref.weights["w"].add_(g_u, alpha=rate)
        torch.testing.assert_close(f.weights["w"], f_ref.weights["w"], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(u.weights["w"], u_ref.weights["w"], atol=1e-6, rtol=1e-5)
    assert f.movement().min() > 1e-3 and u.movement().min() > 1e-3


def test_projection_ends_on_the_sphere_and_is_idempotent():
    f = two_layer(balls=[1.0, 100.0])
    f.w_SND.add_(torch.randn(f.w_SND.shape, generator=generator(3)))
    before = f.movement()
    f.project()
    after = f.movement()
    torch.testing.assert_close(after[:, 0], torch.ones(2))
    torch.testing.assert_close(after[:, 1], before[:, 1])  # inside its ball: untouched
    once = f.w_SND.clone()
    f.project()
    torch.testing.assert_close(f.w_SND, once, atol=1e-6, rtol=0)

    deep = multi_layer(ball=1.0)
    deep.w_CHMM.add_(torch.randn(deep.w_CHMM.shape, generator=generator(4)))
    deep.project()
    torch.testing.assert_close((deep.w_CHMM - deep.start_CHMM).norm(dim=(-2, -1)), torch.full((4, 2), 1 / math.sqrt(16)))


def test_arms_side_by_side_are_the_networks_alone():
    both, x = two_layer(), unit((2, D, 9))
    both.move(both.forward(x)[1], torch.ones(2, 2, 9), torch.tensor([1.0, 2.0]))
    for arm, (width, eta) in enumerate(zip(WIDTHS, (1.0, 2.0))):
        rows = slice(sum(WIDTHS[:arm]), sum(WIDTHS[: arm + 1]))
        alone = TwoLayer([width], [20.0], [[w[rows][: width // 2]] for w in two_layer().start_SND])
        alone.move(alone.forward(x)[1], torch.ones(2, 1, 9), torch.tensor([eta]))
        torch.testing.assert_close(both(x)[:, arm], alone(x)[:, 0], atol=1e-6, rtol=1e-5)


def test_average_does_not_depend_on_the_storing_order():
    functions = torch.randn(40, 5, generator=generator(0))
    forward, backward = Average((5,)), Average((5,))
    for f in functions:
        forward.add(f)
    for f in functions.flip(0):
        backward.add(f)
    torch.testing.assert_close(forward.mean, backward.mean, atol=1e-14, rtol=1e-14)
    torch.testing.assert_close(forward.mean.float(), functions.mean(0))


def test_average_is_of_functions_not_of_weights():
    f, average, x = two_layer(widths=[8], balls=[50.0]), Average((2, 1, 20)), unit((2, D, 20))
    weights = []
    for step in range(6):
        average.add(f(x))
        weights.append(f.w_SND.clone())
        f.move(f.forward(x)[1], torch.randn(2, 1, 20, generator=generator(step)), torch.ones(1))
    f.w_SND.copy_(torch.stack(weights).mean(0))
    assert (average.mean.float() - f(x)).abs().max() > 1e-2


# -- the circle -------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_default_design():
    assert exact.primal_error(CIRCLE, 0.05, np.zeros(GRID)) == pytest.approx(0.187409, abs=1e-6)
    assert exact.energy(exact.tikhonov(CIRCLE, 0.05) - exact.modes(exact.truth(X_G))) == pytest.approx(0.034832, abs=1e-6)
    assert exact.squared_error(np.zeros(GRID)) == pytest.approx(0.825)
    assert exact.primal_error(CIRCLE, 0.05, exact.least_squares(CIRCLE)) == pytest.approx(0.065095, abs=1e-6)
    assert exact.squared_error(exact.least_squares(CIRCLE)) == pytest.approx(0.131712, abs=1e-6)


def test_the_regularised_solution_has_no_error_and_is_the_minimum():
    f_alpha_G = np.fft.irfft(exact.tikhonov(CIRCLE, 0.05) * GRID, GRID)
    assert exact.primal_error(CIRCLE, 0.05, f_alpha_G) == pytest.approx(0, abs=1e-15)
    assert exact.primal_error(CIRCLE, 0.05, f_alpha_G + 0.01 * np.cos(5 * X_G)) > 1e-7


def test_primal_error_is_the_monte_carlo_difference_of_losses():
    """L(f) - L(f_alpha), L = 1/2 E[(Af - b)^2] + alpha/2 E[f^2]; A by averaging over fresh eps for each Z."""
    f = lambda x: np.sin(2 * x) + 0.3 * np.cos(x) + 0.1  # noqa: E731
    k, alpha = np.arange(4), 0.05
    coefficient = exact.tikhonov(CIRCLE, alpha)[:4]
    f_alpha = lambda x: 2 * (coefficient[:, None] * np.exp(1j * np.outer(k, x.ravel()))).real.sum(0).reshape(x.shape)  # noqa: E731
    rng = np.random.default_rng(0)
    z, eps = 2 * np.pi * np.arange(24) / 24, 0.6 * rng.standard_normal((1, 20000))
    x = z[:, None] + eps
    b = (exact.truth(x) + 2 * np.sin(eps) * np.cos(z[:, None])).mean(1)
    loss = lambda h: ((h(x).mean(1) - b) ** 2).mean() / 2 + alpha / 2 * (h(x) ** 2).mean()  # noqa: E731
    assert exact.primal_error(CIRCLE, alpha, f(X_G)) == pytest.approx(loss(f) - loss(f_alpha), rel=0.02)


def test_draws_are_endogenous_and_valid():
    d = exact.draw(CIRCLE, (400_000,), np.random.default_rng(0))
    error = d.y - exact.truth(d.x)
    assert np.mean(error * np.sin(d.x)) == pytest.approx((1 - math.exp(-2 * 0.36)) / 2, abs=0.01)  # biased given X: kappa/2 times
    assert max(abs(np.mean(error * np.cos(j * d.z))) for j in range(4)) < 0.01  # not given Z
    none = exact.draw(Circle(s=0.6, kappa=0.0, noise=0.3), (100_000,), np.random.default_rng(0))
    assert abs(np.mean((none.y - exact.truth(none.x)) * np.sin(none.x))) < 0.01


def test_the_inner_maximum_is_the_residual_norm():
    """max_u phi(f, u) = 1/2 ||Af - b||^2 (+ alpha/2 ||f||^2) at u* = Af - b, found by the linear algebra of u's values on a grid of Z."""
    rng = np.random.default_rng(1)
    f = lambda x: 0.5 * np.cos(x)  # noqa: E731
    d = exact.draw(Circle(s=0.6, kappa=2.0, noise=0.0), (1_000_000,), rng)
    cells = np.minimum((d.z / (2 * np.pi) * 64).astype(int), 63)
    u_64 = np.bincount(cells, f(d.x) - d.y, 64) / np.bincount(cells, minlength=64)
    phi = np.mean((f(d.x) - d.y) * u_64[cells]) - np.mean(u_64[cells] ** 2) / 2
    residual_F = exact.sigma(CIRCLE) * (exact.modes(f(X_G)) - exact.modes(exact.truth(X_G)))
    assert phi == pytest.approx(exact.energy(residual_F) / 2, rel=0.01)
    centre = (np.arange(64) + 0.5) * 2 * np.pi / 64
    u_star = 2 * (residual_F[:4, None] * np.exp(1j * np.outer(np.arange(4), centre))).real.sum(0)
    assert np.abs(u_64 - u_star).max() < 0.1


def test_tikhonov_path_is_monotone():
    energies = [exact.energy(exact.tikhonov(CIRCLE, alpha)) for alpha in np.geomspace(1e-4, 10, 12)]
    assert np.all(np.diff(energies) < 0)


def test_gradients_from_single_samples_are_unbiased():
    """The mean of one-sample gradients over many samples is the population's: no second draw of X given Z is needed."""
    f, u, n = two_layer(widths=[16], balls=[100.0], seeds=1), two_layer(widths=[16], balls=[100.0], seeds=1, seed=9), 60_000
    rng = np.random.default_rng(3)
    features = lambda a: torch.tensor(exact.features(a).T[None], dtype=torch.float32)  # noqa: E731
    for network in (f, u):  # some non-zero functions
        network.move(network.forward(unit((1, 3, 30)))[1], torch.randn(1, 1, 30, generator=generator(2)), torch.full((1,), 0.2))
    d = exact.draw(CIRCLE, (n,), rng)
    start, u_start = f.w_SND.clone(), u.w_SND.clone()
    play(f, u, features(d.x)[:, :, None], torch.tensor(d.y, dtype=torch.float32)[None], features(d.z), torch.ones(1), torch.tensor([0.05]), torch.ones(1))
    estimate = start - f.w_SND  # eta = 1
    # Population: E over (Z, eps) on a product grid of Z and Gaussian quadrature in eps.
    f.w_SND.copy_(start)
    u.w_SND.copy_(u_start)
    z = 2 * np.pi * (np.arange(200) + 0.5) / 200
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x, w = (z[:, None] + 0.6 * nodes).ravel(), torch.tensor(np.tile(weights / weights.sum(), 200) / 200, dtype=torch.float32)
    x_features, u_values = features(x), u(features(np.repeat(z, 60)))
    f_values, activations = f.forward(x_features)
    f.move(activations, (u_values + 0.05 * f_values) * w, torch.ones(1))
    exact_gradient = start - f.w_SND
    assert (estimate - exact_gradient).norm() < 0.05 * exact_gradient.norm()


# -- width ------------------------------------------------------------------------------------------------------------


class Linearised(TwoLayer):
    """The network's linearisation at its start: the activation pattern stays that of W(0)."""

    def forward(self, x_SDB):
        gate_SNB = (self.start_SND @ x_SDB > 0).float()
        return self.b_NA.T @ (gate_SNB * (self.w_SND @ x_SDB)), [x_SDB, gate_SNB]


def test_wide_networks_play_as_their_linearisation():
    """After a fixed number of steps the network and the linear model, each played by itself, are the closer the wider they are."""
    gaps = []
    x, z, y = unit((4, D, 64), 1), unit((4, D, 64), 2), torch.randn(4, 64, generator=generator(3))
    for width in (16, 128, 1024):
        played = []
        for kind in (TwoLayer, Linearised):
            f, u = two_layer([width], [50.0], 4, 0, kind=kind), two_layer([width], [50.0], 4, 7, kind=kind)
            for _ in range(20):
                play(f, u, x[:, :, None], y, z, torch.ones(1), torch.tensor([0.05]), torch.tensor([0.5]))
            played.append(f(x))
        gaps.append(((played[0] - played[1]).norm() / played[1].norm()).item())
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]


def test_gradient_features_are_the_networks_gradient():
    f = two_layer(widths=[8], balls=[20.0], seeds=1, seed=2)
    x = unit((1, D, 5))
    phi = relu_gradients(x[0].T.numpy(), f.start_SND[0].numpy(), np.array([1.0] * 4 + [-1.0] * 4))
    shift = torch.randn(f.w_SND.shape, generator=generator(1)) * 1e-4
    f.w_SND.add_(shift)
    np.testing.assert_allclose(phi @ shift[0].flatten().numpy(), f(x)[0, 0].numpy(), atol=1e-7)


class Linear:
    """A linear player theta_SAD, for `play`."""

    def __init__(self, d: int):
        self.theta_SAD = torch.zeros(1, 1, d, dtype=torch.float64)

    def forward(self, x_SDB):
        return self.theta_SAD @ x_SDB, [x_SDB]

    def move(self, activations, e_SAB, eta_A):
        self.theta_SAD -= eta_A[:, None] * (e_SAB @ activations[0].transpose(1, 2))


@pytest.mark.parametrize("c", [(1.0,), (1.0, -0.5)])
def test_a_linear_game_converges_to_the_quadratic_solution(c):
    """Play of linear players ends at the fixed-feature solution, which is not that of regression; one and two points of the moment."""
    rng = np.random.default_rng(0)
    z, v = rng.standard_normal((500, 2)), rng.standard_normal(500)
    first = np.column_stack([z[:, 0] + 0.5 * z[:, 1] + 0.5 * v, z[:, 1] + rng.standard_normal(500)])
    x_NKD = np.stack([first, rng.standard_normal((500, 2))][: len(c)], 1)
    moments_ND = np.tensordot(np.array(c), x_NKD, (0, 1))
    y = moments_ND @ [1.0, -0.5] + v
    f, u = Linear(2), Linear(2)
    x_SDKB, y_SB, z_SDB = (torch.tensor(a)[None] for a in (x_NKD.transpose(2, 1, 0), y, z.T))
    for _ in range(4000):
        play(f, u, x_SDKB, y_SB, z_SDB, torch.tensor(c, dtype=torch.float64), torch.tensor([0.1]), torch.tensor([0.05]))
    theta = f.theta_SAD[0, 0].numpy()
    np.testing.assert_allclose(theta, fixed_features(moments_ND, z, y, alpha=0.1, phi0_NP=first), atol=1e-6)
    assert np.abs(theta - ols(moments_ND, y)).max() > 0.05
