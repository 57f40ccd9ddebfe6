"""Graph statistics against brute force, networkx and values worked out by hand."""

from itertools import combinations, permutations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph, clean, of_networkx
from reprise.kits.graphs.mmd import all_vectors, compare, squared_mmd
from reprise.kits.graphs.orbits import orbit_counts, triangles
from reprise.kits.graphs.shapes import Known, grid, is_grid, is_isomorphic, is_lobster, is_tree
from reprise.kits.graphs.statistics import clustering, degree, orbit, spectrum
from reprise.kits.graphs.trees import KnownTrees, tree_name

# The connected graphs with two to four nodes and the orbit of each of their nodes, as Przulj (2007) numbers them.
GRAPHLETS = [
    (2, [(0, 1)], [0, 0]),
    (3, [(0, 1), (1, 2)], [1, 2, 1]),
    (3, [(0, 1), (1, 2), (0, 2)], [3, 3, 3]),
    (4, [(0, 1), (1, 2), (2, 3)], [4, 5, 5, 4]),
    (4, [(0, 1), (0, 2), (0, 3)], [7, 6, 6, 6]),
    (4, [(0, 1), (1, 2), (2, 3), (0, 3)], [8, 8, 8, 8]),
    (4, [(0, 1), (1, 2), (1, 3), (2, 3)], [9, 11, 10, 10]),
    (4, [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)], [12, 13, 13, 12]),
    (4, list(combinations(range(4), 2)), [14, 14, 14, 14]),
]


def brute_force_orbits(graph):
    counts = np.zeros((graph.n, 15), dtype=np.int64)
    edges = {frozenset(e) for e in graph.edges.tolist()}
    for size, pattern, orbits in GRAPHLETS:
        for nodes in combinations(range(graph.n), size):
            inside = {e for e in edges if e <= set(nodes)}
            for p in permutations(nodes):
                if {frozenset((p[a], p[b])) for a, b in pattern} == inside:
                    for position, node in enumerate(p):
                        counts[node, orbits[position]] += 1
                    break
    return counts


@st.composite
def graphs(draw, largest=9):
    n = draw(st.integers(1, largest))
    pairs = list(combinations(range(n), 2))
    kept = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    return Graph.of(n, np.array([p for p, keep in zip(pairs, kept) if keep]))


@given(graphs())
def test_orbits_equal_brute_force(graph):
    assert np.array_equal(orbit_counts(graph), brute_force_orbits(graph))


@pytest.mark.parametrize("name", ["petersen_graph", "cubical_graph", "house_x_graph", "bull_graph", "octahedral_graph"])
def test_orbits_of_named_graphs(name):
    graph = of_networkx(getattr(nx, name)())
    assert np.array_equal(orbit_counts(graph), brute_force_orbits(graph))


def test_orbits_of_twelve_nodes():
    graph = of_networkx(nx.gnp_random_graph(12, 0.4, seed=1))
    assert np.array_equal(orbit_counts(graph), brute_force_orbits(graph))


@given(graphs(largest=12))
def test_clustering_degree_and_spectrum_equal_networkx(graph):
    other = graph.networkx()
    expected = np.histogram(list(nx.clustering(other).values()), bins=100, range=(0, 1))[0] / graph.n
    assert np.allclose(clustering(graph), expected)
    assert np.allclose(degree(graph), np.array(nx.degree_histogram(other)) / graph.n)
    assert len(triangles(graph)) == sum(nx.triangles(other).values()) // 3
    eigenvalues = nx.normalized_laplacian_spectrum(other)
    assert spectrum(graph) @ np.linspace(0, 2, 200) == pytest.approx(eigenvalues.mean(), abs=0.02)
    assert spectrum(graph).sum() == pytest.approx(1)


def test_orbit_is_the_mean_over_nodes():
    assert np.allclose(orbit(grid(2, 2))[[0, 1, 2, 8]], [2, 2, 1, 1])


def test_mmd_of_two_points():
    # Two single vectors at total variation 1: 1 + 1 - 2 exp(-1/2).
    assert squared_mmd([np.array([1.0, 0.0])], [np.array([0.0, 1.0])], sigma=1.0) == pytest.approx(2 - 2 * np.exp(-0.5))
    # A shorter vector is padded: (1) against (1, 0) is no difference.
    assert squared_mmd([np.array([1.0])], [np.array([1.0, 0.0])], sigma=1.0) == 0
    # The diagonal counts: two points against one of them, TV = 1.
    expected = (2 + 2 * np.exp(-0.5)) / 4 + 1 - (1 + np.exp(-0.5))
    assert squared_mmd([np.eye(2)[0], np.eye(2)[1]], [np.eye(2)[0]], sigma=1.0) == pytest.approx(expected)


