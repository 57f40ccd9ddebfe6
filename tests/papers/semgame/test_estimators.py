"""The closed forms, KIV's grids, the objectives, the optimiser, the designs."""

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from reprise.errors import ReproError
from reprise.papers.semgame import kiv
from reprise.papers.semgame.data import standardise
from reprise.papers.semgame.designs import PARTS, Demand, Digits, Gaussian, Market, Panel, Sigmoid, Toy
from reprise.papers.semgame.estimators import Candidate, Polynomial, Rkhs, Tsls, choose
from reprise.papers.semgame.linear import first_stage_f, fixed_features, moment_check, ols, polynomials, sieve, tsls, violation
from reprise.papers.semgame.neural import OBJECTIVES, Mlp, OptimisticAdam, agmm, deepgmm, gradients, sem
from reprise.papers.semgame.policies import CartPole, Lake
from reprise.papers.semgame.real import PROBLEMS, Problem, Real

SIZES = {"seeds": 2, "n": 4000, "dev": 10, "test": 10}


def linear_problem(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z, v = rng.standard_normal((n, 3)), rng.standard_normal(n)
    x = z @ [1.0, 0.5, 0.2] + v
    return x, x + v + 0.3 * rng.standard_normal(n), z


# -- linear -----------------------------------------------------------------------------------------------------------


def test_fixed_features_without_ridge_are_tsls():
    x, y, z = linear_problem()
    one = np.ones((len(y), 1))
    phi, psi = np.column_stack([x, one]), np.column_stack([z, one])
    theta = fixed_features(phi, psi, y)
    np.testing.assert_allclose(theta, tsls(phi, psi, y), atol=1e-10)
    p = psi @ np.linalg.solve(psi.T @ psi, psi.T)
    np.testing.assert_allclose(theta, np.linalg.solve(phi.T @ p @ phi, phi.T @ p @ y), atol=1e-9)
    assert abs(theta[0] - 1) < 0.1 < abs(ols(phi, y)[0] - 1)


def test_fixed_features_satisfy_the_first_order_conditions_with_ridges():
    x, y, z = linear_problem()
    phi, psi, n = polynomials(x[:, None], 3), polynomials(z, 2), len(y)
    theta = fixed_features(phi, psi, y, alpha=0.2, ridge_u=0.1, ridge_f=0.01)
    c = psi.T @ phi / n
    g = np.linalg.inv(psi.T @ psi / n + 0.1 * np.eye(psi.shape[1]))
    by_hand = np.linalg.solve(c.T @ g @ c + 0.2 * phi.T @ phi / n + 0.01 * np.eye(phi.shape[1]), c.T @ g @ psi.T @ y / n)
    np.testing.assert_allclose(theta, by_hand, atol=1e-8)


def test_the_tikhonov_path_shrinks_the_function():
    x, y, z = linear_problem()
    phi = polynomials(x[:, None], 2)
    sizes = [np.square(phi @ fixed_features(phi, polynomials(z, 2), y, alpha=a)).mean() for a in np.geomspace(1e-3, 10, 8)]
    assert np.all(np.diff(sizes) < 0)


def test_too_few_instruments_is_one_clear_line():
    with pytest.raises(ReproError, match="as many instruments as regressors: 1 for 2"):
        tsls(np.ones((5, 2)), np.ones((5, 1)), np.ones(5))


def test_violation_is_the_maximum_over_linear_adversaries():
    rng = np.random.default_rng(0)
    r, psi = rng.standard_normal(50), rng.standard_normal((50, 4))
    nu = np.linalg.solve(psi.T @ psi, psi.T @ r)
    at = lambda v: np.mean(r * (psi @ v)) - np.mean((psi @ v) ** 2) / 2  # noqa: E731
    assert violation(r, psi) == pytest.approx(at(nu))
    assert all(at(nu + 0.1 * rng.standard_normal(4)) < violation(r, psi) for _ in range(20))


def test_moment_check_sees_a_wrong_function():
    x, y, z = linear_problem(4000)
    psi = sieve(z, 3, 60)
    assert psi.shape[1] == 20 and sieve(np.ones((2, 20)), 3, 60).shape[1] == 21
    assert moment_check(y - x, psi) < 4 < 10 < moment_check(y - 1.3 * x, psi)


def test_first_stage_f_is_the_textbook_one():
    rng = np.random.default_rng(0)
    x, z, c = rng.standard_normal(100), rng.standard_normal((100, 2)), np.ones((100, 1))
    assert first_stage_f(x, z, c) < 5 < 100 < first_stage_f(x + 3 * z[:, 0], z, c)


# -- KIV --------------------------------------------------------------------------------------------------------------


def peer_kiv(first, second, ridges):
    """One solve for each value, as the authors' code: the reference for predictions."""
    (x, y, z), (x2, y2, z2) = ((a[:, 0] if a.ndim == 3 else a for a in half) for half in (first, second))
    n, m, scale_x, scale_z = len(y), len(y2), kiv.median_scale(x), kiv.median_scale(z)
    kxx, kzz, kzz2, kxx2 = kiv.rbf(x, x, scale_x), kiv.rbf(z, z, scale_z), kiv.rbf(z, z2, scale_z), kiv.rbf(x, x2, scale_x)
    gammas = [np.linalg.solve(kzz + n * l1 * np.eye(n), kzz2) for l1 in ridges]
    gamma = gammas[int(np.argmin([np.trace(g.T @ kxx @ g - 2 * kxx2.T @ g) for g in gammas]))]
    w = kxx @ gamma
    betas = [np.linalg.lstsq(w @ w.T + m * l2 * kxx, w @ y2, rcond=None)[0] for l2 in ridges]
    beta = betas[int(np.argmin([np.linalg.norm(y - kxx @ b) for b in betas]))]
    return lambda t: kiv.rbf(t, x, scale_x) @ beta


def test_kiv_grids_equal_one_solve_for_each_value():
    toy = Toy(kind="toy", g="sin", instruments="two", **SIZES)
    halves = [(s.x, s.y, s.z) for s in (toy.draw(120, np.random.default_rng(i), "train") for i in (0, 1))]
    ridges = np.logspace(-1, -4, 4)
    points = np.linspace(-3, 3, 40)[:, None]
    np.testing.assert_allclose(kiv.fit(*halves, np.ones(1), ridges)(points), peer_kiv(*halves, ridges)(points), atol=1e-5)


def test_kiv_beats_regression_on_an_endogenous_design():
    toy = Toy(kind="toy", g="sin", instruments="one", **SIZES)
    halves = [(s.x, s.y, s.z) for s in (toy.draw(400, np.random.default_rng(i), "train") for i in (0, 1))]
    test = toy.draw(500, np.random.default_rng(2), "test")
    fitted = kiv.fit(*halves, np.ones(1), np.logspace(-2, -10, 50))
    biased = polynomials(test.x[:, 0], 5) @ ols(polynomials(halves[0][0][:, 0], 5), halves[0][1])
    assert np.square(fitted(test.x[:, 0]) - test.g).mean() < 0.3 * np.square(biased - test.g).mean()


# -- games ------------------------------------------------------------------------------------------------------------


def test_objectives_agree_at_u_zero():
    residual, zero, f = torch.randn(3, 20), torch.zeros(3, 20), torch.randn(3, 20)
    values = [o(residual, zero, f, 0.0) for o in (sem, agmm, deepgmm)]
    assert all(torch.equal(v.abs(), torch.zeros(3)) for v in values)
    for objective, sign in ((sem, 1), (agmm, -1), (deepgmm, 1)):  # and so do their first steps for u
        u = zero.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(objective(residual, u, f, 0.0).sum(), u)[0], sign * residual / 20)


