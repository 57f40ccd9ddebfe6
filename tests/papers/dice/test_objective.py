"""The objective: each named loss written out, gradients through the networks' code path, and its sources of terms."""

import numpy as np
import pytest
import torch

from reprise.kits.offpolicy import policies, simulate, tables
from reprise.papers.dice.closed_form import Problem, saddle
from reprise.papers.dice.environments import probabilities, setting
from reprise.papers.dice.neural import Pairs, Rows, networks, pairs, rows
from reprise.papers.dice.objective import ESTIMATORS, Switches, Terms, f, lagrangian, ratio, readouts, stack

GAMMA = 0.9


def random_terms(name, rows=7):
    g = torch.Generator().manual_seed(0)
    q, after, raw, r = (torch.randn(1, rows, generator=g, dtype=torch.float64) for _ in range(4))
    w = torch.rand(1, rows, generator=g, dtype=torch.float64)
    switches = stack([ESTIMATORS[name]], dtype=torch.float64)
    return Terms(torch.randn(1, generator=g, dtype=torch.float64), q, after, ratio(raw, switches), r, w / w.sum()), raw, switches


@pytest.mark.parametrize("name", ["dual_dice", "gen_dice", "gradient_dice", "mql", "mwl", "best_r0", "best_r1"])
def test_switches_give_each_named_loss(name):
    """Every loss as its own paper writes it, in NumPy."""
    terms, raw, switches = random_terms(name)
    lam = 0.3
    q, after, r, w, start = (x.numpy().ravel() for x in (terms.q_ER, terms.next_ER, terms.r_ER, terms.w_ER, terms.start_E))
    zeta = raw.numpy().ravel() ** 2 if name in ("gen_dice", "best_r0", "best_r1") else raw.numpy().ravel()
    flow = (1 - GAMMA) * start[0] + (w * zeta * (GAMMA * after - q)).sum()
    norm = lam * (1 - (w * zeta).sum())
    expected = {
        "dual_dice": flow - (w * zeta**2).sum() / 2,
        "gen_dice": flow + norm + (w * q**2).sum() / 2,
        "gradient_dice": flow + norm + (w * q**2).sum() / 2,
        "mql": (1 - GAMMA) * start[0] + (w * zeta * (r + GAMMA * after - q)).sum(),
        "mwl": flow,
        "best_r0": flow + norm - (w * zeta**2).sum() / 2,
        "best_r1": flow + norm + (w * zeta * r).sum() - (w * zeta**2).sum() / 2,
    }[name]
    assert float(lagrangian(terms, torch.tensor([lam], dtype=torch.float64), switches, GAMMA)) == pytest.approx(expected, abs=1e-13)


def test_read_outs_use_the_true_reward_and_no_regulariser():
    terms, _, switches = random_terms("best_r0")
    lam = torch.tensor([0.3], dtype=torch.float64)
    out = {k: float(v) for k, v in readouts(terms, lam, switches, GAMMA).items()}
    w, zeta, r = terms.w_ER, terms.zeta_ER, terms.r_ER
    assert out["primal"] == pytest.approx(float((1 - GAMMA) * terms.start_E + 0.3))
    assert out["dual"] == pytest.approx(float((w * zeta * r).sum()))
    assert out["dual_selfnorm"] == pytest.approx(out["dual"] / float((w * zeta).sum()))
    assert out["lagrangian"] == pytest.approx(out["primal"] + float((w * zeta * (r + GAMMA * terms.next_ER - terms.q_ER - 0.3)).sum()))
    without = readouts(terms, lam, stack([ESTIMATORS["dual_dice"]], dtype=torch.float64), GAMMA)
    assert float(without["primal"]) == pytest.approx(float((1 - GAMMA) * terms.start_E))  # lambda off: it does not enter


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_f_and_its_derivative(p):
    x = torch.tensor([[-2.0, -0.3, 0.4, 1.7]], dtype=torch.float64, requires_grad=True)
    y = f(x, torch.tensor([[p]], dtype=torch.float64))
    assert torch.allclose(y, x.abs().pow(p) / p, atol=1e-12)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(g, x.sign() * x.abs().pow(p - 1), atol=1e-10)
    mixed = f(x.detach().expand(2, 4), torch.tensor([[p], [2.0]], dtype=torch.float64))
    assert torch.allclose(mixed[0], y[0]) and torch.equal(mixed[1], x.detach()[0].square() / 2)


