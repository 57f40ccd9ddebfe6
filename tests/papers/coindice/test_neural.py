"""Networks: the game and fitted Q find what is known exactly, and constants are solved for."""

import numpy as np
import pytest
import torch

from reprise.kits.offpolicy import policies, simulate
from reprise.kits.offpolicy.networks import forward
from reprise.papers.coindice import neural
from reprise.papers.coindice.bounds import Ball
from reprise.papers.coindice.neural import Neural
from reprise.stage import Stage

SETTINGS = Neural(hidden=(16,), draws=2, steps=300, rounds=1, round_steps=60, round_rate=0.33, round_level=0.9, batch=128, lr_nu=0.005, lr_zeta=0.005, polyak=0.05)


@pytest.fixture(scope="module")
def case():
    """Three datasets of the linear system, 12 trajectories of 30 steps, the target being the behaviour: (Rows, true value)."""
    env, policy = simulate.LQR(), policies.linear([[-0.3, -0.6]], 0.3)
    rng = np.random.default_rng(0)
    log = simulate.rollout(env, policy, 36, 30, rng)
    s, a, r, after = (x.reshape(3, 360, -1) for x in (log.s, log.a, log.r, log.s_next))
    return neural.rows(s, a, r[..., 0], after, log.s[:, 0].reshape(3, 12, 2), env, policy, 2, rng), env.value([[-0.3, -0.6]], 0.3, 0.8)


def test_training_finds_the_value_and_both_sides_hold_it(case, tmp_path):
    data, rho = case
    found = neural.bounds(data, Ball(np.ones((3, 360)), np.ones((3, 12))), 0.8, np.array([0.5, 0.9]), SETTINGS, Stage("coindice", "train", "small", "lqr_neural", root=tmp_path))
    assert np.abs(found.estimate - rho).max() < 4 * found.se.max()
    assert set(found.intervals) == {"one_shot", "round_1"}
    for lower, upper in found.intervals.values():
        assert (lower[:, 1] < lower[:, 0]).all() and (lower[:, 0] < upper[:, 0]).all() and (upper[:, 0] < upper[:, 1]).all()
    assert found.nets.nu["w0"].shape == (6, 16, 3)


def test_resumed_training_has_the_same_bits(case, tmp_path):
    data, _ = case
    settings = SETTINGS.model_copy(update={"steps": 12, "round_steps": 4})
    ball, levels = Ball(np.ones((3, 360)), np.ones((3, 12))), np.array([0.9])
    whole = neural.bounds(data, ball, 0.8, levels, settings, Stage("coindice", "train", "small", "lqr_neural", root=tmp_path / "a"))
    stage = Stage("coindice", "train", "small", "lqr_neural", root=tmp_path / "b")
    neural.bounds(data, ball, 0.8, levels, settings, stage)  # leaves its last resume points, which a second start picks up
    again = neural.bounds(data, ball, 0.8, levels, settings, stage)
    for key in whole.nets.nu:
        assert torch.equal(whole.nets.nu[key], again.nets.nu[key]) and torch.equal(whole.nets.root[key], again.nets.root[key])
    np.testing.assert_array_equal(whole.intervals["round_1"][0], again.intervals["round_1"][0])


def test_terms_solve_for_the_constants(case):
    """A constant added to nu and a factor on zeta change nothing."""
    data, _ = case
    nets = neural.networks(3, [8], [torch.Generator().manual_seed(i) for i in range(3)])
    rng = np.random.default_rng(1)
    w, v = rng.dirichlet(np.ones(360), 3), rng.dirichlet(np.ones(12), 3)
    rho, td, first = neural.terms(nets, data, w, v, 0.8)
    np.testing.assert_allclose((w * td).sum(-1), 0, atol=1e-9)
    nets.nu["b1"] += 3.0
    for key in ("w1", "b1"):
        nets.root[key] *= 2.0
    for before, after in zip((rho, td, first), neural.terms(nets, data, w, v, 0.8), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-5)


def test_the_game_finds_the_ratio(tmp_path):
    """gamma = 0 and one step: zeta is the ratio of the target's and the behaviour's action densities, up to its mean."""
    env, behaviour, target = simulate.LQR(), policies.linear([[0.0, 0.0]], 0.6), policies.linear([[0.0, 0.0]], 0.4)
    rng = np.random.default_rng(2)
    log = simulate.rollout(env, behaviour, 600, 1, rng)
    s, a, r, after = (x.reshape(1, 600, -1) for x in (log.s, log.a, log.r, log.s_next))
    data = neural.rows(s, a, r[..., 0], after, s, env, target, 4, rng)
    nets = neural.networks(3, [16], [torch.Generator().manual_seed(0)])
    one = torch.ones(1, 600)
    neural.fit(nets, data, one, one, 0.0, SETTINGS, 400, 1.0, Stage("coindice", "train", "small", "lqr_neural", root=tmp_path))
    zeta = forward(nets.root, data.x_BIn)[0, 0].detach().square().numpy()
    exact = np.exp(target.log_density(s[0], a[0]) - behaviour.log_density(s[0], a[0]))
    assert np.corrcoef(zeta, exact)[0, 1] > 0.9
    assert np.abs(zeta / zeta.mean() - exact).mean() < 0.15