def test_a_larger_penalty_on_u_only_rescales_it():
    """With c u^2 in place of u^2/2 the rescaled u = v / (2 c) gives the same game up to the factor 1 / (2 c)."""
    r, v, c = torch.randn(1000, generator=torch.Generator().manual_seed(0)), torch.randn(1000, generator=torch.Generator().manual_seed(1)), 1.7
    u = v / (2 * c)
    assert ((r * u - c * u**2).mean()).item() == pytest.approx(sem(r, v, v, 0.0).item() / (2 * c), rel=1e-5)
    assert (agmm(r, -v / 2, v, 0.0)).item() == pytest.approx(sem(r, v, v, 0.0).item() / 2, rel=1e-5)  # c = 1, opposite sign


def test_optimistic_adam_solves_a_bilinear_game_and_adam_circles():
    def distance(optimistic: bool) -> float:
        xy = torch.tensor([[1.0], [1.0]])
        opt = OptimisticAdam(xy, torch.full((2, 1), 0.01), torch.zeros(2, 1), torch.full((2, 1), 0.99), optimistic=optimistic)
        for t in range(1, 3001):
            opt.step(torch.stack([xy[1], -xy[0]]), t, 1.0)
        return xy.norm().item()

    assert 10 * distance(True) < distance(False) and distance(True) < 0.05


