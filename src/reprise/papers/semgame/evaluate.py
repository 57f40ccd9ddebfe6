"""Exact errors on the circle with their slopes; scores of every method on every design; the linear answers on real data."""

import numpy as np
import pandas as pd
from pydantic import Field
from safetensors.numpy import load_file

from reprise.errors import unknown
from reprise.papers.semgame.circle import GRID, X_G, Circle, energy, least_squares, modes, primal_error, squared_error, tikhonov, truth
from reprise.papers.semgame.data import load
from reprise.papers.semgame.linear import moment_check, sieve
from reprise.papers.semgame.stacks import Arrays
from reprise.params import Params
from reprise.stage import Stage


class Evaluate(Params):
    """Parameters of `evaluate`."""

    slope_from: int = Field(gt=0, description="first horizon T of the slopes in T")
    ladder: list[str] = Field(description="arms of the circle that differ in width alone, ascending")
    suite: list[str] = Field(description="designs over which methods are averaged")
    sieve: int = Field(gt=0, description="degree of the polynomials of Z in the moment check")


def evaluate(params: Evaluate, stage: Stage) -> None:
    """Write circle.parquet, functions.parquet, scores.parquet, curves.parquet, chosen.parquet and the metrics."""
    metrics = circle_results(params, stage)
    designs = load(stage)
    scores, curves, chosen = [], [], []
    for method in stage.variants:
        predictions = load_file(stage.path("models", method) / "predictions.safetensors")
        for name, d in designs.items():
            if f"{name}.test" not in predictions:
                continue
            rows, lines = score(d, predictions[f"{name}.test"], predictions[f"{name}.curve"], params.sieve)
            scores.append(rows.assign(design=name, method=method))
            curves.append(lines.assign(design=name, method=method))
        chosen.append(pd.read_parquet(stage.path("models", method) / "chosen.parquet").assign(method=method))
    scores, curves = pd.concat(scores, ignore_index=True), pd.concat(curves, ignore_index=True)
    for name, frame in (("scores", scores), ("curves", curves), ("chosen", pd.concat(chosen, ignore_index=True))):
        frame.to_parquet(stage.out / f"{name}.parquet", index=False)
    metrics |= design_metrics(scores) | suite_metrics(scores, params.suite)
    linear = pd.read_parquet(stage.path("prepared") / "linear.parquet")
    linear.to_parquet(stage.out / "linear.parquet", index=False)
    metrics |= {f"linear.{row['problem']}.{key}": row[key] for row in linear.to_dict("records") for key in ("ols", "tsls", "first_stage_f", "n")}
    stage.metrics(metrics)


def mean_se(prefix: str, values_S: np.ndarray) -> dict[str, float]:
    """`<prefix>.mean` and `<prefix>.se` over seeds."""
    return {f"{prefix}.mean": float(np.mean(values_S)), f"{prefix}.se": float(np.std(values_S, ddof=1) / np.sqrt(len(values_S)))}


def slope(x_T: np.ndarray, y_TS: np.ndarray) -> np.ndarray:
    """Least-squares slope of log y in log x, of each seed [S]."""
    x = np.log(x_T) - np.log(x_T).mean()
    return x @ np.log(y_TS) / (x @ x)


def circle_results(params: Evaluate, stage: Stage) -> dict[str, float]:
    """Errors of every arm at every horizon, and what the theorems speak of: slopes in T and m, floors, the squared error."""
    t = load_file(stage.path("rates") / "functions.safetensors")
    circle = Circle(**dict(zip(Circle.model_fields, t["circle"].tolist())))
    width = {key.removeprefix("setting."): value[0] for key, value in t.items() if key.startswith("setting.")}
    rows, functions, metrics, last = [], [], {}, {}
    for arm in sorted(width, key=lambda arm: (width[arm], arm)):
        alpha, marks = t[f"setting.{arm}"][1], t[f"marks.{arm}"]
        error_TS, squared_TS = primal_error(circle, alpha, t[f"f.{arm}"]), squared_error(t[f"f.{arm}"])
        seeds = range(error_TS.shape[1])
        rows += [{"arm": arm, "width": width[arm], "alpha": alpha, "T": int(T), "seed": s, "error": error_TS[i, s], "squared_error": squared_TS[i, s]} for i, T in enumerate(marks) for s in seeds]
        functions.append(pd.DataFrame({"arm": arm, "x": X_G, "f": t[f"f.{arm}"][-1].mean(0), "low": t[f"f.{arm}"][-1].min(0), "high": t[f"f.{arm}"][-1].max(0)}))
        used = marks >= params.slope_from
        last[arm] = error_TS[-1]
        prefix = f"circle.{arm}"
        metrics |= mean_se(f"{prefix}.error", error_TS[-1]) | mean_se(f"{prefix}.squared_error", squared_TS[-1]) | mean_se(f"{prefix}.slope", slope(marks[used], error_TS[used]))
        metrics |= mean_se(f"{prefix}.last_error", primal_error(circle, alpha, t[f"last.{arm}"]))
        metrics |= {f"{prefix}.movement_f": float(t[f"movement.{arm}"][0].mean()), f"{prefix}.movement_u": float(t[f"movement.{arm}"][1].mean())}
        metrics[f"{prefix}.bias"] = float(energy(tikhonov(circle, alpha) - modes(truth(X_G))))
    if params.ladder:
        if unknown_arms := sorted(set(params.ladder) - set(last)):
            raise unknown("arm of the ladder", unknown_arms[0], last)
        alpha = t[f"setting.{params.ladder[-1]}"][1]
        metrics |= mean_se("circle.slope_m", slope(np.array([width[arm] for arm in params.ladder]), np.stack([last[arm] for arm in params.ladder])))
        means = np.array([last[arm].mean() for arm in params.ladder])
        metrics["circle.worst_width_ratio"] = float((means[1:] / means[:-1]).max())  # below 1: strictly decreasing in m
        metrics["circle.zero.error"] = float(primal_error(circle, alpha, np.zeros(GRID)))
        metrics["circle.least_squares.error"] = float(primal_error(circle, alpha, least_squares(circle)))
        metrics["circle.least_squares.squared_error"] = float(squared_error(least_squares(circle)))
    functions += [pd.DataFrame({"arm": name, "x": X_G, "f": f, "low": f, "high": f}) for name, f in (("truth", truth(X_G)), ("least_squares", least_squares(circle)))]
    pd.DataFrame(rows, columns=["arm", "width", "alpha", "T", "seed", "error", "squared_error"]).to_parquet(stage.out / "circle.parquet", index=False)
    pd.concat(functions, ignore_index=True).to_parquet(stage.out / "functions.parquet", index=False)
    return metrics


