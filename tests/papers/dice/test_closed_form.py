"""Saddle points in closed form against independent solvers, and what theory says about their read-outs."""

from itertools import product

import numpy as np
import pytest
import torch

from reprise.errors import ReproError
from reprise.kits.offpolicy import estimators, policies, simulate, tables
from reprise.papers.dice.closed_form import Problem, Saddle, readouts, saddle
from reprise.papers.dice.environments import setting
from reprise.papers.dice.exact import residual
from reprise.papers.dice.finite import estimates
from reprise.papers.dice.objective import ESTIMATORS, Switches

FREE = [Switches(q, z, r, False, n) for (q, z), r, n in product(((0.7, 0), (0, 0.7)), (0, 1), (False, True))]


def problem(seed=0, states=6, actions=3, gamma=0.9, shift=0.0):
    rng = np.random.default_rng(seed)
    mdp = tables.random_mdp(states, actions, rng)
    mdp = tables.Table(mdp.P_SAS, mdp.R_SAS + shift, mdp.mu0_S)
    return Problem(mdp, rng.dirichlet(np.ones(actions), states), rng.dirichlet(np.ones(states * actions)).reshape(states, actions), gamma)


def dense(p):
    """B = gamma P - I over pairs, D, mu, r, m, written out."""
    m = p.d_SA.size
    P = (p.table.P_SAS[..., None] * p.policy_SA).reshape(m, m)
    return p.gamma * P - np.eye(m), np.diag(p.d_SA.ravel()), p.mu_SA.ravel(), p.table.R_SA.ravel(), m


@pytest.mark.parametrize("switches", FREE, ids=str)
def test_free_saddles_solve_the_stationarity_system(switches):
    """One dense solve of the three stationarity conditions; with alpha_Q = 0 the flat direction is fixed by lambda = 0."""
    p = problem()
    B, D, mu, r, m = dense(p)
    with_lambda = switches.normalised and switches.alpha_q > 0
    one, none = np.ones((m, 1)), np.zeros((1, m))
    mass, corner = (one.T @ D, 0.0) if with_lambda else (none, 1.0)  # d^D' zeta = 1, or lambda = 0
    by_q, by_zeta = [switches.alpha_q * D, B.T @ D, none.T], [B, -switches.alpha_zeta * np.eye(m), -one]
    system = np.block([by_q, by_zeta, [none, mass, np.array([[corner]])]])
    solved = np.linalg.solve(system, np.concatenate([-(1 - p.gamma) * mu, -switches.alpha_r * r, [1.0 if with_lambda else 0.0]]))
    found = saddle(p, switches)
    assert np.allclose(found.Q_SA.ravel(), solved[:m], atol=1e-8)
    assert np.allclose(found.zeta(p).ravel(), solved[m:-1], atol=1e-8)
    assert found.lam == pytest.approx(solved[-1], abs=1e-8)
    assert residual(p, switches, found) < 1e-12


def project(x, total):
    """The nearest point with x >= 0, and sum x = total if given."""
    if total is None:
        return np.maximum(x, 0)
    u = np.sort(x)[::-1]
    over = np.cumsum(u) - total
    k = np.flatnonzero(u - over / np.arange(1, len(x) + 1) > 0)[-1]
    return np.maximum(x - over[k] / (k + 1), 0)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_the_positive_saddle_is_what_projected_gradients_find(alpha, normalised):
    p = problem(3, states=4, actions=2, gamma=0.7, shift=-1.0)
    p = Problem(tables.Table(p.table.P_SAS, 5 / alpha * p.table.R_SAS, p.table.mu0_S), p.policy_SA, p.d_SA, p.gamma)
    switches = Switches(alpha, 0, 1, True, normalised)
    found = saddle(p, switches)
    assert found.x_SA.min() == 0  # the constraint binds, or the test shows nothing
    B, D, mu, r, m = dense(p)
    H = B @ np.linalg.inv(D) @ B.T / alpha
    c = r - B @ np.linalg.inv(D) @ mu * (1 - p.gamma) / alpha
    x, step = np.full(m, 1 / m), 1 / np.linalg.eigvalsh(H).max()
    before, y = x, x
    for k in range(40_000):  # Nesterov's acceleration, restarted
        x = project(y - step * (H @ y - c), 1.0 if normalised else None)
        y = x + (k % 500) / (k % 500 + 3) * (x - before)
        before = x
    assert np.allclose(found.x_SA.ravel(), x, atol=1e-8)
    assert residual(p, switches, found) < 1e-10


