"""The stages end to end at tiny sizes, and what they compute besides intervals."""

import json

import numpy as np
import pandas as pd
import pytest

from reprise import params as parameters
from reprise.kits.offpolicy import intervals, simulate, tables
from reprise.kits.offpolicy.estimators import returns
from reprise.papers.coindice import baselines, data, evaluate
from reprise.papers.coindice.neural import Neural
from reprise.papers.coindice.train import Train
from reprise.stage import run

NEURAL = {"hidden": [8], "draws": 2, "steps": 3, "rounds": 2, "round_steps": 2, "batch": 16}
TINY = {
    "bandit": {"datasets": 4},
    "frozenlake": {"datasets": 3, "steps": 20},
    "taxi": {"datasets": 2, "steps": 40},
    "lqr": {"datasets": 3, "steps": 20},
    "reacher": {"datasets": 2, "steps": 10, "truth": [20, 30]},
}


def test_pipeline(tmp_path):
    """Fewer datasets and shorter trajectories; as many of them as declared, so that the claims find their metrics."""
    run("coindice", "preprocess", root=tmp_path, params=TINY)
    for variant, own in parameters.section("coindice", "small")["variants"].items():
        change = {"resamples": 50 if own.get("resamples", 1) else 0, "datasets": None, **({"neural": {**NEURAL, "rounds": own["neural"]["rounds"]}} if "neural" in own else {})}
        run("coindice", "train", variant=variant, root=tmp_path, params=change)
    frame = pd.read_parquet(tmp_path / "data/coindice/small/models/frozenlake/intervals.parquet")
    assert set(frame.method) == {"kl", "rkl", "chi2", "wald"} | {f"{i}_{w}" for i in ("t", "bca", "hoeffding", "bernstein") for w in ("trajectory", "step", "weighted_step")}
    assert len(frame) == 16 * 3 * 3 * 6 and (frame.lower <= frame.upper).all()
    run("coindice", "evaluate", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/coindice/small/metrics.json").read_text())
    assert metrics["frozenlake.truth"] == pytest.approx(0.0131744264, abs=1e-10)
    assert metrics["lqr.truth"] == pytest.approx(-0.291676831, abs=1e-9) and metrics["lqr.behaviour"] == pytest.approx(-0.525712975, abs=1e-9)
    assert metrics["reacher.truth_se"] > 0 and "lqr_neural.round_2.change.mean" in metrics
    run("coindice", "report", root=tmp_path)
    page = (tmp_path / "reports/coindice/small/index.md").read_text()
    assert "Claims" in page and page.count("![") == 6 + 3  # coverage of every variant, widths where there are several sizes


@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_larger_scales_run_dry(scale, tmp_path, monkeypatch):
    """Their own declarations with the sizes of the data and the number of steps cut down, on the CPU."""
    from reprise.stage import Stage

    monkeypatch.setattr(Stage, "device", "cpu")
    own = parameters.section("coindice", scale)
    tiny = {name: {**TINY[name], "datasets": 1, "trajectories": 6} for name in own["preprocess"]}
    if scale == "paper":
        tiny["reacher"]["physics"] = "twin"  # MuJoCo is not among the pinned libraries
    tiny["taxi"]["length"] = 2
    run("coindice", "preprocess", scale, root=tmp_path, params=tiny)
    for variant, values in own["variants"].items():
        methods = {name: {"iterations": 3} for name in values.get("methods") or {}}
        change = {"trajectories": [6], "resamples": 20 if values.get("resamples", 1) else 0, "datasets": None, "methods": methods, **({"neural": NEURAL} if "neural" in values else {})}
        run("coindice", "train", scale, variant, root=tmp_path, params=change)


def test_prepared_data_come_back_as_simulated(tmp_path):
    stage = run("coindice", "preprocess", root=tmp_path, params=TINY)
    problem, log = data.load(stage.target, "taxi")
    assert log.s.shape == (2, 100, 40) and (log.s[:, :, 1:] == log.s_next[:, :, :-1]).all()
    reward = np.broadcast_to(problem.env.R_SAS, problem.env.P_SAS.shape)
    np.testing.assert_array_equal(log.r, reward[log.s, log.a, log.s_next])
    problem, log = data.load(stage.target, "lqr")
    assert log.s.shape == (3, 25, 20, 2) and log.a.shape == (3, 25, 20, 1)
    ratio = problem.ratios(log)
    s, a = log.s[1, 2, 3][None], log.a[1, 2, 3][None]
    assert ratio[1, 2, 3] == pytest.approx(np.exp(problem.target.log_density(s, a) - problem.behaviour.log_density(s, a)).item())


def test_baselines_name_their_returns_and_ranges():
    rng = np.random.default_rng(0)
    r, ratio = rng.random((5, 30, 4)), rng.choice([0.5, 1.5], (5, 30, 4))
    found = baselines.all_of_them(r, ratio, 0.9, np.array([0.9]), 200, rng, (0.0, 1.0), 1.5)
    estimate, (lower, upper) = found["t_step"]
    x = returns(r, ratio, 0.9, "step")
    np.testing.assert_allclose(estimate, x.mean(-1))
    np.testing.assert_allclose((lower, upper), intervals.student_t(x, np.array([0.9])))
    for weighting in baselines.WEIGHTINGS:
        low, high = baselines.reach(30, 4, 0.9, weighting, (-1.0, 2.0), 1.5)
        most = returns(np.full((1, 1, 4), 2.0), np.full((1, 1, 4), 1.5), 0.9, weighting).max() * (30 if weighting == "weighted_step" else 1)
        assert high == pytest.approx(most) and low == pytest.approx(-most / 2)


def test_coverage_table_by_hand():
    frame = pd.DataFrame({"method": "m", "trajectories": 5, "dataset": [0, 1, 2, 3], "level": 0.5, "lower": [0, 2, 0, 0.0], "upper": [2, 3, 0.5, 10.0], "estimate": [1, 2.5, 0.25, 5], "moved": 0.0})
    (row,) = evaluate.coverage(frame, 1.0).itertuples()
    assert row.coverage == 0.5 and row.below == 0.25 and row.width == 1.5 and row.bias == pytest.approx(1.1875) and row.datasets == 4
    assert (row.band_low, row.band_high) == (0.0, 1.0) and row.inside  # 0 to 4 of 4 at 1/2


def test_the_renormalised_policy_is_valued_exactly():
    """Two states; the log of the first dataset never shows action 1 in state 0, that of the second shows everything."""
    rng = np.random.default_rng(0)
    table, target = tables.random_mdp(2, 2, rng), np.array([[0.6, 0.4], [0.3, 0.7]])
    problem = data.Problem(table, target, None, 0.8)
    s, a = np.array([[[0, 1, 1]], [[0, 1, 0]]]), np.array([[[0, 0, 1]], [[0, 0, 1]]])
    s, a = np.concatenate([s, [[[0, 1, 1]], [[1, 1, 0]]]], 1), np.concatenate([a, [[[0, 0, 1]], [[0, 1, 1]]]], 1)
    log = simulate.Trajectories(s, a, np.zeros(s.shape), s)
    expected = [tables.value(table, np.array([[1.0, 0.0], [0.3, 0.7]]), 0.8), tables.value(table, target, 0.8)]
    np.testing.assert_allclose(evaluate.renormalised_values(problem, log), expected, rtol=1e-12)


def test_networks_take_one_size():
    values = parameters.block("coindice", "train", "small", "lqr_neural")
    with pytest.raises(ValueError, match="one size of the data"):
        Train.model_validate({**values, "trajectories": [5, 10]})
    assert isinstance(Train.model_validate(values).neural, Neural)


def test_reacher_problem_is_simulated_by_the_twin(tmp_path):
    spec = parameters.section("coindice", "small")["preprocess"]["reacher"]
    problem = data.problem("reacher", data.Preprocess.model_validate({"reacher": spec}).reacher)
    assert type(problem.env) is simulate.Reacher and problem.value(problem.target) is None
