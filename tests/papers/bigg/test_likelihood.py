"""The likelihood: equal to the recursion, normalised, causal, with the decisions and nodes counted independently."""

import math
from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph, of_networkx
from reprise.kits.graphs.shapes import grid
from reprise.papers.bigg.cells import member
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.orders import ordered
from reprise.papers.bigg.plan import HAS_EDGE, Rows, plan_batch, plan_trees
from reprise.papers.bigg.recursive import Recursion


def make(members=1, d=8, cell="light", bits=0, history=True, seed=0):
    model = BiGG(members, d, cell, bits, history, torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for parameter in model.parameters():  # biases begin at zero: move them, or a lost bias would go unnoticed
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return model


def batch_of(graphs, bits=0):
    return plan_batch([plan_trees(g if isinstance(g, Rows) else Rows.of_graph(g), bits) for g in graphs], bits)


def named(kind, n=9):
    return {
        "one node": Graph.of(1, []),
        "two nodes": Graph.of(2, [(0, 1)]),
        "no edge": Graph.of(6, []),
        "isolated": Graph.of(9, [(0, 8), (3, 4)]),
        "complete": of_networkx(nx.complete_graph(n)),
        "path": of_networkx(nx.path_graph(n)),
        "grid": grid(4, 5),
        "star": of_networkx(nx.star_graph(12)),
        "random": of_networkx(nx.gnp_random_graph(17, 0.25, seed=3)),
        "bipartite": Rows.bipartite(5, 7, np.array([(0, 0), (0, 6), (2, 3), (4, 1), (4, 2), (4, 3)])),
    }[kind]


ALL = ["one node", "two nodes", "no edge", "isolated", "complete", "path", "grid", "star", "random", "bipartite"]


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("cell, bits", [("light", 0), ("mlp", 0), ("light", 1), ("light", 3), ("mlp", 8)])
def test_vectorised_equals_recursion_with_gradients(cell, bits, history):
    graphs = [named(kind) for kind in ALL]
    model = make(cell=cell, bits=bits, history=history)
    nll = model(batch_of(graphs, bits))[0]
    weight = torch.linspace(0.5, 1.5, len(graphs), dtype=torch.float64)
    ours = torch.autograd.grad((nll * weight).sum(), list(model.parameters()), allow_unused=True)
    slow = torch.stack([Recursion(model).observe(g if isinstance(g, Rows) else Rows.of_graph(g)) for g in graphs])
    theirs = torch.autograd.grad((slow * weight).sum(), list(model.parameters()), allow_unused=True)
    assert torch.allclose(nll, slow, rtol=0, atol=1e-9)
    for (name, _), a, b in zip(model.named_parameters(), ours, theirs):
        zero = torch.zeros(())
        assert torch.allclose(zero if a is None else a, zero.double() if b is None else b, rtol=0, atol=1e-9), name


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 13), st.floats(0, 1), st.integers(0, 10**6), st.sampled_from([0, 2, 5]))
def test_any_graph_alone_or_in_a_batch(n, density, seed, bits):
    graph = of_networkx(nx.gnp_random_graph(n, density, seed=seed))
    model = make(bits=bits)
    alone = model(batch_of([graph], bits))[0, 0]
    together = model(batch_of([named("grid"), graph, named("isolated")], bits))[0, 1]
    slow = Recursion(model).observe(Rows.of_graph(graph))
    assert alone.item() == pytest.approx(slow.item(), abs=1e-9)
    assert together.item() == pytest.approx(slow.item(), abs=1e-9)


def test_a_stack_is_its_members():
    stack = make(members=3)
    batch = batch_of([named("grid"), named("random")])
    nll = stack(batch)
    assert torch.allclose(nll, torch.cat([member(stack, s)(batch) for s in range(3)]), atol=1e-12)
    assert (nll[0] - nll[1]).abs().min() > 1e-3


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("n", [3, 4])
def test_likelihood_is_normalised_over_all_graphs(n, bits):
    pairs = [(i, j) for i in range(n) for j in range(i)]
    graphs = [Graph.of(n, [p for p, keep in zip(pairs, choice) if keep]) for choice in product([False, True], repeat=len(pairs))]
    for seed in range(3):
        assert make(bits=bits, seed=seed)(batch_of(graphs, bits)).neg().exp().sum().item() == pytest.approx(1, abs=1e-9)


