"""Stage functions end to end, with parameters still smaller than `small`, and what training must be able to learn."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from reprise import training
from reprise.errors import ReproError
from reprise.kits.offpolicy.networks import OptimisticAdam
from reprise.papers.dice.environments import setting
from reprise.papers.dice.evaluate import last_sixth, orderings, rmse_table
from reprise.papers.dice.train import Member
from reprise.stage import Stage, run

LOGGED = {
    "gridwalk": {"size": 4, "trajectories": 5, "steps": 20, "seeds": 2},
    "gridwalk_momentum": {"size": 4, "trajectories": 5, "steps": 20, "seeds": 2},
    "gridwalk_adam": {"size": 4, "trajectories": 5, "steps": 20, "seeds": 2},
    "fourrooms": {"trajectories": 5, "steps": 20, "seeds": 2},
    "taxi": {"trajectories": 3, "steps": 20, "seeds": 2},
    "cartpole": {"trajectories": 3, "steps": 20, "seeds": 2, "rollouts": 20, "horizon": 50},
    "reacher": {"trajectories": 3, "steps": 20, "seeds": 2, "rollouts": 20, "horizon": 50},
}
TINY = {"hidden": [8], "steps": 12, "every": 3}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("dice")
    run("dice", "preprocess", root=root, params={"environments": LOGGED})
    return root


def model(root, variant="gridwalk"):
    return load_file(root / f"data/dice/small/models/{variant}/model.safetensors")


def test_every_stage_from_data_to_page(prepared):
    run("dice", "exact", root=prepared, params={"random": 2, "grid": 4})
    run("dice", "finite", root=prepared, params={"sizes": [5, 400], "datasets": 5})
    for variant in LOGGED:
        run("dice", "train", variant=variant, root=prepared, params=TINY)
    run("dice", "evaluate", root=prepared)
    run("dice", "report", root=prepared)
    metrics = json.loads((prepared / "reports/dice/small/metrics.json").read_text())
    assert metrics["exact.unbiased.max"] < 1e-8 and metrics["exact.biased.min"] > 1e-3 and metrics["exact.residual.max"] < 1e-8
    assert metrics["finite.random.apart.max"] < 1e-8
    assert metrics["gridwalk.best_r0_shift.zeta_moved"] == metrics["gridwalk.best_r0_exp.zeta_moved"] == 0
    assert metrics["gridwalk.best_r1_shift.zeta_moved"] > 1e-3
    errors = pd.read_parquet(prepared / "data/dice/small/results/errors.parquet")
    assert set(errors.variant) == set(LOGGED) and errors.seed.nunique() == 2
    page = (prepared / "reports/dice/small/index.md").read_text()
    assert "unbiased, at most" in page and all(f"figures/{name}.svg" in page for name in ("finite", "convergence", "optimisers", "errors"))


@pytest.mark.parametrize("scale", ["gpu", "paper"])
def test_larger_scales_run_dry(scale, tmp_path, monkeypatch):
    """Every stage under their own declarations, on the CPU, with the sizes of the data and the number of steps cut down."""
    monkeypatch.setattr(Stage, "device", "cpu")
    twin = {"environment": "reacher"} if importlib.util.find_spec("mujoco") is None else {}
    cut = LOGGED | {"taxi": LOGGED["taxi"] | {"size": 2}, "reacher": LOGGED["reacher"] | twin}
    run("dice", "preprocess", scale, root=tmp_path, params={"environments": cut})
    run("dice", "exact", scale, root=tmp_path, params={"random": 1, "states": 5, "grid": 3})
    run("dice", "finite", scale, root=tmp_path, params={"sizes": [3, 6], "datasets": 2, "sweeps": 10})
    for variant in LOGGED:
        run("dice", "train", scale, variant, root=tmp_path, params={"hidden": [4], "steps": 2, "every": 1, "batch": 8})
    run("dice", "evaluate", scale, root=tmp_path)
    run("dice", "report", scale, root=tmp_path)
    assert (tmp_path / f"reports/dice/{scale}/index.md").exists()


def test_orderings_by_hand():
    """Errors of .1 (best), .2 (named), .5 (behaviour), -.6 and .8 (unregularised, each by its own read-out)."""
    off = {"best_r0": 0.1, "best_r1": -0.1, "dual_dice": 0.2, "gen_dice": 0.2, "gradient_dice": 0.2, "behaviour": 0.5, "mql": -0.6, "mwl": 0.8}
    rows = [
        {"label": label, "seed": seed, "readout": readout, "error": error if (readout == "primal") == (label == "mql") else 9.0, "rho": 1.0}
        for label, error in off.items()
        for seed in (0, 1)
        for readout in ("primal", "dual", "lagrangian", "moment")
    ]
    errors = pd.DataFrame(rows)
    found = orderings("v", errors.assign(estimate=errors.error + 1))
    assert found["v.best.error"] == pytest.approx(0.1) and found["v.best.over_behaviour"] == pytest.approx(0.2)
    assert found["v.best.over_named"] == pytest.approx(0.5) and found["v.unregularised.over_best"] == pytest.approx(6)
    assert orderings("v", errors[errors.label != "best_r0"]) == {}


def test_truths_are_exact_where_a_table_exists(prepared):
    table = pd.read_parquet(prepared / "data/dice/small/prepared/environments.parquet").set_index("name")
    assert (table.loc[["gridwalk", "fourrooms", "taxi"]].target_se == 0).all() and (table.loc[["cartpole", "reacher"]].target_se > 0).all()


def test_a_killed_training_resumes_to_the_same_bits(prepared, monkeypatch):
    def train():
        run("dice", "train", variant="cartpole", root=prepared, params=TINY | {"batch": 16})

    train()
    straight = model(prepared, "cartpole")
    monkeypatch.setattr(training, "SAVE_EVERY", -1.0)
    step, calls = OptimisticAdam.step, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        step(self, *args)

    monkeypatch.setattr(OptimisticAdam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.setattr(OptimisticAdam, "step", step)
    train()
    assert all(torch.equal(straight[k], v) for k, v in model(prepared, "cartpole").items())


def test_a_member_in_the_stack_is_the_member_alone(prepared):
    """Same start, same data: only the order of sums inside a batched product could differ."""
    names = ["dual_dice", "gen_dice", "best_r1"]

    def ratios(members):
        run("dice", "train", variant="gridwalk", root=prepared, params=TINY | {"members": [{"estimator": n} for n in members]})
        found = model(prepared)["ratio"]
        return found.view(2, len(members), -1)

    together = ratios(names)
    for i, name in enumerate(names):
        assert torch.allclose(ratios([name])[:, 0], together[:, i], atol=1e-4)


def test_non_linear_rewards_need_a_table(prepared):
    with pytest.raises(ReproError, match="needs an environment with a table"):
        run("dice", "train", variant="reacher", root=prepared, params=TINY | {"members": [{"estimator": "best_r0", "transform": "exp"}]})


def test_mujoco_serves_as_an_environment(tmp_path):
    pytest.importorskip("mujoco")
    reacher = {"environment": "mujoco_reacher", **LOGGED["reacher"]}
    run("dice", "preprocess", root=tmp_path, params={"environments": LOGGED | {"reacher": reacher}})
    run("dice", "train", variant="reacher", root=tmp_path, params=TINY)
    assert model(tmp_path, "reacher")["q.w0"].isfinite().all()


@pytest.mark.parametrize("name", ["gridwalk", "fourrooms", "frozenlake", "taxi", "random"])
def test_settings_are_complete(name):
    chosen = setting(name, 3 if name != "taxi" else 2, np.random.default_rng(0))
    S, A = chosen.env.states, chosen.env.actions
    assert chosen.target.shape == chosen.behaviour.shape == (S, A) and len(chosen.features_SF) == S
    assert np.allclose(chosen.target.sum(-1), 1) and np.allclose(chosen.behaviour.sum(-1), 1) and (chosen.behaviour > 0).all()
    assert len(np.unique(chosen.features_SF, axis=0)) == S


@pytest.mark.slow
@pytest.mark.parametrize(("beta1", "optimism", "settles"), [(0.5, 1.0, False), (0.5, 2.0, True)])
def test_without_regularisation_gridwalk_needs_an_optimiser_that_looks_ahead(tmp_path, beta1, optimism, settles):
    """Momentum delays a step by beta1 / (1 - beta1), optimism extrapolates it: MWL settles where the sum is ahead, BestDICE
    anyway."""
    run("dice", "preprocess", root=tmp_path, params={"environments": LOGGED | {"gridwalk": {"size": 10, "trajectories": 100, "steps": 100, "seeds": 2}}})
    members = [{"estimator": "best_r0"}, {"estimator": "mwl"}]
    run("dice", "train", variant="gridwalk", root=tmp_path, params={"steps": 1000, "beta1": beta1, "optimism": optimism, "members": members})
    folder = tmp_path / "data/dice/small/models/gridwalk"
    off = (last_sixth(pd.read_parquet(folder / "history.parquet")).dual - 0.774070101).abs()
    assert off[[0, 2]].max() < 0.05
    assert off[[1, 3]].max() < 0.2 if settles else off[[1, 3]].min() > 0.2
    assert (last_sixth(pd.read_parquet(folder / "history_fqe.parquet")).primal - 0.774070101).abs().max() < 0.06


def test_rewards_are_transformed_then_scaled_then_shifted():
    r = np.array([0.0, 8.0])
    assert np.allclose(Member(estimator="best_r0", transform="cuberoot", scale=2, shift=1).reward(r), [1, 5])
    assert np.allclose(Member(estimator="best_r0", transform="exp").reward(r), np.exp(r)) and Member(estimator="mql").name == "mql"


def test_numbers_of_the_evaluation():
    estimates = pd.DataFrame({"problem": "p", "estimator": "e", "n": [10, 10, 40, 40], "estimate": [1.3, 0.7, 1.15, 0.85], "rho": 1.0})
    rmse = rmse_table(estimates)
    assert np.allclose(rmse.rmse, [0.3, 0.15])
    history = pd.DataFrame({"step": [4, 9, 10, 11] * 2, "metric": "dual", "member": [0] * 4 + [1] * 4, "value": [9, 9, 1, 2, 9, 9, 3, 5]})
    assert last_sixth(history).dual.tolist() == [1.5, 4.0]
