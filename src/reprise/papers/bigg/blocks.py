"""Gradients of a large graph in blocks of rows: activations are kept for one block at a time (section 3.3, memory).

Between blocks only the O(log n) live row blocks of the forest are kept, one for each set bit of the boundary.
"""

import torch

from reprise.papers.bigg.cells import State, take
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import Batch, Rows, moved, plan_batch, plan_trees


def plan_blocks(rows: Rows, size: int, bits: int = 0) -> list[Batch]:
    """The graph as batches of `size` rows each, in order."""
    return [plan_batch([plan_trees(rows, bits, first, min(first + size, rows.n))], bits) for first in range(0, rows.n, size)]


def backward_in_blocks(model: BiGG, blocks: list[Batch], weight: float = 1.0, device: str = "cpu") -> torch.Tensor:
    """Add the gradient of `weight` * sum over members of -log p(graph) to the parameters; returns -log p. -> [S].

    First forwards without a graph of operations, for the live row blocks at each boundary; the decisions are left out.
    Then from the last block to the first: recompute it, with the gradient that arrived for what it hands on.
    """
    live: list[State | None] = [None]
    if model.history:
        with torch.no_grad():
            for batch in blocks[:-1]:
                batch = moved(batch, device)
                live.append(take(model.row_blocks(batch, model.subtrees(batch), live[-1]), batch.outgoing))
    else:
        live *= len(blocks)
    nll_S, arriving = torch.zeros(model.members, dtype=model.initial.dtype, device=device), None
    for batch, state in zip(reversed(blocks), reversed(live)):
        incoming = None if state is None else tuple(x.detach().requires_grad_() for x in state)
        part_S1, outgoing = model.with_blocks(moved(batch, device), incoming)
        total = weight * part_S1.sum()
        if arriving is not None:
            total = total + sum((x * grad).sum() for x, grad in zip(outgoing, arriving))
        total.backward()
        nll_S += part_S1.detach()[:, 0]
        arriving = None if incoming is None else tuple(x.grad for x in incoming)
    return nll_S