def linear_pairs(problem):
    """A finite problem as `Pairs` in double precision, with indicator features."""
    S, A = problem.d_SA.shape

    def tensor(x):
        return torch.tensor(x, dtype=torch.float64)

    return Pairs(
        torch.eye(S * A, dtype=torch.float64),
        tensor(problem.d_SA.reshape(1, -1)),
        tensor(problem.table.R_SA.reshape(1, -1)),
        tensor(problem.table.P_SAS.reshape(1, S * A, S)),
        tensor(problem.policy_SA[None]),
        tensor(problem.table.mu0_S[None]),
    )


@pytest.mark.parametrize("name", ["dual_dice", "gen_dice", "gradient_dice", "mql", "mwl", "primal_r1", "best_r0", "best_r1"])
def test_the_saddle_is_stationary_through_the_networks_code_path(name):
    rng = np.random.default_rng(0)
    mdp = tables.random_mdp(5, 2, rng)
    problem = Problem(mdp, rng.dirichlet(np.ones(2), 5), rng.dirichlet(np.ones(10)).reshape(5, 2), GAMMA)
    switches = ESTIMATORS[name]
    point = saddle(problem, switches)
    zeta = point.zeta(problem).ravel()

    def layer(values):
        return {"w0": torch.tensor(values.reshape(1, 1, -1)).requires_grad_(), "b0": torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)}

    q, z, lam = (
        layer(point.Q_SA),
        layer(np.sqrt(zeta) if switches.positive else zeta),
        torch.tensor([float(point.lam)], dtype=torch.float64, requires_grad=True),
    )
    stacked = stack([switches], dtype=torch.float64)
    value = lagrangian(linear_pairs(problem).terms(q, z, stacked), lam, stacked, GAMMA)
    gradients = torch.autograd.grad(value.sum(), [*q.values(), *z.values(), lam], allow_unused=True, materialize_grads=True)
    assert max(float(g.abs().max()) for g in gradients) < 1e-12
    with torch.no_grad():
        q["w0"][0, 0, 0] += 0.1
    moved = torch.autograd.grad(lagrangian(linear_pairs(problem).terms(q, z, stacked), lam, stacked, GAMMA).sum(), [*q.values(), *z.values()])
    assert max(float(g.abs().max()) for g in moved) > 1e-5


def grid_data(trajectories=6, seeds=2):
    chosen = setting("gridwalk", 4)
    return chosen, simulate.rollout(chosen.env, chosen.behaviour, trajectories * seeds, 30, np.random.default_rng(0))


def test_pairs_are_sampled_rows_summed_up():
    """The objective by sufficient statistics equals the one transition by transition."""
    chosen, data = grid_data()
    by_pairs = pairs(chosen, data, 2, [lambda r: r] * 3)
    one_hot, K = np.eye(4), 2

    def features(s, a):
        return np.concatenate([chosen.features_SF[s], one_hot[a]], -1).reshape(K, -1, by_pairs.x_IR.shape[0]).transpose(0, 2, 1)

    def candidates(s):
        policy = by_pairs.policy_KSA.numpy()
        x = np.stack([features(s, np.full_like(s, a)) for a in range(4)], 1)
        weight = np.stack([policy[k][s.reshape(K, -1)[k]].T for k in range(K)])
        return x, weight

    def tensor(x):
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.float32)

    (after, after_w), (start, start_w) = candidates(data.s_next), candidates(data.start)
    by_rows = Rows(
        tensor(features(data.s, data.a)), tensor(np.repeat(data.r.reshape(K, -1), 3, 0)), tensor(after), tensor(after_w), tensor(start), tensor(start_w)
    )
    names = ["dual_dice", "gen_dice", "best_r1"] * K
    switches = stack([ESTIMATORS[n] for n in names])
    q, zeta = networks(by_pairs.x_IR.shape[0], [16, 16], K, 3, torch.Generator().manual_seed(0))
    lam = torch.full((6,), 0.2)
    first, second = (source.terms(q, zeta, switches) for source in (by_pairs, by_rows))
    assert torch.allclose(lagrangian(first, lam, switches, GAMMA), lagrangian(second, lam, switches, GAMMA), atol=1e-5)
    for a, b in zip(readouts(first, lam, switches, GAMMA).values(), readouts(second, lam, switches, GAMMA).values()):
        assert torch.allclose(a, b, atol=1e-4)


