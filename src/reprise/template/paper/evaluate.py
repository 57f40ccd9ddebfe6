"""How far each method came: the number of digits won, and the rate by step."""

import numpy as np
import pandas as pd

from reprise.stage import Stage


def evaluate(stage: Stage) -> None:
    """One row per variant, member and step; metrics: log10 of the last loss, mean and standard error over members."""
    rows, metrics = [], {}
    for variant in stage.variants:
        history = pd.read_parquet(stage.path("models", variant) / "history.parquet")
        rows.append(history.assign(variant=variant))
        last = history[history.step == history.step.max()]
        digits = np.log10(last.value.to_numpy())
        metrics |= {f"{variant}.log10_loss.mean": digits.mean(), f"{variant}.log10_loss.se": digits.std(ddof=1) / len(digits) ** 0.5}
    pd.concat(rows).to_parquet(stage.out / "history.parquet", index=False)
    stage.metrics(metrics)
