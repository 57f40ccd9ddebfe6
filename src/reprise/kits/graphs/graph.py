"""An undirected simple graph as an edge list: n nodes and the edges (u, v), u > v, sorted by u, then v."""

from dataclasses import dataclass

import networkx as nx
import numpy as np

from reprise.errors import ReproError


@dataclass(frozen=True, eq=False)
class Graph:
    """`n` nodes 0..n-1 and `edges`, int64 [m, 2], each with edges[:, 0] > edges[:, 1], in lexicographic order, none twice."""

    n: int
    edges: np.ndarray

    @classmethod
    def of(cls, n: int, edges: np.ndarray, name: str = "graph") -> "Graph":
        """Check and normalise an edge list in which every edge stands once, in either direction. [m, 2] -> Graph.

        Raises:
            ReproError: no node, a node out of range, a self-loop, or an edge given twice.
        """
        edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
        if n < 1:
            raise ReproError(f"{name} has no node: drop it")
        if edges.size and not 0 <= edges.min() <= edges.max() < n:
            bad = edges[((edges < 0) | (edges >= n)).any(1)][0]
            raise ReproError(f"{name}: edge ({bad[0]}, {bad[1]}) names a node outside 0..{n - 1}")
        if (loops := edges[:, 0] == edges[:, 1]).any():
            raise ReproError(f"{name} has a self-loop at node {edges[loops][0, 0]}, and the model is for simple graphs: clean it with reprise.kits.graphs.graph.clean")
        edges = np.sort(edges, axis=1)[:, ::-1]
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        if (twice := (edges[1:] == edges[:-1]).all(1)).any():
            u, v = edges[1:][twice][0]
            raise ReproError(f"{name} has the edge ({u}, {v}) twice, and the model is for simple graphs: clean it with reprise.kits.graphs.graph.clean")
        return cls(int(n), np.ascontiguousarray(edges))

    @property
    def m(self) -> int:
        """Number of edges."""
        return len(self.edges)

    def degrees(self) -> np.ndarray:
        """Degree of every node, int64 [n]."""
        return np.bincount(self.edges.ravel(), minlength=self.n)

    def neighbours(self) -> tuple[np.ndarray, np.ndarray]:
        """Both directions as compressed rows: node u's neighbours, ascending, are target[start[u]:start[u + 1]]. [n + 1], [2m]."""
        both = np.concatenate([self.edges, self.edges[:, ::-1]])
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
        return np.concatenate([[0], np.cumsum(np.bincount(both[:, 0], minlength=self.n))]), both[:, 1]

    def relabelled(self, order: np.ndarray) -> "Graph":
        """The same graph with node order[k] called k. [n] -> Graph."""
        position = np.empty(self.n, dtype=np.int64)
        position[order] = np.arange(self.n)
        return Graph.of(self.n, position[self.edges])

    def without_isolated(self) -> "Graph | None":
        """The graph that its edges alone describe; None if it has no edge."""
        return clean(self.n, self.edges)

    def networkx(self) -> nx.Graph:
        """The networkx graph with nodes 0..n-1."""
        graph = nx.empty_graph(self.n)
        graph.add_edges_from(self.edges.tolist())
        return graph


def of_networkx(graph: nx.Graph) -> Graph:
    """A networkx graph with its nodes numbered in the order of iteration."""
    number = {node: k for k, node in enumerate(graph)}
    return Graph.of(len(graph), np.array([(number[u], number[v]) for u, v in graph.edges()], dtype=np.int64))


def clean(n: int, edges: np.ndarray) -> Graph | None:
    """Drop self-loops, repeated edges and isolated nodes, keep the order of the others; None if nothing is left. [m, 2] -> Graph."""
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    nodes, numbered = np.unique(edges, return_inverse=True)
    return Graph.of(len(nodes), numbered.reshape(-1, 2)) if len(nodes) else None
