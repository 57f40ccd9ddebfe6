"""Triangles and node orbits of graphlets with two to four nodes, counted on the edge list.

The 15 orbits (Przulj 2007): 0 edge · 1, 2 end and middle of a path of three · 3 triangle · 4, 5 end and middle of a path
of four · 6, 7 leaf and centre of a claw · 8 cycle of four · 9, 10, 11 pendant, plain and attached node of a paw (a
triangle with a tail) · 12, 13 the nodes of degree 2 and 3 of a diamond · 14 clique of four.

Subgraphs are counted first, induced or not, by products of degrees and of common neighbours; the induced ones follow
from the densest downwards, since every denser graphlet contains a known number of sparser ones.
"""

import numpy as np
import scipy.sparse as sp

from reprise.kits.graphs.graph import Graph


def triangles(graph: Graph) -> np.ndarray:
    """All triangles a < b < c. -> int64 [t, 3]."""
    low_E, high_E = graph.edges[:, 1], graph.edges[:, 0]
    pair_E, c_T = _join(high_E, *_upward(graph))  # every c above b, for every edge a < b
    a_T, b_T = low_E[pair_E], high_E[pair_E]
    closed = _adjacent(graph, a_T, c_T)
    return np.stack([a_T, b_T, c_T], axis=1)[closed]


def orbit_counts(graph: Graph) -> np.ndarray:
    """How often each node takes part in each of the 15 orbits, in induced subgraphs. -> int64 [n, 15]."""
    n, edges_E2 = graph.n, graph.edges
    adjacency = sp.csr_array((np.ones(2 * graph.m, dtype=np.int64), tuple(np.concatenate([edges_E2, edges_E2[:, ::-1]]).T)), shape=(n, n))
    tri_T3 = triangles(graph)
    d = graph.degrees()
    t = np.bincount(tri_T3.ravel(), minlength=n)
    sides_T3 = np.stack([_edge_index(graph, tri_T3[:, i], tri_T3[:, j]) for i, j in ((1, 2), (0, 2), (0, 1))], axis=1)  # side opposite each corner
    t_E = np.bincount(sides_T3.ravel(), minlength=graph.m)
    t_edge = sp.csr_array((np.concatenate([t_E, t_E]), tuple(np.concatenate([edges_E2, edges_E2[:, ::-1]]).T)), shape=(n, n))

    def choose2(x):
        return x * (x - 1) // 2

    # Copies of each graphlet with the node at each position, whether or not further edges lie between its nodes.
    around = adjacency @ (d - 1)  # paths of three that begin here
    path_end = adjacency @ around - d * (d - 1) - 2 * t
    path_middle = (d - 1) * around - 2 * t
    claw_leaf, claw_centre = adjacency @ choose2(d - 1), d * (d - 1) * (d - 2) // 6
    common = (adjacency @ adjacency).tocoo()
    off = common.row != common.col
    cycle = np.bincount(common.row[off], weights=choose2(common.data[off]), minlength=n).astype(np.int64)
    paw_tail, paw_plain, paw_joint = adjacency @ t - 2 * t, t_edge @ (d - 2), t * (d - 2)
    diamond_2 = np.bincount(tri_T3.ravel(), weights=(t_E[sides_T3] - 1).ravel(), minlength=n).astype(np.int64)
    diamond_3 = np.bincount(edges_E2.ravel(), weights=np.repeat(choose2(t_E), 2), minlength=n).astype(np.int64)

    o = np.zeros((n, 15), dtype=np.int64)
    o[:, 0], o[:, 3] = d, t
    o[:, 1], o[:, 2] = around - 2 * t, choose2(d) - t
    o[:, 14] = _cliques(graph, tri_T3)
    o[:, 13] = diamond_3 - 3 * o[:, 14]
    o[:, 12] = diamond_2 - 3 * o[:, 14]
    o[:, 11] = paw_joint - 2 * o[:, 13] - 3 * o[:, 14]
    o[:, 10] = paw_plain - 2 * o[:, 12] - 2 * o[:, 13] - 6 * o[:, 14]
    o[:, 9] = paw_tail - 2 * o[:, 12] - 3 * o[:, 14]
    o[:, 8] = cycle - o[:, 12] - o[:, 13] - 3 * o[:, 14]
    o[:, 7] = claw_centre - o[:, 11] - o[:, 13] - o[:, 14]
    o[:, 6] = claw_leaf - o[:, 9] - o[:, 10] - 2 * o[:, 12] - o[:, 13] - 3 * o[:, 14]
    o[:, 5] = path_middle - 2 * o[:, 8] - o[:, 10] - 2 * o[:, 11] - 2 * o[:, 12] - 4 * o[:, 13] - 6 * o[:, 14]
    o[:, 4] = path_end - 2 * o[:, 8] - 2 * o[:, 9] - o[:, 10] - 4 * o[:, 12] - 2 * o[:, 13] - 6 * o[:, 14]
    return o


def _cliques(graph: Graph, tri_T3: np.ndarray) -> np.ndarray:
    """Cliques of four at each node. [t, 3] -> [n]."""
    c_T = tri_T3[:, 2]
    which_P, d_P = _join(c_T, *_upward(graph))  # every d above c, for every triangle a < b < c
    a_P, b_P = tri_T3[which_P, 0], tri_T3[which_P, 1]
    whole = _adjacent(graph, a_P, d_P) & _adjacent(graph, b_P, d_P)
    nodes = np.concatenate([tri_T3[which_P[whole]].ravel(), d_P[whole]])
    return np.bincount(nodes, minlength=graph.n)


def _upward(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours above each node, as compressed rows. -> [n + 1], [m]."""
    by_low = graph.edges[np.argsort(graph.edges[:, 1], kind="stable")]
    return np.concatenate([[0], np.cumsum(np.bincount(by_low[:, 1], minlength=graph.n))]), by_low[:, 0]


def _join(node_K: np.ndarray, start: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (k, w) with w in the row of node_K[k]. -> [P], [P]."""
    count_K = start[node_K + 1] - start[node_K]
    k_P = np.repeat(np.arange(len(node_K)), count_K)
    within_P = np.arange(len(k_P)) - np.repeat(np.cumsum(count_K) - count_K, count_K)
    return k_P, target[start[node_K[k_P]] + within_P]


def _edge_index(graph: Graph, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the edge between u and v stands in the edge list, or would stand."""
    key = graph.edges[:, 0] * graph.n + graph.edges[:, 1]
    return np.searchsorted(key, np.maximum(u, v) * graph.n + np.minimum(u, v))


def _adjacent(graph: Graph, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    index = np.minimum(_edge_index(graph, u, v), max(graph.m - 1, 0))
    return (graph.edges[index, 0] == np.maximum(u, v)) & (graph.edges[index, 1] == np.minimum(u, v)) if graph.m else np.zeros(len(u), dtype=bool)
