"""The pipeline end to end at tiny sizes, with and without real files; an interrupted run; bad input."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from reprise import params, training
from reprise.errors import ReproError
from reprise.papers.semgame import rates, train
from reprise.papers.semgame.evaluate import score, slope
from reprise.stage import run

NEURAL = {"hidden": [6], "adversary": [6], "steps": 12, "longer": dict.fromkeys(("abs", "linear", "sin", "step", "demand", "lake"), 12), "batch": 16, "every": 3}
TINY = {
    **dict.fromkeys(("direct", "agmm", "deepgmm", "sem", "sem_half"), NEURAL),
    "theory": {"width": 16, "steps": 12, "batch": 16, "every": 3},
    "poly": {"degrees_x": [1, 2], "degrees_z": [1, 2], "ridges": [0.0, 0.1]},
    "kiv": {"exponents": [-1, -3], "values": 2, "most": 40},
    "rkhs": {"landmarks": 15, "ridges_u": [0.01], "ridges_f": [0.001]},
    "tsls": {},
}
RATES = {"marks": [20, 40], "seeds": 2, "every": 5, "arms": {"fixed_m128": {"horizons": [20, 40]}}}


def train_all(scale: str, root: Path) -> None:
    for variant in params.of_paper("semgame")["variants"]:
        run("semgame", "train", scale, variant, root=root, params={"estimator": TINY[variant]})


def test_pipeline(tmp_path, monkeypatch):
    monkeypatch.delenv("REPRISE_MIRROR", raising=False)  # the default scale knows no files
    designs = {name: {"seeds": 2, "n": 48, "dev": 40, "test": 40} for name in params.section("semgame", "small")["preprocess"]["designs"]}
    run("semgame", "download", root=tmp_path)
    run("semgame", "preprocess", root=tmp_path, params={"designs": designs, "points": 7})
    arms = {name: {"width": min(arm["width"], 32)} | ({"horizons": [20, 40]} if "horizons" in arm else {}) for name, arm in params.section("semgame", "small")["rates"]["arms"].items()}
    run("semgame", "rates", root=tmp_path, params={**RATES, "arms": arms})
    train_all("small", tmp_path)
    run("semgame", "evaluate", root=tmp_path, params={"slope_from": 20})
    metrics = json.loads((tmp_path / "reports/semgame/small/metrics.json").read_text())
    assert metrics["circle.zero.error"] == pytest.approx(0.187409, abs=1e-6)
    assert metrics["circle.m32.error.mean"] < metrics["circle.zero.error"]
    assert {f"suite.{v}.mse.mean" for v in TINY} <= set(metrics) and metrics["design.panel.kiv.mse.mean"] > 0
    assert not any(key.startswith("linear.") for key in metrics)
    scores = pd.read_parquet(tmp_path / "data/semgame/small/results/scores.parquet")
    assert len(scores) == 2 * (8 * len(designs) + 2 * 4)  # two methods see the suite alone
    run("semgame", "report", root=tmp_path)
    page = (tmp_path / "reports/semgame/small/index.md").read_text()
    assert page.count("![") == 3 and "## Claims" in page


def test_a_horizon_has_its_own_constant_step(tmp_path):
    """The run for T = 20 is, at 20, the run alone; and not that for T = 40."""
    small = params.section("semgame", "small")["rates"]["arms"]
    both, alone = (
        load_file(run("semgame", "rates", root=tmp_path / str(len(horizons)), params=RATES | {"arms": dict.fromkeys(small, {"width": 8}) | {"fixed_m128": {"width": 16, "horizons": horizons}}}).target / "functions.safetensors")
        for horizons in ([20, 40], [20])
    )
    assert both["marks.fixed_m128"].tolist() == [20, 40] and both["f.fixed_m128"].shape == (2, 2, 256)
    np.testing.assert_allclose(both["f.fixed_m128"][0], alone["f.fixed_m128"][0], atol=1e-6)
    assert np.abs(both["f.fixed_m128"][1] - alone["last.fixed_m128"]).max() > 1e-3


@pytest.mark.mirror
def test_pipeline_on_real_data(tmp_path):
    if not os.environ.get("REPRISE_MIRROR"):
        pytest.skip("REPRISE_MIRROR is not set")
    for stage, less in (("download", {}), ("preprocess", {"points": 7, "designs": {n: {"seeds": 2} for n in ("engel", "card", "mroz", "fish", "cigarettes", "employment")}}), ("rates", {})):
        run("semgame", stage, "real", root=tmp_path, params=less)
    train_all("real", tmp_path)
    run("semgame", "evaluate", "real", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/semgame/real/metrics.json").read_text())
    assert round(metrics["linear.card.tsls"], 4) == 0.1315 and "design.engel.sem.slope.mean" in metrics and "design.engel.sem.mse.mean" not in metrics
    run("semgame", "report", "real", root=tmp_path)
    assert "first_stage_f" in (tmp_path / "reports/semgame/real/index.md").read_text()


def interrupted(monkeypatch, module, name: str, after: int):
    """Let `module.name` fail at its call number `after`, once."""
    calls, original = {"n": 0}, getattr(module, name)

    def failing(*args, **kwargs):
        calls["n"] += 1
        if calls["n"] == after:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize("stage_name", ["rates", "sem", "theory"])
def test_an_interrupted_run_goes_on_to_the_same_bits(stage_name, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    results = []
    for folder in ("straight", "resumed"):
        root = tmp_path / folder
        if stage_name == "rates":
            again = lambda: run("semgame", "rates", root=root, params=RATES | {"arms": RATES["arms"] | {"m512": {"width": 16}}})  # noqa: B023, E731
            module, call, file = rates, "play", "functions.safetensors"
        else:
            run("semgame", "download", root=root)
            designs = {name: {"seeds": 2, "n": 40, "dev": 20, "test": 20} for name in params.section("semgame", "small")["preprocess"]["designs"]}
            run("semgame", "preprocess", root=root, params={"designs": designs, "points": 5})
            again = lambda: run("semgame", "train", variant=stage_name, root=root, params={"designs": ["sin"], "estimator": TINY[stage_name]})  # noqa: B023, E731
            module, call, file = train, "gradients" if stage_name == "sem" else "play", "predictions.safetensors"
        if folder == "resumed":
            with monkeypatch.context() as patch:
                interrupted(patch, module, call, 8)  # in the middle of an epoch
                with pytest.raises(KeyboardInterrupt):
                    again()
        results.append((again().target / file).read_bytes())
    assert results[0] == results[1]


def test_bad_input_is_one_clear_line(tmp_path):
    with pytest.raises(ReproError, match="multiple of 2"):
        run("semgame", "rates", root=tmp_path, params={"arms": {"m8": {"width": 7}}})
    with pytest.raises(ReproError, match="horizon 700 of arm 'fixed_m128' .* none of the marks"):
        run("semgame", "rates", root=tmp_path, params={"arms": {"fixed_m128": {"horizons": [700]}}})
    with pytest.raises(ReproError, match="'deep_m16' .* two-layer"):
        run("semgame", "rates", root=tmp_path, params={"arms": {"deep_m16": {"horizons": [8000]}}})
    with pytest.raises(ReproError, match="data/semgame/small/prepared, which is missing"):
        run("semgame", "train", variant="tsls", root=tmp_path)
    run("semgame", "download", root=tmp_path)
    with pytest.raises(ReproError, match="designs.sin"):
        run("semgame", "preprocess", root=tmp_path, params={"designs": {"sin": {"kind": "toi"}}})
    sizes = {name: {"seeds": 2, "n": 20, "dev": 10, "test": 10} for name in params.section("semgame", "small")["preprocess"]["designs"]}
    run("semgame", "preprocess", root=tmp_path, params={"designs": sizes, "points": 5})
    with pytest.raises(ReproError, match="'sinn'.*sin"):
        run("semgame", "train", variant="tsls", root=tmp_path, params={"designs": ["sinn"]})


def test_slopes_are_those_of_a_power_law():
    t = np.array([250.0, 500, 1000, 4000])
    np.testing.assert_allclose(slope(t, np.stack([3 * t**-0.5, t**-1.0], 1)), [-0.5, -1.0])


def test_scores_centre_where_the_moment_does_not_see_constants():
    rng = np.random.default_rng(0)
    g = rng.standard_normal((2, 30))
    d = {"g_test": g, "y_test": g, "z_test": rng.standard_normal((2, 30, 1)), "c": np.array([1.0, -1.0]), "g_curve": g[:, :5], "line": np.arange(5.0), "y_mean": np.zeros(2), "y_sd": np.ones(2)}
    shifted = np.stack([g + 3, g + 3], -1)
    rows, lines = score(d, shifted, g[:, :5] + 3, 1)
    np.testing.assert_allclose(rows.mse, 0, atol=1e-12)
    np.testing.assert_allclose(lines.f, lines.truth)
    assert score(d | {"c": np.array([1.0, 0.0])}, shifted, g[:, :5] + 3, 1)[0].mse.min() > 8


def test_predictions_carry_every_seed_and_the_choice_is_on_dev(tmp_path):
    run("semgame", "download", root=tmp_path)
    sizes = {name: {"seeds": 2, "n": 40, "dev": 20, "test": 20} for name in params.section("semgame", "small")["preprocess"]["designs"]}
    prepared = run("semgame", "preprocess", root=tmp_path, params={"designs": sizes, "points": 5}).target
    go = lambda: run("semgame", "train", variant="sem", root=tmp_path, params={"designs": ["sin"], "estimator": NEURAL}).target  # noqa: E731
    before, chosen = load_file(go() / "predictions.safetensors"), pd.read_parquet(go() / "chosen.parquet")
    assert before["sin.test"].shape == (2, 20, 1) and before["sin.curve"].shape == (2, 5)
    best = chosen.loc[chosen.groupby("seed").score.idxmin()]
    assert best.chosen.all() and chosen.chosen.sum() == 2
    data = load_file(prepared / "sin.safetensors")
    save_file(data | {"y_test": data["y_test"] + 9, "g_test": data["g_test"] - 9, "z_test": 0 * data["z_test"]}, prepared / "sin.safetensors")
    after = load_file(go() / "predictions.safetensors")
    assert all(np.array_equal(before[key], after[key]) for key in before)  # what is scored on test never touches the fit