def test_mmd_is_zero_on_equal_sets_symmetric_and_positive_otherwise():
    xs = all_vectors([of_networkx(nx.gnp_random_graph(12, 0.3, seed=s)) for s in range(5)])
    ys = all_vectors([grid(3, k) for k in range(2, 6)])
    assert all(v < 1e-12 for v in compare(xs, xs).values())
    assert compare(xs, ys) == pytest.approx(compare(ys, xs))
    assert all(v > 1e-4 for v in compare(xs, ys).values())


def test_mmd_of_nothing_is_an_error():
    with pytest.raises(ReproError, match="empty set"):
        squared_mmd([], [np.ones(2)], 1.0)


def test_lobsters():
    assert all(is_lobster(of_networkx(nx.random_lobster(20, 0.7, 0.7, seed=s))) for s in range(20))
    spider = nx.Graph([(0, arm * 3 + 1) for arm in range(3)] + [(arm * 3 + k, arm * 3 + k + 1) for arm in range(3) for k in (1, 2)])
    assert not is_lobster(of_networkx(spider))  # three arms of three: a claw is left
    assert is_tree(of_networkx(spider))
    assert not is_lobster(of_networkx(nx.cycle_graph(5)))
    assert is_lobster(Graph.of(1, np.empty((0, 2))))


def test_grids():
    rng = np.random.default_rng(0)
    for a, b in [(2, 2), (3, 5), (6, 4)]:
        assert is_grid(grid(a, b).relabelled(rng.permutation(a * b)))
        assert is_isomorphic(grid(a, b), of_networkx(nx.grid_2d_graph(a, b)))
    crossed = grid(4, 4).edges.copy()
    crossed[[0, -1], 1] = crossed[[-1, 0], 1]
    assert not is_grid(clean(16, crossed))
    assert not is_grid(of_networkx(nx.cycle_graph(6)))
    assert not is_grid(Graph.of(1, np.empty((0, 2))))


def test_known_graphs_are_told_apart_up_to_isomorphism():
    known = Known([grid(3, 4)])
    assert grid(4, 3) in known and grid(2, 6) not in known
    assert known.add(of_networkx(nx.cycle_graph(6)))
    assert not known.add(of_networkx(nx.cycle_graph(6)))
    assert of_networkx(nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))) not in known  # the hash alone cannot tell these


def test_trees_are_told_apart_by_their_names():
    rng = np.random.default_rng(0)
    count = {1: 1, 2: 1, 3: 1, 4: 2, 5: 3, 6: 6, 7: 11, 8: 23}  # trees on n nodes
    for n, expected in count.items():
        trees = [of_networkx(tree) for tree in nx.nonisomorphic_trees(n)] if n > 1 else [Graph.of(1, [])]
        assert len({tree_name(tree) for tree in trees}) == len(trees) == expected
        assert all(tree_name(tree) == tree_name(tree.relabelled(rng.permutation(n))) for tree in trees)
    known = KnownTrees([grid(3, 4), *(of_networkx(nx.path_graph(n)) for n in (3, 5))])
    assert grid(4, 3) in known and of_networkx(nx.path_graph(4)) not in known
    assert known.add(of_networkx(nx.star_graph(3))) and not known.add(of_networkx(nx.star_graph(3)))
    assert not known.add(grid(4, 3)) and known.add(grid(2, 6))


@pytest.mark.parametrize(
    "n, edges, message",
    [(3, [(1, 1)], "self-loop at node 1"), (3, [(0, 1), (1, 0)], "twice"), (3, [(0, 3)], "outside 0..2"), (0, [], "no node")],
)
def test_bad_graphs_are_refused(n, edges, message):
    with pytest.raises(ReproError, match=message):
        Graph.of(n, np.array(edges, dtype=np.int64))


def test_clean_drops_loops_doubles_and_isolated_nodes():
    graph = clean(6, np.array([(1, 1), (1, 4), (4, 1), (5, 4)]))
    assert graph.n == 3 and graph.edges.tolist() == [[1, 0], [2, 1]]
    assert clean(3, np.array([(1, 1)])) is None
    assert Graph.of(4, np.empty((0, 2))).m == 0  # isolated nodes as such are no mistake
