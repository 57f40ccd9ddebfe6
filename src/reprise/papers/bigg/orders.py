"""Node orders: the model generates node by node, so the order is part of what it learns (section 3.2, appendix)."""

from collections import deque

import networkx as nx
import numpy as np

from reprise.errors import unknown
from reprise.kits.graphs.graph import Graph

ORDERS = ("bfs", "dfs", "degree", "default")


def ordered(graph: Graph, order: str, rng: np.random.Generator | None = None) -> Graph:
    """The graph with its nodes renamed in `order`.

    `bfs`, `dfs`: per component, largest first, from a node of largest degree, neighbours in ascending order; with `rng`
    from a random node, neighbours in random order. `degree`: by falling degree. `default`: as they come.

    Raises:
        ReproError: unknown order.
    """
    if order not in ORDERS:
        raise unknown("node order", order, ORDERS)
    if order == "default":
        return graph
    degree = graph.degrees()
    if order == "degree":
        return graph.relabelled(np.argsort(-degree, kind="stable"))
    start, target = graph.neighbours()
    around = [target[start[u] : start[u + 1]].tolist() for u in range(graph.n)]
    if rng is not None:
        around = [rng.permutation(nodes).tolist() for nodes in around]
    components = sorted((sorted(c) for c in nx.connected_components(graph.networkx())), key=lambda c: (-len(c), c[0]))
    walk, visited = [], [False] * graph.n
    for component in components:
        first = max(component, key=lambda u: degree[u]) if rng is None else component[rng.integers(len(component))]
        (_breadth_first if order == "bfs" else _depth_first)(first, around, visited, walk)
    return graph.relabelled(np.array(walk))


def _breadth_first(first: int, around: list[list[int]], visited: list[bool], walk: list[int]) -> None:
    queue = deque([first])
    visited[first] = True
    while queue:
        u = queue.popleft()
        walk.append(u)
        for v in around[u]:
            if not visited[v]:
                visited[v] = True
                queue.append(v)


def _depth_first(first: int, around: list[list[int]], visited: list[bool], walk: list[int]) -> None:
    stack = [first]
    while stack:
        u = stack.pop()
        if not visited[u]:
            visited[u] = True
            walk.append(u)
            stack.extend(reversed(around[u]))
