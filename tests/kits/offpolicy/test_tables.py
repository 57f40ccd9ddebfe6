"""Tables, policies and what linear algebra says about them."""

import numpy as np
import pytest

from reprise.errors import ReproError
from reprise.kits.offpolicy import policies, tables

GREEDY_LAKE = [0, 1, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 2, 1, 0]


@pytest.fixture
def mdp():
    rng = np.random.default_rng(0)
    return tables.random_mdp(6, 3, rng), rng.dirichlet(np.ones(3), 6)


@pytest.mark.parametrize(("gamma", "target", "behaviour"), [(0.99, 0.938700627, 0.656078954), (0.95, 0.774070101, 0.450362335)])
def test_gridwalk_has_the_published_construction_s_values(gamma, target, behaviour):
    table = tables.gridwalk()
    way = policies.shortest_path(table, 99)
    assert tables.value(table, policies.mix(way, 0.1), gamma) == pytest.approx(target, abs=1e-9)
    assert tables.value(table, policies.mix(way, 0.7), gamma) == pytest.approx(behaviour, abs=1e-9)


def test_the_shortest_path_is_optimal_on_the_grid():
    table = tables.gridwalk()
    assert tables.value(table, policies.shortest_path(table, 99), 0.9) == pytest.approx(tables.value(table, policies.greedy(table, 0.9), 0.9), abs=1e-12)


def test_four_rooms_are_joined():
    table = tables.fourrooms()
    assert table.states == 104
    goal = int(table.R_SAS.argmax())
    way = policies.shortest_path(table, goal)
    assert tables.value(table, way, 0.99) == pytest.approx(tables.value(table, policies.greedy(table, 0.99), 0.99), abs=1e-12)
    with pytest.raises(ReproError, match="deterministic"):
        policies.shortest_path(tables.frozenlake(), 15)


def test_infinite_frozenlake_restarts_from_its_first_state():
    table = tables.frozenlake()
    for end in (5, 7, 11, 12, 15):
        assert np.array_equal(table.P_SAS[end], table.P_SAS[0])
    assert np.allclose(table.P_SAS.sum(-1), 1, atol=1e-15)
    assert table.R_SA[14].max() == pytest.approx(1 / 3) and table.R_SA.sum() == pytest.approx(1)
    way = policies.greedy(table, 0.99)
    assert way.argmax(-1).tolist() == GREEDY_LAKE
    assert tables.value(table, policies.mix(way, 0.1), 0.99) == pytest.approx(0.0131744264, abs=1e-10)
    assert tables.value(table, policies.mix(way, 0.3), 0.99) == pytest.approx(0.0083955411, abs=1e-10)


def test_gymnasium_s_own_taxi_reads_too():
    table = tables.from_gymnasium("Taxi-v4")
    assert table.P_SAS.shape == (500, 6, 500) and np.allclose(table.P_SAS.sum(-1), 1)


def test_taxi_pays_on_delivery_only():
    table = tables.taxi(2)
    assert table.states == 320 and np.allclose(table.P_SAS.sum(-1), 1, atol=1e-14)
    paid = np.argwhere(table.R_SAS[..., 0] == 20)
    assert set(paid[:, 1]) == {5} and len(paid) == 4 * 16  # each corner, whoever else is waiting
    s = 0 + 5 * (0 + 16 * 0)  # carrying to corner 0, at corner 0
    assert table.P_SAS[s, 5].reshape(4, 16, 5)[0, :, 4].sum() == pytest.approx(1)
    waiting = 4 + 5 * (1 + 16 * 0)  # empty, at corner 0, someone waits there
    after = table.P_SAS[waiting, 4].reshape(4, 16, 5)[0]
    assert np.allclose(after.sum(0), [0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert after[1].sum() == pytest.approx(0.3 * 0.95 * 0.9 * 0.8)  # the bit was cleared, then a new passenger appeared


def test_solves_agree_with_iteration(mdp):
    table, policy = mdp
    gamma, V = 0.9, np.zeros(6)
    P = tables.transitions(table, policy)
    for _ in range(400):
        V = (policy * table.R_SA).sum(-1) + gamma * P @ V
    assert np.allclose(tables.state_values(table, policy, gamma), V, atol=1e-12)
    d = tables.occupancy(table, policy, gamma)
    assert d.sum() == pytest.approx(1) and (d * table.R_SA).sum() == pytest.approx(tables.value(table, policy, gamma), abs=1e-13)
    assert np.allclose((policy * tables.action_values(table, policy, gamma)).sum(-1), V, atol=1e-12)


def test_visitation_and_stationary_distribution(mdp):
    table, policy = mdp
    stationary = tables.stationary(table, policy)
    assert np.allclose(stationary @ tables.transitions(table, policy), stationary, atol=1e-13) and stationary.sum() == pytest.approx(1)
    assert np.allclose(tables.visitation(table, policy, 20000).sum(-1), stationary, atol=1e-3)
    assert np.allclose(tables.visitation(table, policy, 1), table.mu0_S[:, None] * policy)


def test_optimal_values_satisfy_bellman_s_equation(mdp):
    table, _ = mdp
    Q = tables.optimal_values(table, 0.9)
    assert np.allclose(Q, table.R_SA + 0.9 * table.P_SAS @ Q.max(-1), atol=1e-12)


def test_batched_equals_looped(mdp):
    table, policy = mdp
    count = np.random.default_rng(1).integers(1, 9, (4, 6, 3, 6)).astype(float)
    start = np.ones((4, 6))
    together = tables.value(tables.empirical(count, table.R_SAS, start), policy, 0.9)
    alone = [tables.value(tables.empirical(count[b], table.R_SAS, start[b]), policy, 0.9) for b in range(4)]
    assert np.allclose(together, alone, atol=1e-14)


def test_policies_are_distributions(mdp):
    table, policy = mdp
    seen = np.array([[1, 0, 1]] * 5 + [[0, 0, 0]])
    narrowed = policies.restrict(policy, seen)
    assert np.allclose(narrowed.sum(-1), 1) and (narrowed[:5, 1] == 0).all() and np.array_equal(narrowed[5], policy[5])
    soft = policies.softmax(table, 0.9, 0.1)
    assert np.allclose(soft.sum(-1), 1) and (soft.argmax(-1) == policies.greedy(table, 0.9).argmax(-1)).all()
    assert np.allclose(policies.mix(soft, 0.3).sum(-1), 1)
