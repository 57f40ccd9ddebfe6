"""Comparing two-dimensional frontiers: what is not dominated, and the area it covers."""

import numpy as np
import pandas as pd

REFERENCE = (0.5, 0.5)  # of every hypervolume, accuracies of both tasks
SIDES = ("left", "right")


def non_dominated(points_N2: np.ndarray) -> np.ndarray:
    """The points that no other beats in one coordinate without losing in the other; duplicates once, first coordinate falling."""
    points = np.unique(points_N2, axis=0)[::-1]
    kept, best = [], -np.inf
    for first, second in points:  # by first coordinate falling, then second falling
        if second > best:
            kept.append((first, second))
            best = second
    return np.array(kept)


def hypervolume(points_N2: np.ndarray, reference: tuple[float, float] = REFERENCE) -> float:
    """Area between the frontier of `points` and `reference`, both coordinates to be maximised."""
    inside = points_N2[(points_N2 > reference).all(1)]
    if not len(inside):
        return 0.0
    front = non_dominated(inside)
    heights = np.diff(front[:, 1], prepend=reference[1])
    return float(((front[:, 0] - reference[0]) * heights).sum())


def final(history: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """One row a member: alpha, seed and every metric's mean over the last epochs (those in which accuracy was measured)."""
    means = history[~history.metric.str.startswith("loss")].groupby(["member", "metric"]).value.mean().unstack()
    return members.join(means)


def volumes(points: pd.DataFrame, split: str) -> np.ndarray:
    """The hypervolume of each seed's frontier over its alphas, in seed order."""
    columns = [f"{split}_accuracy_{side}" for side in SIDES]
    return np.array([hypervolume(rows[columns].to_numpy()) for _, rows in points.groupby("seed")])
