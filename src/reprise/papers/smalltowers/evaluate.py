"""Frontiers of accuracies, their hypervolume, paired gains over plain scalarisation, and the capacity study."""

import json

import numpy as np
import pandas as pd
from pydantic import Field

from reprise.papers.smalltowers.frontier import SIDES, final, volumes
from reprise.params import Params
from reprise.stage import Stage

class Evaluate(Params):
    """Parameters of `evaluate`."""

    base: str = Field(description="the variant that gains are measured against")


def at_best_alpha(points: pd.DataFrame) -> np.ndarray:
    """Each seed's test accuracy, mean of both tasks, at the alpha whose validation accuracy is best."""
    score = {split: points[[f"{split}_accuracy_{side}" for side in SIDES]].mean(axis=1) for split in ("validation", "test")}
    return np.array([score["test"][rows.index[score["validation"][rows.index].argmax()]] for _, rows in points.groupby("seed")])


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean and standard error."""
    return {"mean": values.mean(), "se": values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0}


def evaluate(params: Evaluate, stage: Stage) -> None:
    """points.parquet: a row per variant and member; study.parquet: a row per variant, size and seed; then the metrics."""
    metrics: dict[str, float] = {}
    points, study = {}, []

    def put(name: str, values: np.ndarray) -> None:
        metrics.update({f"{name}.{key}": value for key, value in spread(values).items()})

    for variant in stage.variants:
        folder = stage.path("models", variant)
        summary = json.loads((folder / "summary.json").read_text())
        metrics |= {f"{variant}.learning_rate": summary["rate"], f"{variant}.parameters.served": summary["parameters"]["served"], f"{variant}.parameters.aux": summary["parameters"]["aux"]}
        points[variant] = final(pd.read_parquet(folder / "history.parquet"), pd.read_parquet(folder / "members.parquet"))
        put(f"{variant}.best", at_best_alpha(points[variant]))
        if points[variant].alpha.nunique() > 1:  # a weighting that finds its own weights gives a point, no frontier
            put(f"{variant}.hypervolume", volumes(points[variant], "test"))
            put(f"{variant}.train_hypervolume", volumes(points[variant], "train"))
        for side in SIDES:
            put(f"{variant}.accuracy_{side}", points[variant].groupby("seed")[f"test_accuracy_{side}"].mean().to_numpy())
        if (folder / "study.parquet").exists():
            sizes = {size: final(pd.read_parquet(folder / f"history_{size}.parquet"), members.reset_index(drop=True)) for size, members in pd.read_parquet(folder / "study.parquet").groupby("size")}
            metrics |= {f"{variant}.{size}.learning_rate": frame.rate[0] for size, frame in sizes.items()}
            sizes["own"] = points[variant][points[variant].alpha.isin(sizes[min(sizes)].alpha.unique())]
            for size, frame in sizes.items():
                both = {split: volumes(frame, split) for split in ("train", "test")}
                study += [{"variant": variant, "size": size, "seed": i, **{k: v[i] for k, v in both.items()}} for i in range(len(both["test"]))]
                for split, values in both.items():
                    put(f"{variant}.{size}.{split}", values)
    frames = pd.DataFrame(study)
    if {"tower_layers_1", "tower_layers_5"} <= set(frames["size"] if len(frames) else ()):  # what going from a linear to a deep tower costs, seed by seed
        for variant, rows in frames.groupby("variant"):
            by = rows.set_index(["size", "seed"]).test
            put(f"{variant}.decline", (by["tower_layers_1"] - by["tower_layers_5"]).to_numpy())
    for variant, rows in points.items():
        if rows.alpha.nunique() > 1 and variant != params.base:
            base = points[params.base][points[params.base].alpha.isin(rows.alpha.unique())]
            gain = volumes(rows, "test") - volumes(base, "test")
            put(f"{variant}.gain", gain)
            metrics[f"{variant}.gain.positive"] = int((gain > 0).sum())
        gain = at_best_alpha(rows) - at_best_alpha(points[params.base])
        put(f"{variant}.best_gain", gain)
    table = pd.read_parquet(stage.path("movielens") / "results.parquet")
    for method, rows in table.groupby("method"):
        name = method.replace(" ", "_")
        for task in ("watch", "rating"):
            put(f"movielens.{name}.{task}", rows.groupby("seed")[task].mean().to_numpy())
    pd.concat([rows.assign(variant=variant) for variant, rows in points.items()]).to_parquet(stage.out / "points.parquet", index=False)
    frames.to_parquet(stage.out / "study.parquet", index=False)
    table.to_parquet(stage.out / "movielens.parquet", index=False)
    stage.metrics(metrics)