def test_optimistic_adam_is_the_written_update():
    theta, g = torch.tensor([[0.5, -1.0]]), [torch.tensor([[0.3, -0.2]]), torch.tensor([[0.1, 0.4]])]
    opt = OptimisticAdam(theta, torch.tensor([[0.1]]), torch.tensor([[0.5]]), torch.tensor([[0.9]]))
    expected, m, v, before = theta.clone(), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)
    for t, gradient in enumerate(g, 1):
        opt.step(gradient.clone(), t, 1.0)
        m, v = 0.5 * m + 0.5 * gradient, 0.9 * v + 0.1 * gradient**2
        d = 0.1 * (m / (1 - 0.5**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-8)
        expected, before = expected - 2 * d + before, d
    torch.testing.assert_close(theta, expected)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_stack_has_the_gradients_of_its_members(name):
    """Each member's gradients are those of a network alone, by torch's own layers."""
    f, u = (Mlp([2, 5, 4, 1], [torch.Generator().manual_seed(s) for s in range(3)]) for _ in range(2))
    u.theta_MP.neg_()
    g = torch.Generator().manual_seed(9)
    x, y, z = torch.randn(3, 2, 2, 6, generator=g), torch.randn(3, 6, generator=g), torch.randn(3, 2, 6, generator=g)
    c = torch.tensor([1.0, -0.5])
    g_f, g_u, _ = gradients(OBJECTIVES[name], f, u, x, y, z, c, 0.1)
    for member in range(3):
        nets = []
        for stack in (f, u):
            net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.LeakyReLU(), torch.nn.Linear(5, 4), torch.nn.LeakyReLU(), torch.nn.Linear(4, 1))
            torch.nn.utils.vector_to_parameters(stack.theta_MP[member], net.parameters())
            nets.append(net)
        values = [nets[0](x[member, :, k].T)[:, 0] for k in range(2)]
        residual = values[0] - 0.5 * values[1] - y[member]
        loss = OBJECTIVES[name](residual, nets[1](z[member].T)[:, 0], values[0], 0.1)
        for net, grads in zip(nets, (g_f, g_u)):
            own = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True, materialize_grads=True)
            torch.testing.assert_close(grads[member], torch.cat([o.flatten() for o in own]), atol=1e-6, rtol=1e-4)


# -- designs ----------------------------------------------------------------------------------------------------------

