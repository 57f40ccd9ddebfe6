"""The sampler: the distribution that the likelihood describes, its own likelihood, and equality with the sequential walk."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.papers.bigg.draws import uniforms
from reprise.papers.bigg.plan import Rows, plan_batch, plan_trees
from reprise.papers.bigg.recursive import Recursion
from reprise.papers.bigg.sample import sample

from .test_likelihood import batch_of, make


def widths(sizes):
    return [np.arange(n) for n in sizes]


def draw(graphs, seed=0):
    return uniforms(torch.Generator().manual_seed(seed), graphs)


def test_three_node_graphs_come_as_often_as_their_likelihood_says():
    model, count = make(seed=4), 20_000
    samples = sample(model, widths([3] * count), draw(count))
    pairs = [(1, 0), (2, 0), (2, 1)]
    graphs = [Graph.of(3, [p for p, keep in zip(pairs, choice) if keep]) for choice in product([0, 1], repeat=3)]
    expected = model(batch_of(graphs)).neg().exp()[0].detach().numpy() * count
    names = [tuple(map(tuple, g.edges.tolist())) for g in graphs]
    seen = [tuple(map(tuple, r.edges_E2.tolist())) for r in samples.rows]
    observed = np.array([seen.count(name) for name in names])
    assert observed.sum() == count
    assert ((observed - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 7)


@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("cell, bits", [("light", 0), ("mlp", 0), ("light", 1), ("light", 4), ("mlp", 8)])
def test_reported_likelihood_is_that_of_the_sample_and_batched_equals_sequential(cell, bits, history):
    model = make(cell=cell, bits=bits, history=history, seed=2)
    width = widths([1, 2, 5, 12, 21]) + [np.full(6, 11)]
    samples = sample(model, width, draw(len(width)))
    batch = plan_batch([plan_trees(rows, bits) for rows in samples.rows], bits)
    assert np.allclose(model(batch)[0].detach().numpy(), samples.nll_G, atol=1e-9)
    assert sum(len(r.edges_E2) for r in samples.rows) > 20  # or nothing was tested
    stream = draw(len(width))
    for g, w in enumerate(width):
        walk = Recursion(model)
        edges = walk.sample(len(w), w, stream[g].__next__)
        assert edges == list(map(tuple, samples.rows[g].edges_E2.tolist()))
        assert walk.nll.item() == pytest.approx(samples.nll_G[g], abs=1e-9)


@pytest.mark.parametrize("cell, bits", [("light", 0), ("mlp", 8)])
def test_arrays_and_tensors_draw_the_same_graphs(cell, bits, monkeypatch):
    model = make(cell=cell, bits=bits, seed=3)
    width = widths([4, 17, 30])
    arrays = sample(model, width, draw(3))
    monkeypatch.setattr("reprise.papers.bigg.sample._array", torch.Tensor.detach)  # as on a GPU
    tensors = sample(model, width, draw(3))
    assert all(np.array_equal(a.edges_E2, t.edges_E2) for a, t in zip(arrays.rows, tensors.rows))
    assert np.allclose(arrays.nll_G, tensors.nll_G, atol=1e-9)


def test_a_graph_does_not_depend_on_its_neighbours():
    model = make(seed=5)
    together = sample(model, widths([9] * 6), draw(6))
    alone = sample(model, widths([9]), [draw(6)[3]])
    assert np.array_equal(alone.rows[0].edges_E2, together.rows[3].edges_E2)


def test_fully_greedy_sampling_is_deterministic():
    model = make(seed=6)
    a, b = (sample(model, widths([15]), draw(1, seed), greedy=1.0).rows[0].edges_E2 for seed in (1, 2))
    assert np.array_equal(a, b)
    half, other = (sample(model, widths([15]), draw(1, seed), greedy=0.5).rows[0].edges_E2 for seed in (1, 2))
    assert not np.array_equal(half, other)


@pytest.mark.parametrize("seed", range(5))
def test_degree_bounds_are_respected(seed):
    rng = np.random.default_rng(seed)
    width = [np.full(8, 13)] * 10
    low = rng.integers(0, 14, (10, 8))
    degree = np.stack([low, np.minimum(low + rng.integers(0, 3, (10, 8)), 13)], axis=-1)
    model = make(seed=seed)
    samples = sample(model, width, draw(10, seed), degree=list(degree))
    for rows, bound in zip(samples.rows, degree):
        count = np.bincount(rows.edges_E2[:, 0], minlength=8)
        assert (bound[:, 0] <= count).all() and (count <= bound[:, 1]).all()
    batch = plan_batch([plan_trees(rows) for rows in samples.rows])
    assert np.allclose(model(batch)[0].detach().numpy(), samples.nll_G, atol=1e-9)


def test_impossible_degree_bounds_are_refused():
    with pytest.raises(ReproError, match="row 1 of graph 0 must have 5 edges, but may have 4 at most"):
        sample(make(), [np.full(2, 4)], draw(1), degree=[np.array([[0, 9], [5, 9]])])


def test_cost_follows_the_edges_not_the_pairs():
    sparse = make(seed=7)
    with torch.no_grad():  # rows with an edge are rare, and two edges in a row are rarer
        for head, bias in ((sparse.has_edge, -1.0), (sparse.has_left, 0.0), (sparse.has_right, -3.0)):
            head.out.weight.zero_()
            head.out.bias.fill_(bias)
    n = 400
    samples = sample(sparse, widths([n]), draw(1))
    m = len(samples.rows[0].edges_E2)
    assert 0 < m < n and samples.batches < 2 * (n + m) * np.log2(n) < n * n / 8


def test_rows_of_a_sample_are_a_graph():
    rows = sample(make(seed=8), widths([30]), draw(1)).rows[0]
    assert Rows.of_graph(Graph.of(rows.n, rows.edges_E2)).edges_E2.tolist() == rows.edges_E2.tolist()
