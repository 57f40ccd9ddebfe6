"""Saddle points and the interval: tabular, by features, by the damped iteration; invariances of the interval."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom

from reprise.errors import ReproError
from reprise.kits.offpolicy import policies, simulate, tables
from reprise.papers.coindice import bounds as fixed_point
from reprise.papers.coindice import damped, linear, solve, tabular
from reprise.papers.coindice.bounds import Ball
from reprise.papers.coindice.gel import DIVERGENCES, Sample, budget, tilt

LEVELS = np.array([0.6, 0.8, 0.95])


@pytest.fixture(scope="module")
def case():
    """A random MDP with logged data of three datasets: (table, target, gamma, trajectories [B, N, T])."""
    rng = np.random.default_rng(0)
    table = tables.random_mdp(4, 2, rng)
    target = rng.dirichlet(np.ones(2), 4)
    log = simulate.rollout(table, np.full((4, 2), 0.5), 3 * 12, 10, rng)
    return table, target, 0.9, simulate.Trajectories(*(x.reshape(3, 12, 10) for x in (log.s, log.a, log.r, log.s_next)))


def cells_of(log, pairing="two_sample", states=4, actions=2):
    return tabular.compress(log.s, log.a, log.s_next, log.r, states, actions, pairing)


def test_value_under_weights_is_the_plug_in_of_the_weighted_model(case):
    table, target, gamma, log = case
    cells = cells_of(log)
    model = tabular.Model(cells, target, gamma)
    w, v = Ball(cells.count_BC, cells.start_BS).uniform
    counts, starts = simulate.counts(simulate.Trajectories(*(x.reshape(-1, 10) for x in (log.s, log.a, log.r, log.s_next))), table, 3)
    empirical = tables.empirical(counts, table.R_SAS, starts)
    np.testing.assert_allclose(model(w, v)[0][:, 0], tables.value(empirical, target, gamma), rtol=1e-12)


def test_envelope_the_gradient_in_the_weights_is_ell(case):
    _, target, gamma, log = case
    cells = cells_of(log[:1])
    model = tabular.Model(cells, target, gamma)
    rng = np.random.default_rng(1)
    w = cells.count_BC[0] * rng.uniform(0.5, 1.5, len(cells.s_C))
    w, v = w / w.sum(), rng.dirichlet(np.ones(4))
    _, td, first = model(w[None, None], v[None, None])

    def rho(w, v):
        return model((w / w.sum())[None, None], (v / v.sum())[None, None])[0].item()

    h = 1e-6
    for x, terms, change in ((w, td[0, 0], lambda x: rho(x, v)), (v, first[0, 0], lambda x: rho(w, x))):
        gradient = np.array([(change(x + h * e) - change(x - h * e)) / (2 * h) for e in np.eye(len(x))])
        np.testing.assert_allclose(gradient, terms - x @ terms, atol=1e-6)
    assert (w @ td[0, 0]) == pytest.approx(0, abs=1e-12)


def test_the_ratio_is_positive_and_has_mean_one(case):
    _, target, gamma, log = case
    cells = cells_of(log)
    w, v = Ball(cells.count_BC, cells.start_BS).uniform
    for ratio_SA in (None, target / 0.5):
        _, _, tau = tabular.Model(cells, target, gamma, ratio_SA=ratio_SA).terms(w, v)
        assert (tau[w > 0] > 0).all()
        np.testing.assert_allclose((w * tau).sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("pairing", ["two_sample", "per_transition"])
def test_nested_in_the_level_around_the_estimate_and_symmetric_in_the_reward(case, divergence, pairing):
    _, target, gamma, log = case
    found = tabular.bounds(cells_of(log, pairing), target, gamma, LEVELS, divergence, pairing)
    assert (np.diff(found.lower, axis=1) < 0).all() and (np.diff(found.upper, axis=1) > 0).all()
    assert (found.lower < found.estimate[:, None]).all() and (found.estimate[:, None] < found.upper).all()
    mirrored = tabular.bounds(replace(cells_of(log, pairing), r_C=-cells_of(log, pairing).r_C), target, gamma, LEVELS, divergence, pairing)
    np.testing.assert_allclose(mirrored.lower, -found.upper, atol=1e-8)
    np.testing.assert_allclose(mirrored.upper, -found.lower, atol=1e-8)


def test_affine_rewards_map_affinely(case):
    _, target, gamma, log = case
    cells = cells_of(log)
    found = tabular.bounds(cells, target, gamma, LEVELS)
    other = tabular.bounds(replace(cells, r_C=3 * cells.r_C + 2), target, gamma, LEVELS)
    np.testing.assert_allclose(other.lower, 3 * found.lower + 2, atol=1e-7)
    np.testing.assert_allclose(other.upper, 3 * found.upper + 2, atol=1e-7)


def test_repeated_data_shrink_the_width_by_the_root(case):
    _, target, gamma, log = case
    cells = cells_of(log)
    widths = {}
    for k in (100, 400):
        found = tabular.bounds(replace(cells, count_BC=k * cells.count_BC, start_BS=k * cells.start_BS), target, gamma, LEVELS, tol=1e-12)
        widths[k] = found.upper - found.lower
        lower, _ = found.wald(LEVELS)
        np.testing.assert_allclose(found.lower, lower, atol=2 / k * widths[k].max())  # the first-order interval in the limit
    np.testing.assert_allclose(widths[100] / widths[400], 2, rtol=1e-3)


def test_against_a_generic_optimiser_over_all_weights(case):
    """SLSQP over w on the cells of one dataset, nothing else known of the problem."""
    _, target, gamma, log = case
    cells = cells_of(log[:1, :3])
    cells = replace(cells, start_BS=np.array([[1.0, 0, 0, 0]]))  # a known initial state: the transitions alone carry weights
    n, p = cells.count_BC.sum(), cells.count_BC[0] / cells.count_BC.sum()
    assert len(p) <= 30
    found = tabular.bounds(cells, target, gamma, np.array([0.8]), unseen="zero")
    model = tabular.Model(cells, target, gamma, "zero")
    v = cells.start_BS[:, None]
    xi = budget(0.8)
    constraints = [{"type": "eq", "fun": lambda t: p @ t - 1}, {"type": "ineq", "fun": lambda t: xi - n * (p @ (2 * t * np.log(t) - 2 * t + 2))}]
    for sign, ours in ((-1, found.lower), (1, found.upper)):
        best = minimize(lambda t, sign=sign: -sign * model((p * t)[None, None], v)[0].item(), np.ones(len(p)), bounds=[(1e-6, 20)] * len(p), constraints=constraints, options={"ftol": 1e-14, "maxiter": 400})
        assert ours.item() == pytest.approx(-sign * best.fun, abs=1e-6)


def test_compressed_equals_each_transition_by_itself_in_any_order(case):
    _, target, gamma, log = case
    found = tabular.bounds(cells_of(log[:1]), target, gamma, LEVELS, tol=1e-12)
    order = np.random.default_rng(2).permutation(120)
    s, a, after, r = (x[0].reshape(-1)[order] for x in (log.s, log.a, log.s_next, log.r))
    starts = np.bincount(log.s[0, :, 0], minlength=4)[None].astype(float)
    each = tabular.Cells(s, a, after, r, np.full(120, -1), np.ones((1, 120)), starts)
    single = tabular.bounds(each, target, gamma, LEVELS, tol=1e-12)
    np.testing.assert_allclose(single.lower, found.lower, atol=1e-10)
    np.testing.assert_allclose(single.upper, found.upper, atol=1e-10)


def test_batched_equals_looped(case):
    _, target, gamma, log = case
    together = tabular.bounds(cells_of(log), target, gamma, LEVELS, tol=1e-12)
    for b in range(3):
        alone = tabular.bounds(cells_of(log[b : b + 1]), target, gamma, LEVELS, tol=1e-12)
        np.testing.assert_allclose(alone.lower[0], together.lower[b], atol=1e-10)
        np.testing.assert_allclose(alone.upper[0], together.upper[b], atol=1e-10)


def test_damped_iteration_reaches_the_same_numbers(case):
    _, target, gamma, log = case
    cells = cells_of(log[:1], "per_transition")
    direct = tabular.bounds(cells, target, gamma, LEVELS, pairing="per_transition", tol=1e-12)
    slow = damped.bounds(cells, target, gamma, LEVELS, iterations=400, bisections=60)
    for ours, theirs in ((slow.lower, direct.lower), (slow.upper, direct.upper), (slow.estimate, direct.estimate), (slow.se, direct.se)):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)
    released = damped.bounds(cells, target, gamma, LEVELS[1:2], iterations=100)  # as launched: 100 rounds, 16 bisections
    assert np.abs(released.lower - direct.lower[:, 1:2]).max() < 0.05 * (direct.upper - direct.lower)[0, 1]
    with pytest.raises(ReproError, match="one dataset at a time, found 3"):
        damped.bounds(cells_of(log, "per_transition"), target, gamma, LEVELS)


def test_features_one_for_each_pair_are_the_tabular_case(case):
    _, target, gamma, log = case
    B, N, T = log.s.shape
    pair = np.eye(8)
    phi = pair[log.s * 2 + log.a].reshape(B, N * T, 8)
    expected = (target[:, :, None] * pair.reshape(4, 2, 8)).sum(1)
    for pairing in ("two_sample", "per_transition"):
        features = linear.Features(phi, log.r.reshape(B, -1), expected[log.s_next].reshape(B, N * T, 8), expected[log.s[:, :, 0]], gamma, np.repeat(np.arange(N), T))
        ours = linear.bounds(features, LEVELS, pairing=pairing, tol=1e-12)
        theirs = tabular.bounds(cells_of(log, pairing), target, gamma, LEVELS, pairing=pairing, unseen="zero", tol=1e-12)
        np.testing.assert_allclose(ours.lower, theirs.lower, atol=1e-9)
        np.testing.assert_allclose(ours.upper, theirs.upper, atol=1e-9)


def test_quadratic_features_average_over_the_policys_noise():
    rng = np.random.default_rng(3)
    s, mean, sd = rng.normal(size=(2, 2)), rng.normal(size=(2, 1)), 0.7
    noise = rng.normal(size=(200_000, 1))
    for row in range(2):
        sampled = linear.quadratic(np.repeat(s[row : row + 1], len(noise), 0), mean[row] + sd * noise).mean(0)
        np.testing.assert_allclose(linear.quadratic(s, mean, sd)[row], sampled, atol=0.02)
    with pytest.raises(ReproError, match="linearly dependent"):
        phi = np.ones((1, 5, 2))
        linear.bounds(linear.Features(phi, np.zeros((1, 5)), 0 * phi, np.ones((1, 3, 2)), 0.9), LEVELS)


def test_gamma_zero_is_the_mean_of_a_sample():
    x = np.random.default_rng(4).integers(0, 4, 40).astype(float)
    zero = np.zeros(40, int)
    cells = tabular.count(zero, zero - 1, zero, zero, zero, x, np.array([[40]]), 1, 1)
    for name in DIVERGENCES:
        found = tabular.bounds(cells, np.ones((1, 1)), 0.0, LEVELS, name)
        (t,), _ = tilt([Sample(np.tile(x, (3, 1)), np.ones((1, 40)))], budget(LEVELS), name)
        np.testing.assert_allclose(found.upper[0], (t * x).mean(-1), atol=1e-9)


def test_iterative_refinement_is_the_direct_solution(case, monkeypatch):
    _, target, gamma, log = case
    direct = tabular.bounds(cells_of(log), target, gamma, LEVELS)
    monkeypatch.setattr(solve, "DIRECT", 1)
    refined = tabular.bounds(cells_of(log), target, gamma, LEVELS)
    np.testing.assert_allclose(refined.lower, direct.lower, atol=1e-10)
    np.testing.assert_allclose(refined.upper, direct.upper, atol=1e-10)


def test_unseen_pairs():
    """Two states, action 1 never taken in state 0: worth zero, left out, or made up for by the ratio of action probabilities."""
    s, a, after = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 1, 0, 0, 1, 0]), np.array([1, 0, 1, 1, 0, 1])
    one = np.ones(6)
    cells = tabular.count(np.zeros(6, int), np.full(6, -1), s, a, after, one, np.array([[2, 0]]), 2, 2)
    target = np.full((2, 2), 0.5)
    value = {unseen: tabular.bounds(cells, target, 0.9, LEVELS, unseen=unseen).estimate.item() for unseen in ("zero", "restrict")}
    assert value["restrict"] == pytest.approx(1) and value["zero"] < 0.7  # every reward is 1
    state_only = tabular.bounds(cells, target, 0.9, LEVELS, ratio_SA=np.array([[0.5, 9.9], [1.0, 1.0]]))
    assert state_only.estimate.item() == pytest.approx(1)


def test_transitions_into_states_never_left_are_dropped_to_the_last():
    s, after = np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])  # 3 is never left; dropping 2 -> 3 leaves 2 never left, and so on
    cells = tabular.count(np.zeros(4, int), np.full(4, -1), s, np.zeros(4, int), after, np.ones(4), np.array([[1, 0, 0, 0]]), 4, 1)
    kept = tabular.drop_into_the_unknown(cells, 4)
    assert kept.count_BC.sum() == 1 and kept.s_C[kept.count_BC[0] > 0].tolist() == [0]


def test_state_only_ratio_weights_are_normalised_within_each_state(case):
    """With the behaviour's own probabilities as target every ratio is 1: the empirical chain of states."""
    _, _, gamma, log = case
    behaviour = np.full((4, 2), 0.5)
    found = tabular.bounds(cells_of(log), behaviour, gamma, LEVELS, ratio_SA=np.ones((4, 2)))
    B = len(log.s)
    P, r = np.zeros((B, 4, 4)), np.zeros((B, 4))
    for b in range(B):
        np.add.at(P[b], (log.s[b].ravel(), log.s_next[b].ravel()), 1)
        np.add.at(r[b], log.s[b].ravel(), log.r[b].ravel())
    n = P.sum(-1, keepdims=True)
    V = np.linalg.solve(np.eye(4) - gamma * P / n, r[..., None] / n)[..., 0]
    starts = np.stack([np.bincount(x, minlength=4) / 12 for x in log.s[:, :, 0]])
    np.testing.assert_allclose(found.estimate, (1 - gamma) * (starts * V).sum(-1), rtol=1e-12)


