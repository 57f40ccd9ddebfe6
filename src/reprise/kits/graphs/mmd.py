"""Squared maximum mean discrepancy between two sets of graphs (Gretton et al. 2012), with the kernel of Liao et al. (2019)."""

from collections.abc import Sequence

import numpy as np

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.statistics import STATISTICS


def kernel(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """k(x, y) = exp(-TV(x, y)^2 / (2 sigma^2)), TV = half the L1 distance. [a, p], [b, p] -> [a, b]."""
    tv = np.abs(x[:, None] - y).sum(axis=2) / 2
    return np.exp(-(tv**2) / (2 * sigma**2))


def squared_mmd(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray], sigma: float) -> float:
    """mean k(X, X) + mean k(Y, Y) - 2 mean k(X, Y), a V-statistic: the diagonal counts. Vectors are padded with zeros to one length.

    Raises:
        ReproError: one of the sets is empty.
    """
    if not len(xs) or not len(ys):
        raise ReproError("the MMD of an empty set is not defined: no graph with an edge is left in one of the two sets")
    x, y = (_padded(vectors, max(map(len, [*xs, *ys]))) for vectors in (xs, ys))
    value = kernel(x, x, sigma).mean() + kernel(y, y, sigma).mean() - 2 * kernel(x, y, sigma).mean()
    return max(float(value), 0.0)  # it is a squared norm: what is below zero is rounding


def vectors(graphs: Sequence[Graph], statistic: str) -> list[np.ndarray]:
    """The vectors of one statistic, one per graph."""
    return [STATISTICS[statistic][0](graph) for graph in graphs]


def all_vectors(graphs: Sequence[Graph]) -> dict[str, list[np.ndarray]]:
    """The vectors of all four statistics."""
    return {statistic: vectors(graphs, statistic) for statistic in STATISTICS}


def compare(xs: dict[str, list[np.ndarray]], ys: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Squared MMD per statistic between two results of `all_vectors`."""
    return {statistic: squared_mmd(xs[statistic], ys[statistic], sigma) for statistic, (_, sigma) in STATISTICS.items()}


def _padded(vectors: Sequence[np.ndarray], length: int) -> np.ndarray:
    return np.stack([np.pad(v, (0, length - len(v))) for v in vectors])