DESIGNS = [
    Toy(kind="toy", g="sin", instruments="two", **SIZES),
    Toy(kind="toy", g="quadratic", instruments="one", **SIZES),
    Demand(kind="demand", rho=0.9, **SIZES),
    Sigmoid(kind="sigmoid", **SIZES),
    Gaussian(kind="gaussian", **SIZES),
    Market(kind="market", side="demand", **SIZES),
    Market(kind="market", side="supply", **SIZES),
    Panel(kind="panel", **SIZES),
    Lake(kind="lake", gamma=0.9, behaviour=0.5, evaluated=0.1, horizon=15, **SIZES),
]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: f"{d.kind}-{getattr(d, 'g', getattr(d, 'side', ''))}")
def test_the_truth_satisfies_the_moments(design):
    """E[m(f; X) - Y | Z] = 0 at the true f, by the t statistics over a sieve; and not at a wrong one."""
    s = design.draw(40_000, np.random.default_rng(0), "train")
    residual = sum(c * design.truth(s.x[:, k]) for k, c in enumerate(design.c)) - s.y
    psi = sieve((s.z - s.z.mean(0)) / s.z.std(0), 2, 60)
    psi = psi[:, psi.std(0) > 0]
    assert moment_check(residual, psi) < 4.5
    assert moment_check(residual + 0.3 * s.y.std() * s.z[:, 0], psi) > 6


@pytest.mark.parametrize("design", [d for d in DESIGNS if d.kind not in ("lake", "gaussian")], ids=lambda d: f"{d.kind}-{getattr(d, 'g', getattr(d, 'side', ''))}")
def test_regressors_are_endogenous(design):
    """Without instruments the same check fails: the error is correlated with functions of X."""
    s = design.draw(40_000, np.random.default_rng(0), "train")
    residual = sum(c * design.truth(s.x[:, k]) for k, c in enumerate(design.c)) - s.y
    x = s.x @ np.ones(1) if s.x.shape[1] == 1 and s.x.shape[2] == 1 else s.x[:, 0]
    x = x.reshape(len(x), -1)
    assert moment_check(residual, sieve((x - x.mean(0)) / x.std(0), 2, 60)) > 6


@pytest.mark.parametrize("side", ["demand", "supply"])
def test_regression_is_biased_by_as_much_on_both_sides_of_the_market(side):
    """Its limit, a polynomial on many examples, is off by 4 % of Var Y."""
    s = Market(kind="market", side=side, **SIZES).draw(100_000, np.random.default_rng(0), "train")
    phi = polynomials(s.x[:, 0], 7)
    assert np.square(phi @ ols(phi, s.y) - s.g).mean() / s.y.var() == pytest.approx(0.04, abs=0.003)


def test_the_lake_takes_thousands_of_examples():
    """Rewards are rare: with 1000 examples even the exact tabular solution, one parameter a pair, is off by more than a quarter of Var Q."""
    lake = DESIGNS[-1]
    pairs = lambda x_ND: np.einsum("ns,na->nsa", x_ND[:, :16], x_ND[:, 16:]).reshape(len(x_ND), -1)  # noqa: E731
    test, error = lake.draw(10_000, np.random.default_rng(99), "test"), {}
    for n in (1000, 4000):
        errors = []
        for seed in range(6):
            s = lake.draw(n, np.random.default_rng(seed), "train")
            q_P = np.linalg.lstsq(pairs(s.x[:, 0]).T @ (pairs(s.x[:, 0]) - 0.9 * pairs(s.x[:, 1])), pairs(s.x[:, 0]).T @ s.y, rcond=1e-6)[0]
            errors.append(np.square(pairs(test.x[:, 0]) @ q_P - test.g).mean() / test.g.var())
        error[n] = np.mean(errors)
    assert error[4000] < 0.25 < error[1000]


def test_images_show_the_digit_and_pools_are_disjoint():
    design = Digits(kind="digits", g="abs", images="xz", **SIZES)
    images = {part: {tuple(row) for row in design.draw(3000, np.random.default_rng(0), part).x[:, 0]} for part in PARTS}
    assert not images["train"] & images["test"] and not images["train"] & images["dev"]
    s = design.draw(50, np.random.default_rng(1), "test")
    assert s.x.shape == (50, 1, 64) and s.z.shape == (50, 64) and set(np.round(s.g * 1.5).astype(int)) <= set(range(6))


