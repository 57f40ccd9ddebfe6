"""Uniform numbers for sampling, and what is sampled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reprise.papers.bigg.plan import Rows

Uniforms = Callable[[np.ndarray], np.ndarray]  # graphs [K] -> one uniform number for each, the next of its own stream


def uniforms(generator: torch.Generator, graphs: int, block: int = 256) -> Uniforms:
    """A stream of uniform numbers for each graph, so that what a graph becomes does not depend on its neighbours."""
    drawn, used = torch.rand(graphs, block, generator=generator, dtype=torch.float64).numpy(), np.zeros(graphs, dtype=np.int64)

    def take(g_K: np.ndarray) -> np.ndarray:
        nonlocal drawn
        if used[g_K].max(initial=0) >= drawn.shape[1]:
            drawn = np.concatenate([drawn, torch.rand(graphs, drawn.shape[1], generator=generator, dtype=torch.float64).numpy()], axis=1)
        used[g_K] += 1
        return drawn[g_K, used[g_K] - 1]

    return take


@dataclass
class Samples:
    """Sampled edges of each graph, and -log p of each graph, float64 [G]."""

    rows: list[Rows]
    nll_G: np.ndarray
    ticks: int


def rows_of_edges(edges: list[np.ndarray], width: Sequence[np.ndarray]) -> list[Rows]:
    """Sort events (graph, row, column) into one `Rows` per graph."""
    found = np.concatenate([np.zeros((0, 3), dtype=np.int64), *edges])
    found = found[np.lexsort((found[:, 2], found[:, 1], found[:, 0]))]
    parts = np.split(found[:, 1:], np.searchsorted(found[:, 0], np.arange(1, len(width))))
    return [Rows(len(w), w, part) for w, part in zip(width, parts)]
