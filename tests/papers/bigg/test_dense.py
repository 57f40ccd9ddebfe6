"""The dense baseline: normalised, its sampler in step with its likelihood, quadratic in the number of nodes."""

from itertools import product

import numpy as np
import pytest
import torch

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.shapes import grid
from reprise.papers.bigg.cells import member
from reprise.papers.bigg.dense import GraphRNN, plan_dense, sample_dense, window_of
from reprise.papers.bigg.orders import ordered

from .test_sampling import draw


def make(members=1, window=3):
    model = GraphRNN(members, 8, 6, window, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for k, parameter in enumerate(model.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k))
    return model


def test_likelihood_is_normalised_over_all_graphs():
    pairs = [(i, j) for i in range(4) for j in range(i)]
    graphs = [Graph.of(4, [p for p, keep in zip(pairs, choice) if keep]) for choice in product([0, 1], repeat=len(pairs))]
    total = make()(plan_dense(graphs, 3)).double().neg().exp().sum().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_reported_likelihood_is_that_of_the_sample():
    model, sizes = make(members=2, window=5), [1, 4, 9, 12]
    samples = sample_dense(member(model, 1), sizes, draw(4))
    graphs = [Graph.of(r.n, r.edges_E2) for r in samples.rows]
    assert sum(g.m for g in graphs) > 5
    assert np.allclose(model(plan_dense(graphs, 5))[1].detach().numpy(), samples.nll_G, atol=1e-4)


def test_decisions_are_all_pairs_in_the_window():
    graphs = [grid(3, 3), Graph.of(1, []), Graph.of(6, [(5, 0)])]
    assert window_of(graphs) == 5
    assert sum(plan_dense(graphs, 8).active) == 9 * 8 // 2 + 6 * 5 // 2
    assert window_of([ordered(grid(6, 6), "bfs")]) < 13


def test_an_edge_beyond_the_window_is_refused():
    with pytest.raises(ReproError, match="reaches back over 5 nodes"):
        plan_dense([Graph.of(6, [(5, 0)])], 4)