def count_decisions(graph):
    """Decisions and realised nodes by level, from the edge list alone."""
    decisions, nodes = 0, {}
    for i in range(1, graph.n):
        columns = [v for u, v in graph.edges.tolist() if u == i]
        decisions += 1
        stack = [(0, i, 0)] if columns else []
        while stack:
            lo, hi, level = stack.pop()
            nodes[level] = nodes.get(level, 0) + 1
            if hi - lo == 1:
                continue
            mid = (lo + hi) // 2
            left, right = any(lo <= c < mid for c in columns), any(mid <= c < hi for c in columns)
            decisions += 2 if left else 1
            stack += [(lo, mid, level + 1)] * left + [(mid, hi, level + 1)] * right
    return decisions, nodes


@pytest.mark.parametrize("kind", [k for k in ALL if k != "bipartite"])
def test_zero_heads_cost_one_bit_per_decision(kind):
    graph = named(kind)
    model = make()
    for head in (model.has_edge, model.has_left, model.has_right):
        for parameter in head.out.parameters():
            torch.nn.init.zeros_(parameter)
    decisions, nodes = count_decisions(graph)
    assert model(batch_of([graph])).item() == pytest.approx(math.log(2) * decisions, abs=1e-9)
    trees = plan_trees(Rows.of_graph(graph))
    assert dict(enumerate(np.bincount(trees.level_N).tolist())) == nodes
    assert len(trees.row_N) <= graph.m * (math.ceil(math.log2(max(graph.n, 2))) + 1)


@pytest.mark.parametrize("kind", [k for k in ALL if k != "bipartite"])
def test_only_nodes_whose_state_is_read_take_a_step(kind):
    graph = named(kind)
    trees = plan_trees(Rows.of_graph(graph))
    width = trees.hi_N - trees.lo_N
    inner = int((width > 1).sum())
    last_column = int(((width == 2) & (trees.left_N == 0)).sum())  # nothing on the left, a single column on the right
    levels = batch_of([graph]).levels
    assert (sum(len(level.source) for level in levels), sum(len(level.going) for level in levels)) == (inner, inner - last_column)


def test_nodes_per_edge_on_grids_grow_with_the_logarithm():
    per_edge = []
    for side in (8, 16, 32, 64):
        rows = Rows.of_graph(ordered(grid(side, side), "bfs"))
        per_edge.append(len(plan_trees(rows).row_N) / len(rows.edges_E2))
    assert per_edge == pytest.approx([4.1, 5.1, 6.0, 6.9], abs=0.05)  # half a node more for each doubling of n


def inspect(model, graph):
    batch = batch_of([graph])
    table = model.subtrees(batch)
    pool = model.row_blocks(batch, table) if model.history else None
    state = model.row_states(batch, pool)
    rows = graph.n - batch.remaining_R.numpy()
    return batch, model.decisions(batch, table, state)[0].detach().numpy(), dict(zip(rows.tolist(), torch.cat(state, -1)[0].detach()))


def test_rows_depend_on_earlier_rows_only():
    model, graph = make(), named("random")
    changed = Graph.of(17, [e for e in graph.edges.tolist() if e[0] != 9] + [(9, 0), (9, 5)])
    (a, logits_a, states_a), (b, logits_b, states_b) = inspect(model, graph), inspect(model, changed)
    for i in range(17):
        assert torch.allclose(states_a[i], states_b[i], atol=1e-12) == (i <= 9)
    for kind in range(3):
        before_a, before_b = ((x.row_K < 9) & (x.kind_K == kind) for x in (a, b))
        assert np.allclose(logits_a[before_a], logits_b[before_b], atol=1e-12)
    assert not np.allclose(logits_a[(a.kind_K == HAS_EDGE) & (a.row_K > 9)], logits_b[(b.kind_K == HAS_EDGE) & (b.row_K > 9)], atol=1e-6)


