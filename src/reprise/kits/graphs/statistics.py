"""One vector per graph for each of the four statistics by which generated graphs are compared (You et al. 2018, Liao et al. 2019)."""

import numpy as np

from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.orbits import orbit_counts, triangles

CLUSTERING_BINS = 100
SPECTRUM_BINS = 200
LOWEST = -1e-5  # the first spectrum bin begins below zero, where rounding may put the zero eigenvalues


def degree(graph: Graph) -> np.ndarray:
    """Share of nodes with degree 0, 1, ... -> [largest degree + 1], sums to 1."""
    return np.bincount(graph.degrees()) / graph.n


def clustering(graph: Graph) -> np.ndarray:
    """Histogram of the local clustering coefficients, 100 bins on [0, 1]. -> [100], sums to 1."""
    d = graph.degrees()
    t = np.bincount(triangles(graph).ravel(), minlength=graph.n)
    coefficient = 2 * t / np.maximum(d * (d - 1), 1)
    return np.histogram(coefficient, bins=CLUSTERING_BINS, range=(0, 1))[0] / graph.n


def orbit(graph: Graph) -> np.ndarray:
    """Orbit counts of graphlets with up to four nodes, averaged over the nodes. -> [15]."""
    return orbit_counts(graph).mean(axis=0)


def spectrum(graph: Graph) -> np.ndarray:
    """Histogram of the eigenvalues of the normalised Laplacian I - D^-1/2 A D^-1/2, 200 bins on [-1e-5, 2]. -> [200], sums to 1.

    Eigenvalues that rounding puts above 2, as in every bipartite graph, count as 2.
    """
    d = graph.degrees()
    scale = np.where(d > 0, 1 / np.sqrt(np.maximum(d, 1)), 0.0)
    laplacian = np.diag((d > 0).astype(np.float64))
    u, v = graph.edges.T
    laplacian[u, v] = laplacian[v, u] = -scale[u] * scale[v]
    eigenvalues = np.linalg.eigvalsh(laplacian)
    return np.histogram(np.clip(eigenvalues, LOWEST, 2), bins=SPECTRUM_BINS, range=(LOWEST, 2))[0] / graph.n


# statistic -> (vector of a graph, bandwidth sigma of the kernel)
STATISTICS = {"degree": (degree, 1.0), "clustering": (clustering, 0.1), "orbit": (orbit, 30.0), "spectrum": (spectrum, 1.0)}