def score(d: Arrays, f_STK: np.ndarray, f_SG: np.ndarray, degree: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows by seed, and the drawn curves in the units of the data.

    mse is in units of the training outcome's variance, relative as a share of the truth's own variance, log10_mse in the
    data's units. A moment that does not see constants (sum c = 0) is scored after centring. NaN: nobody knows the truth,
    or (moment_t) the test examples are a lattice without outcomes.
    """
    f_STK, c = f_STK.astype(float), d["c"]
    blind = c.sum() == 0
    error_ST = f_STK[:, :, 0] - d["g_test"]
    g_SG, line_G, f_SG = d["g_curve"], d["line"], f_SG.astype(float)
    if blind:
        error_ST = error_ST - error_ST.mean(1, keepdims=True)
        f_SG, g_SG = f_SG - f_SG.mean(1, keepdims=True), g_SG - g_SG.mean(1, keepdims=True)
    mse_S = np.square(error_ST).mean(1)
    shift, scale = d["y_mean"][:, None], d["y_sd"][:, None]
    residual_ST = f_STK @ c - d["y_test"]
    known = np.isfinite(d["y_test"]).all()
    check_S = [moment_check(r, sieve(z, degree, 60)) if known else np.nan for r, z in zip(residual_ST, d["z_test"])]
    units_SG = f_SG * scale + shift
    rows = pd.DataFrame(
        {
            "seed": np.arange(len(mse_S)),
            "mse": mse_S,
            "relative": mse_S / d["g_test"].var(1),
            "log10_mse": np.log10(np.maximum(mse_S * np.square(d["y_sd"]), np.finfo(float).tiny)),
            "moment_t": check_S,
            "slope": (units_SG[:, -1] - units_SG[:, 0]) / (line_G[-1] - line_G[0]),
        }
    )
    seeds, points = f_SG.shape
    lines = pd.DataFrame({"seed": np.repeat(np.arange(seeds), points), "line": np.tile(line_G, seeds), "f": units_SG.ravel(), "truth": (g_SG * scale + shift).ravel()})
    return rows, lines


def design_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """design.<design>.<method>.<score>.mean and .sd over seeds, for the scores that exist."""
    metrics = {}
    for (design, method), rows in scores.groupby(["design", "method"]):
        for key in ("mse", "relative", "log10_mse", "moment_t", "slope"):
            if rows[key].notna().all():
                metrics |= {f"design.{design}.{method}.{key}.mean": rows[key].mean(), f"design.{design}.{method}.{key}.sd": rows[key].std()}
    return metrics


def suite_metrics(scores: pd.DataFrame, suite: list[str]) -> dict[str, float]:
    """suite.<method>.mse: the mean over the suite's designs, with its standard error over seeds; and the worst design's mean.

    suite.half_minus_all: what the game loses with half of the examples, paired by seed.
    """
    metrics = {}
    table = scores[scores.design.isin(suite)].pivot_table(index="seed", columns=["method", "design"], values="mse")
    for method in table.columns.unique("method"):
        if len(table[method].columns) < len(suite):  # a method that was not given the whole suite
            continue
        metrics |= mean_se(f"suite.{method}.mse", table[method].mean(axis=1).to_numpy())
        metrics[f"suite.{method}.worst"] = table[method].mean().max()
    if {"sem", "sem_half"} <= set(table.columns.unique("method")):
        metrics |= mean_se("suite.half_minus_all", (table["sem_half"] - table["sem"]).mean(axis=1).to_numpy())
    return metrics