def test_without_history_a_row_knows_no_other():
    model, graph = make(history=False), named("random")
    changed = Graph.of(17, [e for e in graph.edges.tolist() if e[0] != 9] + [(9, 0), (9, 5)])
    (a, logits_a, _), (b, logits_b, _) = inspect(model, graph), inspect(model, changed)
    assert np.allclose(logits_a[a.row_K != 9], logits_b[b.row_K != 9], atol=1e-12)
    more = Graph.of(18, graph.edges)  # one row more to come after each
    c, logits_c, _ = inspect(model, more)
    assert not np.allclose(logits_a[a.row_K == 9], logits_c[c.row_K == 9], atol=1e-6)


def test_decisions_depend_on_columns_to_the_left_only():
    model, one = make(), Graph.of(17, [(16, 1), (16, 6), (16, 9)])
    two = Graph.of(17, [(16, 1), (16, 6), (16, 9), (16, 13)])
    three = Graph.of(17, [(16, 2), (16, 6), (16, 9)])
    (a, logits_a, _), (b, logits_b, _), (c, logits_c, _) = (inspect(model, g) for g in (one, two, three))

    def answers(batch, logits):
        return {(k, lo, hi): z for k, lo, hi, row, z in zip(batch.kind_K, batch.lo_K, batch.hi_K, batch.row_K, logits) if row == 16}

    a, b, c = answers(a, logits_a), answers(b, logits_b), answers(c, logits_c)
    for key in a.keys() & b.keys():
        assert a[key] == pytest.approx(b[key], abs=1e-12), key  # all of them: what differs lies to the right, or is about it
    seen = [key for key in a.keys() & c.keys() if key[1] >= 8]
    assert seen and all(a[key] != pytest.approx(c[key], abs=1e-9) for key in seen)  # the right half sees the left one completely


def test_forest_lists_exactly_the_rows_before():
    n = 37
    batch = batch_of([Graph.of(5, []), Graph.of(n, []), Graph.of(1, [])])
    pool = [frozenset()] + [frozenset([(g, i)]) for g, size in enumerate((5, n, 1)) for i in range(size)]
    for join in batch.merges:
        pool += [pool[a] | pool[b] for a, b in zip(join.left.tolist(), join.right.tolist())]
    folds = [[pool[p] for p in index.tolist()] for index in batch.folds]
    rows = [(g, i) for g, size in enumerate((5, n, 1)) for i in range(size)]
    rows.sort(key=lambda row: -row[1].bit_count())
    for k, (g, i) in enumerate(rows):
        parts = [fold[k] for fold in folds if k < len(fold)]
        assert frozenset().union(*parts) == {(g, j) for j in range(i)}
        assert sum(map(bool, parts)) == i.bit_count()
        assert [len(p) for p in parts] == sorted(len(p) for p in parts)  # the most recent, smallest block first
    assert len(batch.folds) <= math.ceil(math.log2(n)) and len(batch.merges) <= math.log2(n)


def test_stages_grow_with_the_logarithm():
    stages = [batch_of([grid(s, s)]).stages for s in (4, 8, 16, 32, 64)]
    bound = [4 * math.ceil(math.log2(s * s)) + 2 for s in (4, 8, 16, 32, 64)]
    assert all(s <= b for s, b in zip(stages, bound))
    assert np.all(np.diff(stages) <= 10)


def test_equal_subtrees_are_computed_once():
    rows = Rows.of_graph(grid(16, 16))
    batch = plan_batch([plan_trees(rows)] * 3)
    assert sum(len(join.left) for join in batch.heights) == sum(len(join.left) for join in batch_of([rows]).heights)
    assert sum(len(join.left) for join in batch.heights) < 0.5 * len(plan_trees(rows).row_N)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="must not exceed"):
        make(d=4, bits=5)
    with pytest.raises(ReproError, match="twice"):
        Rows.bipartite(2, 2, np.array([(0, 1), (0, 1)]))
    with pytest.raises(ReproError, match="outside"):
        Rows.bipartite(2, 2, np.array([(0, 2)]))