CARTPOLE = CartPole(kind="cartpole", gamma=0.9, behaviour=0.5, evaluated=0.2, horizon=20, rollouts=400, seeds=2, n=10, dev=10, test=10)


def test_cartpole_moves_as_the_library_s():
    env = gymnasium.make("CartPole-v1").unwrapped
    rng = np.random.default_rng(0)
    s, a = rng.uniform(-0.15, 0.15, (30, 4)), rng.integers(0, 2, 30)
    after, reward = CARTPOLE.step(s, a, rng)
    for i in range(30):
        env.reset(seed=0)
        env.state = s[i]
        np.testing.assert_allclose(after[i], env.step(int(a[i]))[0], atol=1e-6)
    assert reward.all()
    fallen, reward = CARTPOLE.step(np.array([[0.0, 0.0, 0.21, 2.0]]), np.array([0]), rng)
    assert reward[0] == 0 and np.abs(fallen).max() <= 0.05


def test_cartpole_truth_follows_the_bellman_equation():
    rng = np.random.default_rng(3)
    s, a = rng.uniform(-0.2, 0.2, (15, 4)), rng.integers(0, 2, 15)
    after, reward = CARTPOLE.step(s, a, rng)
    lean = (after[:, 2] + 0.5 * after[:, 3] > 0).astype(int)
    both = [CARTPOLE.monte_carlo(after, action, rng) for action in (lean, 1 - lean)]
    right = reward + 0.9 * (0.9 * both[0] + 0.1 * both[1])
    np.testing.assert_allclose(CARTPOLE.monte_carlo(s, a, rng)[reward == 1], right[reward == 1], atol=0.25)
    sample = CARTPOLE.draw(60, rng, "test")
    assert sample.x.shape == (60, 2, 5) and 0 < sample.g.min() <= sample.g.max() <= 10


def test_standardising_keeps_the_moment():
    """m(f; X) - Y changes only in scale, also where c does not sum to 1."""
    for design in (DESIGNS[0], DESIGNS[-2], DESIGNS[-1]):
        split = {part: design.draw(500, np.random.default_rng(i), part) for i, part in enumerate(PARTS)}
        arrays = standardise(split, design.c, split["train"].x[:5, 0], design.truth(split["train"].x[:5, 0]))
        if design.c == [1.0]:
            residual = arrays["g_train"] - arrays["y_train"]
            np.testing.assert_allclose(residual * arrays["y_sd"], split["train"].g - split["train"].y, atol=1e-12)
        else:
            np.testing.assert_allclose(arrays["g_train"] * arrays["y_sd"], split["train"].g)


def one_set(design, n: int = 1500, seed: int = 0) -> dict[str, np.ndarray]:
    split = {part: design.draw(n, np.random.default_rng(seed + i), "train") for i, part in enumerate(PARTS)}
    x = split["test"].x[:, 0]
    return standardise(split, design.c, x, design.truth(x)) | {"c": np.array(design.c)}


def test_closed_form_estimators_recover_what_they_can():
    half = np.random.default_rng(0).permutation(1500)
    gaussian, sin, panel = (one_set(d) for d in (DESIGNS[4], DESIGNS[0], DESIGNS[-2]))
    error = lambda f, d: np.square(f(d["x_test"][:, 0]) - d["g_test"]).mean()  # noqa: E731
    linear, poly = Tsls(method="tsls"), Polynomial(method="poly", degrees_x=[1, 2, 3], degrees_z=[1, 2, 3], ridges=[0.0, 0.01], largest=0.2)
    rkhs = Rkhs(method="rkhs", landmarks=100, alpha=0.0, ridges_u=[1e-2], ridges_f=[1e-4, 1e-3])
    assert error(linear.fit(gaussian, half)[0], gaussian) < 0.01
    assert error(poly.fit(sin, half)[0], sin) < 0.05
    assert error(rkhs.fit(sin, half)[0], sin) < 0.1
    f = linear.fit(panel, half)[0]
    assert np.isfinite(f(panel["x_test"][:, 0])).all()


