"""The simulators against the tables, gymnasium and MuJoCo, and the estimators on what they produce."""

import numpy as np
import pytest
from scipy import stats

from reprise.errors import ReproError
from reprise.kits.offpolicy import estimators, policies, simulate, tables


@pytest.fixture
def lake():
    table = tables.frozenlake()
    way = policies.greedy(table, 0.99)
    return table, policies.mix(way, 0.1), policies.mix(way, 0.3)


def test_rollouts_follow_the_table(lake):
    table, _, behaviour = lake
    data = simulate.rollout(table, behaviour, 2000, 50, np.random.default_rng(0))
    assert data.s.shape == data.a.shape == data.r.shape == (2000, 50)
    assert np.array_equal(data.s[:, 1:], data.s_next[:, :-1]) and (data.start == 0).all()
    count, start = simulate.counts(data, table)
    assert count.sum() == 100_000 and start[0, 0] == 2000
    exact = tables.visitation(table, behaviour, 50)
    assert np.abs(count[0].sum(-1) / 1e5 - exact).max() < 0.01
    rows = count[0].sum(-1, keepdims=True)
    assert np.abs(count[0] / np.maximum(rows, 1) - table.P_SAS)[rows[..., 0] > 500].max() < 0.08


def test_counts_of_datasets_are_those_of_their_trajectories(lake):
    table, _, behaviour = lake
    data = simulate.rollout(table, behaviour, 6, 10, np.random.default_rng(0))
    both, _ = simulate.counts(data, table, datasets=2)
    assert np.array_equal(both[1], simulate.counts(data[3:], table)[0][0])
    with pytest.raises(ReproError, match="do not divide"):
        simulate.counts(data, table, datasets=4)


