"""Which known shape a graph has, and which graphs are the same."""

from collections.abc import Sequence

import networkx as nx
import numpy as np

from reprise.kits.graphs.graph import Graph

ROUNDS = 8  # refinements of the Weisfeiler-Lehman hash: neighbourhoods up to this distance are compared before the exact test


def is_tree(graph: Graph) -> bool:
    """Connected and without a cycle."""
    return graph.m == graph.n - 1 and is_connected(graph)


def is_connected(graph: Graph) -> bool:
    """One component."""
    return nx.is_connected(graph.networkx())


def is_lobster(graph: Graph) -> bool:
    """A tree that becomes a path, or nothing, once all its leaves were removed twice."""
    if not is_tree(graph):
        return False
    tree = graph.networkx()
    for _ in range(2):
        tree.remove_nodes_from([node for node, degree in tree.degree() if degree <= 1])
    return all(degree <= 2 for _, degree in tree.degree())  # a tree stays connected when it loses leaves


def grid(a: int, b: int) -> Graph:
    """The a x b grid, nodes numbered row by row."""
    number = np.arange(a * b).reshape(a, b)
    right = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], axis=1)
    down = np.stack([number[:-1].ravel(), number[1:].ravel()], axis=1)
    return Graph.of(a * b, np.concatenate([right, down]))


def is_grid(graph: Graph) -> bool:
    """Isomorphic to an a x b grid with a, b >= 2; n = a b and m = 2 a b - a - b fix the sides."""
    total = 2 * graph.n - graph.m  # a + b
    root = total * total - 4 * graph.n  # (a - b)^2
    if root < 0:
        return False
    difference = int(np.rint(np.sqrt(root)))
    a, b = (total - difference) // 2, (total + difference) // 2
    return a >= 2 and a * b == graph.n and a + b == total and is_isomorphic(graph, grid(a, b))


def wl_hash(graph: Graph) -> str:
    """A hash that isomorphic graphs share."""
    named = graph.networkx()
    nx.set_node_attributes(named, {node: str(degree) for node, degree in named.degree()}, "degree")
    return nx.weisfeiler_lehman_graph_hash(named, node_attr="degree", iterations=ROUNDS)


def is_isomorphic(g: Graph, h: Graph) -> bool:
    """The same graph up to the names of its nodes: degrees, then the hash, then an exact test."""
    if (g.n, g.m) != (h.n, h.m) or not np.array_equal(np.sort(g.degrees()), np.sort(h.degrees())):
        return False
    return wl_hash(g) == wl_hash(h) and nx.vf2pp_is_isomorphic(g.networkx(), h.networkx())


class Known:
    """A set of graphs up to isomorphism."""

    def __init__(self, graphs: Sequence[Graph] = ()):
        self.classes: dict[str, list[nx.Graph]] = {}
        for graph in graphs:
            self.add(graph)

    def __contains__(self, graph: Graph) -> bool:
        return any(nx.vf2pp_is_isomorphic(graph.networkx(), known) for known in self.classes.get(wl_hash(graph), []))

    def add(self, graph: Graph) -> bool:
        """Take a graph in; False if it was known."""
        if graph in self:
            return False
        self.classes.setdefault(wl_hash(graph), []).append(graph.networkx())
        return True
