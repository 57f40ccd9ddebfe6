"""Trees up to isomorphism, in linear time: a general test can take exponential time on large trees with many equal branches."""

from collections.abc import Sequence

from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.shapes import Known, is_tree


def tree_name(tree: Graph) -> str:
    """A name that two trees share if and only if they are isomorphic (Aho, Hopcroft and Ullman 1974).

    Leaves are taken away, layer by layer, down to the centre of one node or two; a node is named by its children's names, sorted.
    """
    start, target = tree.neighbours()
    around = [set(target[start[u] : start[u + 1]].tolist()) for u in range(tree.n)]
    below: list[list[str]] = [[] for _ in range(tree.n)]

    def name(u: int) -> str:
        return "(" + "".join(sorted(below[u])) + ")"

    left, leaves = tree.n, [u for u in range(tree.n) if len(around[u]) <= 1]
    while left > 2:
        left -= len(leaves)
        above = []
        for u in leaves:
            v = around[u].pop()
            around[v].remove(u)
            below[v].append(name(u))
            if len(around[v]) == 1:
                above.append(v)
        leaves = above
    return "".join(sorted(map(name, leaves)))


class KnownTrees(Known):
    """`Known`, which tells trees apart by their names."""

    def __init__(self, graphs: Sequence[Graph] = ()):
        self.names: set[str] = set()
        super().__init__(graphs)

    def __contains__(self, graph: Graph) -> bool:
        return tree_name(graph) in self.names if is_tree(graph) else super().__contains__(graph)

    def add(self, graph: Graph) -> bool:
        """Take a graph in; False if it was known."""
        if not is_tree(graph):
            return super().add(graph)
        known = graph in self
        self.names.add(tree_name(graph))
        return not known
