"""Comparing two-dimensional frontiers: what is not dominated, and the area it covers."""

import numpy as np


def non_dominated(points_N2: np.ndarray) -> np.ndarray:
    """The points that no other beats in one coordinate without losing in the other; duplicates once, first coordinate falling."""
    points = np.unique(points_N2, axis=0)[::-1]
    kept, best = [], -np.inf
    for first, second in points:  # by first coordinate falling, then second falling
        if second > best:
            kept.append((first, second))
            best = second
    return np.array(kept)


def hypervolume(points_N2: np.ndarray, reference: tuple[float, float]) -> float:
    """Area between the frontier of `points` and `reference`, both coordinates to be maximised."""
    inside = points_N2[(points_N2 > reference).all(1)]
    if not len(inside):
        return 0.0
    front = non_dominated(inside)
    heights = np.diff(front[:, 1], prepend=reference[1])
    return float(((front[:, 0] - reference[0]) * heights).sum())
