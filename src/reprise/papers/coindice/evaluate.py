"""Coverage, widths and bias of every method against the true values."""

import numpy as np
import pandas as pd
from scipy.stats import binom

from reprise.kits.offpolicy.policies import restrict
from reprise.kits.offpolicy.simulate import Trajectories
from reprise.papers.coindice.data import Problem, load, truth
from reprise.stage import Stage

LEVELS = (0.9, 0.95)  # those whose coverage becomes a metric; coverage.parquet has all


def coverage(intervals: pd.DataFrame, rho: float) -> pd.DataFrame:
    """A row for each method, size and level: the share of datasets whose interval holds rho, the binomial 95 % band in which it
    would lie were the nominal level true, log10 of the median width, bias and standard deviation of the estimate."""
    frame = intervals.assign(
        covered=(intervals.lower <= rho) & (rho <= intervals.upper),
        width=intervals.upper - intervals.lower,
        below=intervals.upper < rho,
        error=intervals.estimate - rho,
    )
    grouped = frame.groupby(["method", "trajectories", "level"], sort=False)
    table = grouped.agg(
        datasets=("covered", "size"),
        coverage=("covered", "mean"),
        below=("below", "mean"),
        width=("width", "median"),
        bias=("error", "mean"),
        sd=("error", "std"),
        moved=("moved", "max"),
    ).reset_index()
    table["band_low"], table["band_high"] = (x / table.datasets for x in binom.interval(0.95, table.datasets, table.level))
    table["inside"] = (table.coverage >= table.band_low) & (table.coverage <= table.band_high)
    table["log_width"] = np.log10(np.maximum(table.width, 1e-300))
    return table


def figures(table: pd.DataFrame) -> dict[str, float]:
    """The metrics of one variant, `n<trajectories>.<method>.<figure>`."""
    found = {}
    for (method, size), rows in table.groupby(["method", "trajectories"], sort=False):
        name = f"n{size}.{method}"
        for level in LEVELS:
            (row,) = rows[rows.level == level].itertuples()
            found[f"{name}.coverage_{round(100 * level)}"] = row.coverage
            found[f"{name}.log_width_{round(100 * level)}"] = row.log_width
        found |= {
            f"{name}.calibration_error": (rows.coverage - rows.level).abs().mean(),
            f"{name}.levels_inside": int(rows.inside.sum()),
            f"{name}.bias": rows.bias.iloc[0],
            f"{name}.sd": rows.sd.iloc[0],
            f"{name}.moved": rows.moved.max(),
        }
    for method, rows in table[table.level == LEVELS[0]].groupby("method", sort=False):
        if len(rows) > 1:  # widths fall with the root of the number of trajectories
            found[f"slope.{method}"] = np.polyfit(np.log10(rows.trajectories), rows.log_width, 1)[0]
    return found


def retraining(intervals: pd.DataFrame) -> pd.DataFrame:
    """A row for each re-training: how far it moved the ends of the .95 intervals that one training gives, in widths (mean and
    largest over datasets and sides), and by how much it widened them."""
    at = intervals[intervals.level == LEVELS[1]].set_index(["method", "dataset"])[["lower", "upper"]]
    first = at.loc["one_shot"]
    rows = []
    for name in [m for m in at.index.unique("method") if m.startswith("round_")]:
        moved = (at.loc[name] - first).div(first.upper - first.lower, axis=0)
        rows.append((name, moved.abs().to_numpy().mean(), moved.abs().to_numpy().max(), (moved.upper - moved.lower).mean()))
    return pd.DataFrame(rows, columns=["method", "mean", "most", "wider"])


def renormalised_values(problem: Problem, log: Trajectories) -> np.ndarray:
    """The exact value, for each dataset, of the target renormalised over the actions that it shows in each state, [B]."""
    B = len(log.r)
    seen_BSA = np.zeros((B, *problem.target.shape), bool)
    seen_BSA[np.arange(B)[:, None, None], log.s, log.a] = True
    return np.array([problem.value(restrict(problem.target, seen_SA)) for seen_SA in seen_BSA])


def renormalisation(intervals: pd.DataFrame, problem: Problem, log: Trajectories, rho: float) -> pd.DataFrame:
    """A row for each size: by how much the policy that `restrict` evaluates is better than the target, the bias of the estimate,
    and how often the intervals hold that policy's own value."""
    rows = []
    for size, of_size in intervals[intervals.method == "restrict"].groupby("trajectories"):
        value_B = renormalised_values(problem, log[:, :size])
        at = {level: of_size[of_size.level == level].sort_values("dataset") for level in LEVELS}
        covers = [((x.lower <= value_B) & (value_B <= x.upper)).mean() for x in at.values()]
        rows.append((size, (value_B - rho).mean(), at[LEVELS[0]].estimate.mean() - rho, *covers))
    return pd.DataFrame(rows, columns=["trajectories", "policy_bias", "bias", *(f"covers_policy_{round(100 * level)}" for level in LEVELS)])


def evaluate(stage: Stage) -> None:
    """coverage.parquet: `coverage` of every variant; retraining.parquet and renormalised.parquet likewise; then the metrics."""
    metrics, tables = {}, {"coverage": [], "retraining": [], "renormalised": []}
    for variant in stage.variants:
        intervals = pd.read_parquet(stage.path("models", variant) / "intervals.parquet")
        true = truth(stage.path("prepared"), intervals.environment[0])
        table = coverage(intervals, true["target"])
        found = figures(table)
        if "one_shot" in set(intervals.method):
            changes = retraining(intervals)
            tables["retraining"].append(changes.assign(variant=variant))
            found |= {f"{row.method}.change.{key}": getattr(row, key) for row in changes.itertuples() for key in ("mean", "most", "wider")}
        if "restrict" in set(intervals.method):
            policy = renormalisation(intervals, *load(stage.path("prepared"), intervals.environment[0]), true["target"])
            tables["renormalised"].append(policy.assign(variant=variant))
            found |= {f"n{row.trajectories}.restrict.{key}": getattr(row, key) for row in policy.itertuples() for key in ("policy_bias", "covers_policy_90", "covers_policy_95")}
        metrics |= {f"{variant}.{key}": value for key, value in found.items()}
        metrics |= {f"{variant}.datasets": int(table.datasets.iloc[0]), f"{variant}.truth": true["target"], f"{variant}.truth_se": true["target_se"], f"{variant}.behaviour": true["behaviour"]}
        tables["coverage"].append(table.assign(variant=variant))
    for name, parts in tables.items():
        if parts:
            pd.concat(parts).to_parquet(stage.out / f"{name}.parquet", index=False)
    stage.metrics(metrics)
