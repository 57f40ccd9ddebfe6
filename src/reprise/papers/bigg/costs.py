"""What a graph costs, counted: cell applications, sequential steps, bytes that are kept for the backward pass. No clock."""

from collections.abc import Callable

import numpy as np
import torch

from reprise.kits.graphs.shapes import grid
from reprise.papers.bigg.blocks import backward_in_blocks, plan_blocks
from reprise.papers.bigg.dense import window_of
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.orders import ordered
from reprise.papers.bigg.plan import Batch, Rows, plan_batch, plan_trees


def work(batch: Batch) -> int:
    """Applications of a cell or a decision head to one row of a state."""
    cells = sum(len(join.left) for join in [*batch.heights, *batch.merges]) + sum(len(fold) for fold in batch.folds[1:])
    return cells + sum(2 * len(level.going) + len(level.descends) for level in batch.levels) + len(batch.sign_K)


def kept_bytes(model: torch.nn.Module, run: Callable[[], None]) -> int:
    """The most bytes of activations that autograd keeps alive at any moment of `run`; each storage once, weights not."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive: dict[int, int] = {}
    now = most = 0

    class Kept:
        def __init__(self, tensor: torch.Tensor):
            nonlocal now, most
            self.tensor, self.storage = tensor, tensor.untyped_storage()
            self.key = self.storage.data_ptr()
            if self.key not in weights:
                alive[self.key] = alive.get(self.key, 0) + 1
                now += self.storage.nbytes() if alive[self.key] == 1 else 0
                most = max(most, now)

        def __del__(self):
            nonlocal now
            if self.key not in weights:
                alive[self.key] -= 1
                if not alive[self.key]:
                    del alive[self.key]
                    now -= self.storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return most


def cost_of_grid(side: int, d: int, block: float) -> dict[str, float]:
    """Counts for the side x side grid in BFS order, at width d; blocks of `block` * sqrt(n) rows.

    Beside BiGG's: the pairs of nodes that a dense model decides on, all of them or those within the bandwidth of the order,
    and its sequential steps, one a row and then one an entry.
    """
    graph = ordered(grid(side, side), "bfs")
    rows = Rows.of_graph(graph)
    trees = plan_trees(rows)
    batch = plan_batch([trees])
    model = BiGG(1, d, "light", 0, True, torch.Generator().manual_seed(0))
    size, window = int(np.ceil(block * side)), window_of([graph])
    return {
        "n": graph.n,
        "m": graph.m,
        "pairs": graph.n * (graph.n - 1) // 2,
        "windowed_pairs": int(np.minimum(np.arange(graph.n), window).sum()),
        "realised": len(trees.row_N),
        "decisions": len(batch.sign_K),
        "work": work(batch),
        "stages": batch.stages,
        "dense_stages": graph.n + window,
        "block": size,
        "bytes_whole": kept_bytes(model, lambda: model(batch).sum().backward()),
        "bytes_blocks": kept_bytes(model, lambda: backward_in_blocks(model, plan_blocks(rows, size))),
    }