def test_poisson_minibatches_have_the_data_s_weights_on_average():
    chosen, data = grid_data()
    source = pairs(chosen, data, 2, [lambda r: r])
    g = torch.Generator().manual_seed(0)
    mean = torch.stack([source.sample(256, g) for _ in range(500)]).mean(0)
    assert torch.allclose(mean, source.w_KR, atol=4e-3) and mean.sum(-1).allclose(torch.ones(2), atol=0.02)
    assert ((mean > 0) == (source.w_KR > 0)).all()


def test_members_of_a_seed_start_alike_and_zeta_near_one():
    q, zeta = networks(5, [8, 8], seeds=2, members=3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(q["w0"][0], q["w0"][2]) and not torch.equal(q["w0"][0], q["w0"][3])
    assert (zeta["b2"] == 1).all() and (q["b2"] == 0).all()


@pytest.mark.parametrize("name", ["cartpole", "reacher"])
def test_rows_average_over_the_target_s_actions(name):
    chosen = setting(name)
    data = simulate.rollout(chosen.env, chosen.behaviour, 4, 10, np.random.default_rng(0))
    source = rows(chosen, data, 2, [lambda r: r, lambda r: r + 10], 3, np.random.default_rng(1))
    assert torch.allclose(source.next_weight_KCn.sum(1), torch.ones(2, 20)) and source.start_KCIN.shape[-1] == 2
    assert torch.allclose(source.r_En[0] + 10, source.r_En[1])
    switches = stack([ESTIMATORS["best_r0"]] * 4)
    q, zeta = networks(source.x_KIn.shape[1], [8], 2, 2, torch.Generator().manual_seed(0))
    whole, some = source.terms(q, zeta, switches), source.terms(q, zeta, switches, torch.tensor([3, 7, 11]))
    assert torch.allclose(whole.q_ER[:, [3, 7, 11]], some.q_ER, atol=1e-6) and torch.allclose(whole.next_ER[:, [3, 7, 11]], some.next_ER, atol=1e-6)
    assert some.w_ER.sum(-1).allclose(torch.ones(4))


def test_known_probabilities_are_those_of_the_policies():
    grid = setting("gridwalk", 4)
    data = simulate.rollout(grid.env, grid.behaviour, 3, 5, np.random.default_rng(0))
    assert np.array_equal(probabilities(grid.target, data.s, data.a), grid.target[data.s, data.a])
    pole = setting("cartpole")
    data = simulate.rollout(pole.env, pole.behaviour, 400, 25, np.random.default_rng(0))
    p = probabilities(pole.behaviour, data.s, data.a)
    assert set(np.round(p.ravel(), 6)) == {0.225, 0.775} and (p > 0.5).mean() == pytest.approx(0.775, abs=0.02)
    arm = policies.reach(0.4)
    x, u = np.zeros((1, 1, 6)), np.zeros((1, 1, 2))
    density = np.exp(-((u[0, 0] - arm.mean(x[0])[0]) ** 2).sum() / (2 * 0.16)) / (2 * np.pi * 0.16)
    assert probabilities(arm, x, u)[0, 0] == pytest.approx(density)


def test_scaled_switches_keep_their_side():
    scaled = ESTIMATORS["best_r1"].scaled(0.1, 1.5)
    assert scaled == Switches(0, 0.1, 1, True, True, 1.5) and ESTIMATORS["gen_dice"].scaled(10, 2).alpha_q == 10