def test_of_candidates_that_dev_data_cannot_tell_apart_the_smoothest_is_chosen():
    x, y, z = linear_problem(2000)
    d = {"x_dev": x[:, None, None], "y_dev": y, "z_dev": z, "c": np.ones(1)}
    fit = lambda slope, roughness: Candidate((roughness,), lambda x_TD: slope * x_TD[:, 0], f"{slope}")  # noqa: E731
    assert choose([fit(1.0, 3), fit(1.005, 1), fit(1.2, 0)], d)[1] == "1.005"  # 1.2 is smoother still, but violates the moments
    assert choose([fit(1.0, 1), fit(1.2, 1), fit(1.005, 2)], d)[1] == "1.0"


def test_kernel_features_choose_nearly_the_best_of_their_ridges():
    """The choice sees no test data, and yet: at most twice the error of the best ridge in hindsight, over four data sets."""
    grid = {"ridges_u": [1e-4, 1e-3, 1e-2], "ridges_f": [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]}
    chosen, best = [], []
    for seed in range(4):
        d, half = one_set(Toy(kind="toy", g="abs", instruments="two", **SIZES), seed=3 * seed), np.random.default_rng(seed).permutation(1500)
        error = lambda d=d, half=half, **ridges: np.square(Rkhs(method="rkhs", landmarks=100, alpha=0.0, **ridges).fit(d, half)[0](d["x_test"][:, 0]) - d["g_test"]).mean()  # noqa: E731
        best.append(min(error(ridges_u=[u], ridges_f=[f]) for u in grid["ridges_u"] for f in grid["ridges_f"]))
        chosen.append(error(**grid))
    assert np.mean(chosen) < 2 * np.mean(best)


# -- real data --------------------------------------------------------------------------------------------------------

MIRROR = Path(os.environ.get("REPRISE_MIRROR", "")) / "semgame"
needs_files = [pytest.mark.mirror, pytest.mark.skipif(not (MIRROR / "card.csv").exists(), reason="REPRISE_MIRROR has no semgame/card.csv: set it to a folder with the real files")]


@pytest.mark.parametrize("known", [pytest.param(k, marks=needs_files, id=k[0]) for k in (("card", 0.0747, 0.1315), ("cigarettes", -1.4065, -1.2774), ("fish", -0.5247, -0.8158), ("mroz", 0.1075, 0.0614), ("engel", -0.1459, -0.1600))])
def test_the_textbook_coefficients(known):
    name, least_squares, two_stage = known
    found = PROBLEMS[name](MIRROR).linear()
    assert round(found["ols"], 4) == least_squares and round(found["tsls"], 4) == two_stage


@pytest.mark.parametrize("name", [pytest.param("card", marks=needs_files)])
def test_fixed_features_are_tsls_on_card(name):
    p: Problem = PROBLEMS[name](MIRROR)
    one = np.ones((len(p.y), 1))
    phi, psi = np.column_stack([p.x, p.controls, one]), np.column_stack([p.z, p.controls, one])
    np.testing.assert_allclose(fixed_features(phi, psi, p.y)[0], tsls(phi, psi, p.y)[0], atol=1e-10)


@pytest.mark.parametrize("name", [pytest.param(n, marks=needs_files) for n in PROBLEMS])
def test_real_problems_split_into_all_their_rows(name):
    design = Real(kind="real", problem=name, seeds=2, n=6, dev=2, test=2)
    split = design.splits(np.random.default_rng(0), MIRROR)
    rows = {"engel": 1519, "card": 3010, "mroz": 428, "fish": 97, "cigarettes": 48, "employment": 611}[name]
    assert sum(len(s.y) for s in split.values()) == rows and all(np.isfinite(s.x).all() and np.isfinite(s.z).all() for s in split.values())
    assert split["train"].x.shape[1] == len(design.c)