def test_simulation_is_a_function_of_its_generator(lake):
    table, target, _ = lake
    first, second = (simulate.rollout(table, target, 5, 20, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.s, second.s) and np.array_equal(first.a, second.a)


def test_cartpole_moves_as_gymnasium_s():
    import gymnasium

    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    x = np.array(env.state)[None]
    ours, rng = simulate.CartPole(), np.random.default_rng(0)
    for _ in range(60):
        a = int(rng.integers(2))
        _, _, ended, _, _ = env.step(a)
        x, r = ours.step(x, np.array([a]), rng)
        assert np.allclose(x[0], env.state, atol=1e-12) and r[0] == (-1 if ended else 1)
        if ended:
            break
    assert ended


@pytest.mark.parametrize(("epsilon", "rho", "rho_se"), [(0.3, 0.9798, 0.0008), (0.45, 0.7578, 0.0027)])
def test_cartpole_rules_are_worth_what_long_simulations_say(epsilon, rho, rho_se):
    """20,000 episodes of 1500 steps gave these values; fewer must agree within the errors of both."""
    found, se = simulate.monte_carlo(simulate.CartPole(), policies.Threshold(epsilon), 0.99, 1000, 1500, np.random.default_rng(0))
    assert abs(found - rho) < 4 * np.hypot(se, rho_se) and se < 0.02


def test_samplers_draw_from_their_own_probabilities():
    rng, n = np.random.default_rng(0), 40_000
    policy = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    drawn = policies.sampler(policy)(np.repeat([0, 1], n), rng)
    assert np.abs(np.bincount(drawn[:n], minlength=3) / n - policy[0]).max() < 0.01 and (drawn[n:] == 1).all()
    rule, x = policies.Threshold(0.3), rng.normal(size=(4, 4))
    share = np.mean([rule.sample(x, rng) for _ in range(5000)], 0)
    assert np.abs(share - rule.probabilities(x)[:, 1]).max() < 0.03
    gaussian = policies.linear([[1.0, -2.0]], 0.5)
    a = gaussian.sample(x[:, :2], rng)
    assert np.allclose(gaussian.log_density(x[:, :2], a), stats.norm.logpdf(a[:, 0], x[:, 0] - 2 * x[:, 1], 0.5))


def test_lqr_value_is_the_monte_carlo_s():
    env, gain = simulate.LQR(), [[-0.3, -0.6]]
    assert env.value(gain, 0.3, 0.95) == pytest.approx(-0.291676831, abs=1e-9)
    assert env.value([[0.0, -0.2]], 0.6, 0.95) == pytest.approx(-0.525712975, abs=1e-9)
    rho, se = simulate.monte_carlo(env, policies.linear(gain, 0.3), 0.95, 4000, 250, np.random.default_rng(0))
    assert abs(rho - env.value(gain, 0.3, 0.95)) < 4 * se < 0.02


def test_the_reacher_twin_stays_beside_mujoco():
    pytest.importorskip("mujoco")
    twin, real, rng = simulate.Reacher(reset=0.0), simulate.MujocoReacher(reset=0.0), np.random.default_rng(0)
    x = twin.start(10, rng)
    y = x.copy()
    for _ in range(100):
        u = np.clip(policies.reach(0.1).sample(x, rng), -1, 1)
        x, y = twin.physics(x, u), real.physics(y, u)
    assert np.abs(x - y)[:, :2].max() < 3e-3


def test_reacher_reaches_and_restarts():
    env, rng = simulate.Reacher(), np.random.default_rng(0)
    near, far = (simulate.rollout(env, policies.reach(sd), 200, 100, rng) for sd in (0.1, 0.4))
    assert near.r.mean() > -0.2 > -0.4 > far.r.mean()
    moved = (near.s[..., 4:] != near.s_next[..., 4:]).any(-1).mean()
    assert moved == pytest.approx(0.03, abs=0.004)
    assert env.observe(near.s[:, 0]).shape == (200, 10)


def test_the_jacobian_is_the_fingertip_s_derivative():
    q, h = np.random.default_rng(0).normal(size=(5, 2)), 1e-6
    numeric = np.stack([(policies.fingertip(q + h * e) - policies.fingertip(q - h * e)) / (2 * h) for e in np.eye(2)], -1)
    assert np.allclose(policies.jacobian(q), numeric, atol=1e-9)


def test_importance_sampling_agrees_with_products_written_out():
    rng = np.random.default_rng(0)
    r, ratio, gamma = rng.normal(size=(4, 3)), rng.uniform(0.5, 2, (4, 3)), 0.9
    discount = np.array([1, 0.9, 0.81]) / 2.71
    w = np.stack([ratio[:, 0], ratio[:, 0] * ratio[:, 1], ratio.prod(-1)], -1)
    assert np.allclose(estimators.returns(r, ratio, gamma, "step"), (discount * w * r).sum(-1))
    assert np.allclose(estimators.returns(r, ratio, gamma, "trajectory"), w[:, -1] * (discount * r).sum(-1))
    assert np.allclose(estimators.importance_sampling(r, ratio, gamma, "weighted_step"), (discount * (w * r).sum(0) / w.sum(0)).sum())
    assert np.allclose(estimators.importance_sampling(r, ratio, gamma, "weighted_trajectory"), (w[:, -1] * (discount * r).sum(-1)).sum() / w[:, -1].sum())
    assert np.allclose(estimators.returns(r, None, gamma, "none"), (discount * r).sum(-1))
    batched = estimators.returns(np.stack([r, r]), np.stack([ratio, ratio]), gamma, "weighted_step")
    assert np.allclose(batched[1], estimators.returns(r, ratio, gamma, "weighted_step"))
    with pytest.raises(ReproError, match="unknown weighting"):
        estimators.returns(r, ratio, gamma, "stepwise")


def test_importance_sampling_is_unbiased(lake):
    """Over horizon 3 the ratios stay tame: the mean over many trajectories meets the target's own average."""
    table, target, behaviour = lake
    table = tables.Table(table.P_SAS, np.arange(16.0)[None, None], table.mu0_S)
    data = simulate.rollout(table, behaviour, 40_000, 3, np.random.default_rng(0))
    direct = simulate.rollout(table, target, 40_000, 3, np.random.default_rng(1))
    truth = estimators.importance_sampling(direct.r, None, 0.9, "none")
    ratio = (target / behaviour)[data.s, data.a]
    for weighting in ("step", "trajectory", "weighted_step", "weighted_trajectory"):
        X = estimators.returns(data.r, ratio, 0.9, weighting)
        assert abs(X.mean() - truth) < 4 * (X.std() + direct.r.std()) / 200
    assert abs(estimators.importance_sampling(data.r, ratio, 0.9, "none") - truth) > 0.02


def test_fitted_q_approaches_the_plug_in(lake):
    table, target, behaviour = lake
    data = simulate.rollout(table, behaviour, 100, 100, np.random.default_rng(0))
    model = tables.empirical(*_counted(data, table))
    plug_in = estimators.plug_in(model, target, 0.9)
    errors = [abs(estimators.fitted_q(model, target, 0.9, sweeps)[0] - plug_in)[0] for sweeps in (10, 50, 300)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-13


def _counted(data, table):
    count, start = simulate.counts(data, table)
    return count, table.R_SAS, start
