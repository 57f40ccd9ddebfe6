"""Block recomputation: the same gradients, less memory."""

import pytest
import torch

from reprise.kits.graphs.shapes import grid
from reprise.papers.bigg.blocks import backward_in_blocks, plan_blocks
from reprise.papers.bigg.costs import kept_bytes
from reprise.papers.bigg.orders import ordered
from reprise.papers.bigg.plan import Rows

from .test_likelihood import batch_of, make, named


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("kind, bits", [("random", 0), ("random", 3), ("grid", 0), ("isolated", 0), ("one node", 0), ("bipartite", 0)])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_gradients_in_blocks_are_the_gradients(kind, bits, size, history):
    graph, model = named(kind), make(members=2, bits=bits, history=history)
    rows = graph if isinstance(graph, Rows) else Rows.of_graph(graph)
    nll = model(batch_of([graph], bits))
    (0.5 * nll.sum()).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    in_blocks = backward_in_blocks(model, plan_blocks(rows, size, bits), 0.5)
    assert torch.allclose(in_blocks, nll[:, 0], atol=1e-9)
    for name, p in model.named_parameters():
        mine, theirs = (torch.zeros(()).double() if g is None else g for g in (p.grad, whole[name]))
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-9), name


def test_memory_is_that_of_one_block():
    model, rows = make().float(), Rows.of_graph(ordered(grid(20, 20), "bfs"))
    whole = kept_bytes(model, lambda: model(batch_of([rows])).sum().backward())
    in_blocks = kept_bytes(model, lambda: backward_in_blocks(model, plan_blocks(rows, 40)))
    assert in_blocks < 0.3 * whole