def test_dual_regularised_closed_forms():
    p = problem()
    rho, d = tables.value(p.table, p.policy_SA, p.gamma), tables.occupancy(p.table, p.policy_SA, p.gamma)
    moment = (d**2 / p.d_SA).sum()
    for alpha, alpha_r, positive, normalised in product((0.1, 1.0), (0, 1), (False, True), (False, True)):
        found = saddle(p, Switches(0, alpha, alpha_r, positive, normalised))
        assert np.allclose(found.x_SA, d, atol=1e-12)
        out = readouts(p, found)
        assert out["dual"] == pytest.approx(rho, abs=1e-12) and out["lagrangian"] == pytest.approx(rho, abs=1e-12)
        assert out["primal"] == pytest.approx(alpha_r * rho - alpha * moment, abs=1e-10)


def test_lambda_and_a_constant_in_q_are_one_flat_direction():
    p = problem()
    switches = ESTIMATORS["best_r1"]
    found = saddle(p, switches)
    moved = Saddle(found.Q_SA + 3.0, found.x_SA, found.lam - 3.0 * (1 - p.gamma))
    assert residual(p, switches, moved) < 1e-12
    assert all(np.allclose(a, b, atol=1e-10) for a, b in zip(readouts(p, found).values(), readouts(p, moved).values()))


def test_primal_regularised_closed_forms():
    p = problem()
    Q, rho = tables.action_values(p.table, p.policy_SA, p.gamma), tables.value(p.table, p.policy_SA, p.gamma)
    free = saddle(p, Switches(0.5, 0, 1, False, False))
    assert np.allclose(free.Q_SA, Q, atol=1e-12)
    normalised = saddle(p, Switches(0.5, 0, 1, False, True))
    assert (p.d_SA * normalised.Q_SA).sum() == pytest.approx(0, abs=1e-12) and normalised.x_SA.sum() == pytest.approx(1)
    assert np.allclose(normalised.Q_SA - Q, (normalised.Q_SA - Q)[0, 0], atol=1e-10)
    assert readouts(p, normalised)["primal"] == pytest.approx(rho, abs=1e-12)
    left_out = saddle(p, Switches(0.5, 0, 0, True, True))
    assert np.abs(left_out.Q_SA).max() < 1e-12 and np.allclose(left_out.x_SA, tables.occupancy(p.table, p.policy_SA, p.gamma), atol=1e-12)


def test_positivity_changes_nothing_where_the_free_solution_is_positive():
    p = problem(shift=0.0)  # rewards >= 0, no lambda
    free, positive = (saddle(p, Switches(1, 0, 1, constrained, False)) for constrained in (False, True))
    assert np.allclose(free.x_SA, positive.x_SA, atol=1e-9)
    assert readouts(p, positive)["primal"] == pytest.approx(tables.value(p.table, p.policy_SA, p.gamma), abs=1e-9)


def test_double_robustness():
    p, rng = problem(), np.random.default_rng(1)
    rho, d = tables.value(p.table, p.policy_SA, p.gamma), tables.occupancy(p.table, p.policy_SA, p.gamma)
    Q = tables.action_values(p.table, p.policy_SA, p.gamma)
    anything = rng.normal(size=Q.shape)
    out = readouts(p, Saddle(anything, d, np.array(0.7)))
    assert out["lagrangian"] == pytest.approx(rho, abs=1e-12) and out["dual"] == pytest.approx(rho, abs=1e-12)
    x = rng.random(Q.shape)
    assert readouts(p, Saddle(Q, x, np.array(0.0)))["lagrangian"] == pytest.approx(rho, abs=1e-12)
    shifted = Saddle(Q - 0.7 / (1 - p.gamma), x / x.sum(), np.array(0.7))
    assert readouts(p, shifted)["lagrangian"] == pytest.approx(rho, abs=1e-12)
    assert abs(readouts(p, Saddle(anything, x, np.array(0.0)))["lagrangian"] - rho) > 1e-3


def test_on_policy_data_have_ratio_one():
    p = problem()
    stationary = tables.stationary(p.table, p.policy_SA)
    on = Problem(tables.Table(p.table.P_SAS, p.table.R_SAS, stationary), p.policy_SA, stationary[:, None] * p.policy_SA, p.gamma)
    assert np.allclose(saddle(on, ESTIMATORS["dual_dice"]).zeta(on), 1, atol=1e-10)


