"""Uniform numbers for sampling, and what is sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reprise.papers.bigg.plan import Rows

Uniforms = Sequence[Iterator[float]]  # for each graph a stream of its own, so that what it becomes does not depend on its neighbours


def uniforms(generator: torch.Generator, graphs: int) -> Uniforms:
    """Streams of uniform numbers, their seeds drawn from `generator`."""
    return [_stream(seed) for seed in torch.randint(2**62, (graphs,), generator=generator).tolist()]


def _stream(seed: int) -> Iterator[float]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.random(256).tolist()


@dataclass
class Samples:
    """Sampled graphs, -log p of each, float64 [G], and how many batches of decisions they took."""

    rows: list[Rows]
    nll_G: np.ndarray
    batches: int

    @classmethod
    def of(cls, edges: Sequence[Sequence[tuple[int, int]]], width: Sequence[Sequence[int]], nll_G: np.ndarray, batches: int) -> "Samples":
        """From each graph's edges (row, column), in any order, and the widths of its rows."""
        rows = [Rows(len(w), np.array(w, dtype=np.int64), np.array(sorted(e), dtype=np.int64).reshape(-1, 2)) for e, w in zip(edges, width)]
        return cls(rows, nll_G, batches)