def test_episodes_that_end_have_no_future():
    """s = 0, reward 1, ends with probability 1/2: V = 1 / (1 - gamma / 2)."""
    zero = np.zeros(4, int)
    cells = tabular.count(zero, zero - 1, zero, zero, np.array([0, -1, 0, -1]), np.ones(4), np.array([[2]]), 1, 1)
    found = tabular.bounds(cells, np.ones((1, 1)), 0.9, LEVELS)
    assert found.estimate.item() == pytest.approx(0.1 / (1 - 0.45))
    assert (found.lower < found.estimate[:, None]).all()


def test_infinite_lake_and_policies():
    lake = tables.frozenlake()
    np.testing.assert_array_equal(lake.P_SAS[[5, 7, 11, 12, 15]], np.broadcast_to(lake.P_SAS[0], (5, 4, 16)))
    np.testing.assert_allclose(lake.P_SAS.sum(-1), 1, rtol=1e-15)
    best = policies.greedy(lake, 0.99)
    assert tables.value(lake, policies.mix(best, 0.1), 0.99) == pytest.approx(0.0131744264, abs=1e-10)
    assert tables.value(lake, policies.mix(best, 0.3), 0.99) == pytest.approx(0.0083955411, abs=1e-10)


def test_coverage_on_the_lake_lies_in_a_wide_binomial_band():
    lake = tables.frozenlake()
    best = policies.greedy(lake, 0.99)
    target, behaviour = policies.mix(best, 0.1), policies.mix(best, 0.3)
    B, N, T = 120, 50, 100
    log = simulate.rollout(lake, behaviour, B * N, T, np.random.default_rng(7))
    log = simulate.Trajectories(*(x.reshape(B, N, T) for x in (log.s, log.a, log.r, log.s_next)))
    found = tabular.bounds(cells_of(log, states=16, actions=4), target, 0.99, np.array([0.6, 0.9]))
    rho = tables.value(lake, target, 0.99)
    covered = ((found.lower <= rho) & (rho <= found.upper)).mean(0)
    assert abs(covered[0] - 0.6) < 0.14 and abs(covered[1] - 0.9) < 0.09  # 3 binomial standard errors