def test_cartpole_s_game_settles_at_the_rate_of_the_discount_squared():
    """Q and zeta linear in quadratic features, zeta at its optimum, Q by gradient flow: the slow modes have singular values of
    about 1 - gamma, and a game that is given the reward starts much nearer its end than one that is not."""
    chosen = setting("cartpole")
    data = simulate.rollout(chosen.env, chosen.behaviour, 50, 250, np.random.default_rng(0))

    def features(states, weight_NA):
        x = chosen.env.observe(states)
        x = np.concatenate([np.ones((len(x), 1)), x, *(x[:, i : i + 1] * x[:, i:] for i in range(4))], -1)
        return (weight_NA[..., None] * x[:, None]).reshape(len(x), -1)

    s, after = data.s.reshape(-1, 4), data.s_next.reshape(-1, 4)
    phi, phi_next = features(s, np.eye(2)[data.a.ravel()]), features(after, chosen.target.probabilities(after))
    phi_start = features(data.start, chosen.target.probabilities(data.start)).mean(0)
    white = np.linalg.inv(np.linalg.cholesky(phi.T @ phi / len(phi))).T
    r = white.T @ phi.T @ data.r.ravel() / len(phi)

    def errors(gamma, time):
        """How far E_D[zeta r] is from its limit after a time, without and with the reward in the game."""
        U, sigma, V = np.linalg.svd(white.T @ (phi - gamma * phi_next).T @ phi @ white / len(phi))
        limit = (U.T @ white.T @ phi_start) * (1 - gamma) / sigma
        return sigma.min(), [abs((V @ r * (V @ first - limit) * np.exp(-(sigma**2) * time)).sum()) for first in (0 * r, r)]

    for gamma in (0.99, 0.95):
        slowest, (without, with_reward) = errors(gamma, 1 / (1 - gamma) ** 2)
        assert (1 - gamma) / 3 < slowest < 3 * (1 - gamma)
        assert without < 0.5 and with_reward < without / 2
        assert max(errors(gamma, 20 / (1 - gamma) ** 2)[1]) < 0.01
    assert errors(0.99, 1 / (1 - 0.95) ** 2)[1][0] > 0.8  # what suffices at .95 has hardly begun at .99


def test_in_a_bandit_all_dual_estimators_are_weighted_importance_sampling():
    bandit, target, behaviour = tables.bandit([0.2, 0.7]), np.array([[0.1, 0.9]] * 2), np.array([[0.6, 0.4]] * 2)
    data = simulate.rollout(bandit, behaviour, 300, 1, np.random.default_rng(0))
    count, start = simulate.counts(data, bandit)
    model = tables.empirical(count, bandit.R_SAS, start)
    p = Problem(model, target[None], count.sum(-1) / 300, 0.0)
    share = count[0, 0].sum(-1) / 300  # the behaviour as the data show it
    weighted = estimators.importance_sampling(data.r, (target[0] / share)[data.a], 0.5, "weighted_step")
    for name in ("dual_dice", "gen_dice", "gradient_dice", "mwl", "best_r0", "best_r1"):
        point = saddle(p, ESTIMATORS[name])
        assert np.allclose(point.zeta(p)[0, 0], target[0] / share, atol=1e-12)
        assert readouts(p, point)["dual"][0] == pytest.approx(weighted, abs=1e-12)


def test_named_estimators_are_the_plug_in_on_data_that_cover_the_policy():
    chosen = setting("random", 5, np.random.default_rng(0))
    data = simulate.rollout(chosen.env, chosen.behaviour, 40, 100, np.random.default_rng(1))
    found, covered = estimates(chosen, data, 4, 0.9, 400)
    assert covered.all()
    for name in (*ESTIMATORS, "fqe", "primal_r1_primal"):
        if name != "primal_r1":
            assert np.allclose(found[name], found["plug_in"], atol=1e-10), name
    assert np.abs(found["primal_r1_dual"] - found["plug_in"]).min() > 1e-3


def test_unseen_states_leave_a_data_set_uncovered():
    lake = setting("frozenlake")
    data = simulate.rollout(lake.env, lake.behaviour, 20, 5, np.random.default_rng(0))
    _, covered = estimates(lake, data, 20, 0.9, 10)
    assert 0 < covered.sum() < 20


def test_batched_closed_forms_equal_looped():
    chosen = setting("random", 5, np.random.default_rng(0))
    data = simulate.rollout(chosen.env, chosen.behaviour, 12, 100, np.random.default_rng(1))
    together, _ = estimates(chosen, data, 4, 0.9, 50)
    for b in range(4):
        alone, _ = estimates(chosen, data[3 * b : 3 * b + 3], 1, 0.9, 50)
        assert all(np.isclose(together[k][b], alone[k][0], rtol=1e-9, atol=1e-10) for k in together)


def test_what_has_no_closed_form_says_so():
    for switches in (Switches(1, 1, 1, False, False), Switches(0, 1, 1, False, False, p=1.5)):
        with pytest.raises(ReproError, match="closed forms"):
            saddle(problem(), switches)


def test_restricting_a_policy_keeps_it_where_all_is_seen():
    p = problem()
    assert np.allclose(policies.restrict(p.policy_SA, np.ones_like(p.policy_SA)), p.policy_SA, atol=1e-15)
    assert torch.get_default_dtype() == torch.float32
