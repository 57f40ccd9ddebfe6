"""Coverage, widths and bias of every method against the true values."""

import numpy as np
import pandas as pd
from scipy.stats import binom

from reprise.papers.coindice.data import truth
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


def retraining(intervals: pd.DataFrame) -> dict[str, float]:
    """How far re-training moved the ends of the .95 intervals, in widths: mean and largest over datasets and sides."""
    at = intervals[intervals.level == LEVELS[1]].set_index(["method", "dataset"])[["lower", "upper"]]
    first = at.loc["one_shot"]
    found = {}
    for name in [m for m in at.index.unique("method") if m.startswith("round_")]:
        moved = (at.loc[name] - first).div(first.upper - first.lower, axis=0)
        found |= {f"{name}.change.mean": moved.abs().to_numpy().mean(), f"{name}.change.most": moved.abs().to_numpy().max(), f"{name}.change.wider": (moved.upper - moved.lower).mean()}
    return found


def evaluate(stage: Stage) -> None:
    """coverage.parquet: `coverage` of every variant; then the metrics."""
    metrics, tables = {}, []
    for variant in stage.variants:
        intervals = pd.read_parquet(stage.path("models", variant) / "intervals.parquet")
        true = truth(stage.path("prepared"), intervals.environment[0])
        table = coverage(intervals, true["target"])
        found = figures(table)
        if "one_shot" in set(intervals.method):
            found |= retraining(intervals)
        metrics |= {f"{variant}.{key}": value for key, value in found.items()}
        metrics |= {f"{variant}.datasets": int(table.datasets.iloc[0]), f"{variant}.truth": true["target"], f"{variant}.truth_se": true["target_se"], f"{variant}.behaviour": true["behaviour"]}
        tables.append(table.assign(variant=variant))
    pd.concat(tables).to_parquet(stage.out / "coverage.parquet", index=False)
    stage.metrics(metrics)