def test_bounds_report_what_still_moves(case):
    _, target, gamma, log = case
    found = tabular.bounds(cells_of(log), target, gamma, LEVELS, rounds=1)
    assert found.rounds == 1 and (found.moved > 1e-4).all()
    assert isinstance(found, fixed_point.Bounds)


def exact_coverage(n: int, divergence: str, level: float) -> float:
    """Of the interval for the bandit of the pipeline, n pulls, by enumerating wins and pulls of both arms."""
    means, target, behaviour = (0.2, 0.7), np.array([[0.1, 0.9]]), 0.4
    pulls, wins, other = (x.ravel() for x in np.meshgrid(*[np.arange(n + 1)] * 3, indexing="ij"))
    p = binom.pmf(pulls, n, behaviour) * binom.pmf(wins, pulls, means[1]) * binom.pmf(other, n - pulls, means[0])
    pulls, wins, other, p = (x[p > 1e-7] for x in (pulls, wins, other, p))
    count = np.stack([n - pulls - other, other, pulls - wins, wins], -1).astype(float)
    zero = np.zeros(4, int)
    cells = tabular.Cells(zero, np.array([0, 0, 1, 1]), zero, np.array([0.0, 1.0, 0.0, 1.0]), zero - 1, count, np.full((len(p), 1), float(n)))
    found = tabular.bounds(cells, target, 0.0, np.array([level]), divergence)
    return float(p @ ((found.lower[:, 0] <= 0.65) & (found.upper[:, 0] >= 0.65)))


def test_exact_coverage_on_the_bandit_falls_short_by_order_one_over_n():
    short = {n: 0.9 - exact_coverage(n, "kl", 0.9) for n in (25, 50)}
    assert short[50] == pytest.approx(0.0137, abs=5e-4)
    assert 1.5 < short[25] / short[50] < 3  # 2 but for the lattice of outcomes


@pytest.mark.slow
def test_exact_coverage_by_the_other_divergences():
    assert exact_coverage(50, "rkl", 0.9) == pytest.approx(0.8936, abs=5e-4)
    assert exact_coverage(50, "chi2", 0.9) == pytest.approx(0.8817, abs=5e-4)
