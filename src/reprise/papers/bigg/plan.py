"""Where everything stands: the row trees of a graph and the index lists by which a batch of graphs is computed at once.

Section 3 of the paper, and 3.2 for the forest of rows. Nothing here is a number to learn; NumPy only, all integers.

Suffixes: E edges, N realised tree nodes, I inner nodes (more than one column), J those that go on, U distinct subtrees, R rows, P pool of
row blocks, K decisions, G graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import torch

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph

EMPTY, LEAF = 0, 1  # the first two entries of the table of subtrees
HAS_EDGE, HAS_LEFT, HAS_RIGHT = 0, 1, 2  # the kinds of decision


@dataclass(frozen=True, eq=False)
class Rows:
    """What the model generates: `n` rows; row i may have edges to the columns [0, width_R[i]). Edges (row, column), sorted."""

    n: int
    width_R: np.ndarray
    edges_E2: np.ndarray

    @classmethod
    def of_graph(cls, graph: Graph) -> "Rows":
        """Row i lists the earlier neighbours of node i: columns [0, i)."""
        return cls(graph.n, np.arange(graph.n), graph.edges)

    @classmethod
    def bipartite(cls, rows: int, columns: int, edges_E2: np.ndarray) -> "Rows":
        """Every row may have edges to the same columns, as literals to clauses (section 4.4, SAT).

        Raises:
            ReproError: an edge lies outside, or stands twice.
        """
        edges_E2 = np.asarray(edges_E2, dtype=np.int64).reshape(-1, 2)
        edges_E2 = edges_E2[np.lexsort((edges_E2[:, 1], edges_E2[:, 0]))]
        if edges_E2.size and not ((edges_E2 >= 0) & (edges_E2 < (rows, columns))).all():
            raise ReproError(f"an edge names a row outside 0..{rows - 1} or a column outside 0..{columns - 1}")
        if (edges_E2[1:] == edges_E2[:-1]).all(1).any():
            raise ReproError("a bipartite edge stands twice: keep one of the two")
        return cls(rows, np.full(rows, columns), edges_E2)


@dataclass(frozen=True, eq=False)
class Trees:
    """The realised nodes of the trees of rows [first, last), level by level from the roots; made once per graph and order.

    A node is realised if its interval [lo, hi) holds an edge of its row. `left_N`, `right_N`: the child's number plus one, 0 if
    the child is not realised. `height_N`: 0 for what is not embedded by lr2p (single columns, intervals up to B columns).
    `bits_N`: for intervals up to B columns their width and packed edge bits, as bytes; no bytes at all if B = 0.
    """

    n: int
    first: int
    last: int
    width_R: np.ndarray
    root_R: np.ndarray  # the root's number plus one, 0 for a row without an edge
    level_N: np.ndarray
    row_N: np.ndarray
    lo_N: np.ndarray
    hi_N: np.ndarray
    left_N: np.ndarray
    right_N: np.ndarray
    height_N: np.ndarray
    bits_N: np.ndarray


def plan_trees(rows: Rows, bits: int = 0, first: int = 0, last: int | None = None) -> Trees:
    """Build the trees of rows [first, last) (all by default) in O(m log n); `bits` is B, section 3.3.

    Level by level, every edge knows the node that it lies in. The children of a level are the distinct pairs
    (node, side of the middle) over its edges; edges are sorted, so these come out sorted.
    """
    last = rows.n if last is None else last
    begin, end = np.searchsorted(rows.edges_E2[:, 0], [first, last])
    row_E, col_E = rows.edges_E2[begin:end].T
    fresh = np.diff(row_E, prepend=-1) != 0
    at_E = np.cumsum(fresh) - 1  # the node of each edge, numbered within the level
    row, lo, hi = row_E[fresh], np.zeros(fresh.sum(), dtype=np.int64), rows.width_R[row_E[fresh]]
    root_R = np.zeros(last - first, dtype=np.int64)
    root_R[row - first] = np.arange(1, len(row) + 1)
    done, levels, patterns = 0, [], []
    while len(row):
        inner = hi - lo > 1
        left, right = np.zeros(len(row), dtype=np.int64), np.zeros(len(row), dtype=np.int64)
        levels.append((row, lo, hi, left, right))
        patterns.append(_patterns(lo, hi, at_E, col_E, bits))
        kept = inner[at_E]
        at_E, col_E = at_E[kept], col_E[kept]
        mid = (lo + hi) // 2
        key_E = 2 * at_E + (col_E >= mid[at_E])
        fresh = np.diff(key_E, prepend=-1) != 0
        parent, side = np.divmod(key_E[fresh], 2)
        done += len(row)
        number = done + 1 + np.arange(len(parent))
        left[parent[side == 0]], right[parent[side == 1]] = number[side == 0], number[side == 1]
        at_E = np.cumsum(fresh) - 1
        row, lo, hi = row[parent], np.where(side, mid[parent], lo[parent]), np.where(side, hi[parent], mid[parent])
    stacked = [np.concatenate(part) if levels else np.zeros(0, dtype=np.int64) for part in zip(*levels)] or [np.zeros(0, dtype=np.int64)] * 5
    level_N = np.repeat(np.arange(len(levels)), [len(level[0]) for level in levels])
    row_N, lo_N, hi_N, left_N, right_N = stacked
    height_1 = np.zeros(len(row_N) + 1, dtype=np.int64)  # entry 0: an absent child
    for depth in range(len(levels) - 1, -1, -1):
        at = np.flatnonzero(level_N == depth)
        at = at[hi_N[at] - lo_N[at] > max(bits, 1)]
        height_1[at + 1] = 1 + np.maximum(height_1[left_N[at]], height_1[right_N[at]])
    bits_N = np.concatenate(patterns) if patterns else np.zeros((0, _pattern_bytes(bits)), dtype=np.uint8)
    return Trees(rows.n, first, last, rows.width_R[first:last], root_R, level_N, row_N, lo_N, hi_N, left_N, right_N, height_1[1:], bits_N)


def _pattern_bytes(bits: int) -> int:
    return 2 + -(-bits // 8) if bits else 0


def _patterns(lo: np.ndarray, hi: np.ndarray, at_E: np.ndarray, col_E: np.ndarray, bits: int) -> np.ndarray:
    """Width (two bytes) and edge bits of the intervals up to B columns, bit 0 the last column; zeros for wider ones. -> [N, bytes]."""
    packed = np.zeros((len(lo), _pattern_bytes(bits)), dtype=np.uint8)
    if bits:
        narrow = hi - lo <= bits
        packed[:, :2] = np.where(narrow, hi - lo, 0).astype(">u2")[:, None].view(np.uint8)
        kept = narrow[at_E]
        edge = np.zeros((len(lo), bits), dtype=bool)
        edge[at_E[kept], hi[at_E[kept]] - 1 - col_E[kept]] = True
        packed[:, 2:] = np.packbits(edge, axis=1)
    return packed


@dataclass(frozen=True, eq=False)
class Join:
    """Subtrees or blocks to be made in one go: the positions of their two parts in what was made before."""

    left: torch.Tensor
    right: torch.Tensor


@dataclass(frozen=True, eq=False)
class Level:
    """The inner nodes of one depth of all row trees, in the order of rows.

    J of them go on: all but those that hold nothing but a single column on the right, whose states nobody reads.
    """

    source: torch.Tensor  # [I] where the node's state lies in (s1, s3) of the level above; at depth 0, which row's state it is
    going: torch.Tensor  # [J] the same for those that go on
    has_left: torch.Tensor  # [J] 0 or 1
    left_tree: torch.Tensor  # [J] left subtree in the table, EMPTY if absent
    chooses: torch.Tensor  # those of the J whose right decision is free: with a left child
    descends: torch.Tensor  # those of the J whose right child is an inner node


@dataclass(frozen=True, eq=False)
class Batch:
    """Index lists of a batch of row ranges, all tensors on one device; see `model.BiGG` for their use."""

    graphs: int
    nodes: int  # rows in the batch
    bits_U: torch.Tensor  # [u, B] entries of the table that are given as +1 / -1 / 0, if B > 0
    heights: list[Join]  # lr2p, one entry for each height
    tree_R: torch.Tensor  # [R] each row's tree in the table
    incoming: int  # finished blocks of rows that come from outside
    merges: list[Join]  # one entry for each block size
    folds: list[torch.Tensor]  # t -> pool positions of the t-th block of the first so many rows; rows sorted by number of blocks
    remaining_R: torch.Tensor  # [R] n - i, in that sorted order
    outgoing: torch.Tensor  # pool positions of the blocks that are live after the last row
    asked: torch.Tensor  # sorted rows with at least one column: they decide has_edge
    levels: list[Level]
    sign_K: torch.Tensor  # [K] +1 where the answer was yes, -1 where it was no
    graph_K: torch.Tensor  # [K]
    row_K: np.ndarray  # [K] for inspection
    kind_K: np.ndarray  # [K] HAS_EDGE, HAS_LEFT or HAS_RIGHT
    lo_K: np.ndarray  # [K] interval [lo, hi) that the decision is about
    hi_K: np.ndarray

    @property
    def stages(self) -> int:
        """Steps that must follow one another: heights, block sizes, folds and levels. O(log n)."""
        return len(self.heights) + len(self.merges) + len(self.folds) + len(self.levels)


def moved(value, device: str):
    """A batch, or any part of one, with its tensors on another device."""
    if torch.is_tensor(value):
        return value.to(device, non_blocking=True)
    if isinstance(value, list):
        return [moved(item, device) for item in value]
    if is_dataclass(value):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


def plan_batch(trees: Sequence[Trees], bits: int = 0) -> Batch:
    """Lay the trees of several graphs (or row ranges) side by side."""
    sizes = np.array([len(t.row_N) for t in trees])
    before = np.cumsum(sizes) - sizes
    graph_N = np.repeat(np.arange(len(trees)), sizes)
    level_N, row_N, lo_N, hi_N, height_N = (np.concatenate([getattr(t, name) for t in trees]) for name in ("level_N", "row_N", "lo_N", "hi_N", "height_N"))
    order = np.argsort(level_N, kind="stable")  # level by level, graph by graph within a level
    renamed = np.zeros(len(order) + 1, dtype=np.int64)
    renamed[order + 1] = np.arange(1, len(order) + 1)

    def pointers(name: str) -> np.ndarray:
        """Numbers of nodes, plus one, in the new order; 0 stays: no node."""
        return renamed[np.concatenate([np.where(p, p + b, 0) for p, b in zip((getattr(t, name) for t in trees), before)])]

    left_N, right_N, root_R = pointers("left_N")[order], pointers("right_N")[order], pointers("root_R")
    graph_N, level_N, row_N, lo_N, hi_N, height_N = (a[order] for a in (graph_N, level_N, row_N, lo_N, hi_N, height_N))

    tree_1, bits_U, heights = _distinct(left_N, right_N, height_N, np.concatenate([t.bits_N for t in trees])[order], bits)
    pool = _forest(trees)
    rows = _concatenated_rows(trees)

    # Decisions: has_edge for every row with a column, then by level has_left, then has_right where it is free.
    asked = np.flatnonzero(rows["width"][pool["order"]] > 0)
    at = pool["order"][asked]
    decisions = [(root_R[at] > 0, rows["graph"][at], rows["row"][at], HAS_EDGE, np.zeros(len(at), dtype=np.int64), rows["width"][at])]
    place_R = np.empty(len(root_R), dtype=np.int64)
    place_R[pool["order"]] = np.arange(len(root_R))
    source_1 = np.zeros(len(order) + 1, dtype=np.int64)  # where the state of a realised node will lie
    source_1[root_R] = place_R
    inner_N = hi_N - lo_N > 1
    levels = []
    bounds = np.searchsorted(level_N, np.arange(level_N.max(initial=-1) + 2))
    for begin, end in zip(bounds[:-1], bounds[1:]):
        node = begin + np.flatnonzero(inner_N[begin:end])
        if not len(node):
            break
        decisions.append((left_N[node] > 0, graph_N[node], row_N[node], HAS_LEFT, lo_N[node], (lo_N[node] + hi_N[node]) // 2))
        source = source_1[node + 1]
        left, right = left_N[node], right_N[node]
        descends = (right > 0) & inner_N[right - 1]
        going = np.flatnonzero((left > 0) | descends)
        node, left, right, descends = node[going], left[going], right[going], np.flatnonzero(descends[going])
        source_1[left] = np.arange(len(node))
        source_1[right[descends]] = len(node) + np.arange(len(descends))
        chooses = np.flatnonzero(left > 0)
        levels.append(Level(*map(_tensor, (source, source[going], (left > 0).astype(np.int64), tree_1[left], chooses, descends))))
        free = node[chooses]
        decisions.append((right[chooses] > 0, graph_N[free], row_N[free], HAS_RIGHT, (lo_N[free] + hi_N[free]) // 2, hi_N[free]))
    yes, graph_K, row_K, kind_K, lo_K, hi_K = ([d[i] for d in decisions] for i in range(6))
    kind_K = np.repeat(kind_K, [len(y) for y in yes])
    return Batch(
        graphs=len(trees),
        nodes=len(root_R),
        bits_U=bits_U,
        heights=heights,
        tree_R=_tensor(tree_1[root_R]),
        incoming=pool["incoming"],
        merges=pool["merges"],
        folds=pool["folds"],
        remaining_R=_tensor((rows["n"] - rows["row"])[pool["order"]]),
        outgoing=pool["outgoing"],
        asked=_tensor(asked),
        levels=levels,
        sign_K=torch.from_numpy(np.concatenate(yes).astype(np.float32) * 2 - 1),
        graph_K=_tensor(np.concatenate(graph_K)),
        row_K=np.concatenate(row_K),
        kind_K=kind_K,
        lo_K=np.concatenate(lo_K),
        hi_K=np.concatenate(hi_K),
    )


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def _concatenated_rows(trees: Sequence[Trees]) -> dict[str, np.ndarray]:
    count = [t.last - t.first for t in trees]
    return {
        "graph": np.repeat(np.arange(len(trees)), count),
        "n": np.repeat([t.n for t in trees], count),
        "row": np.concatenate([np.arange(t.first, t.last) for t in trees]),
        "width": np.concatenate([t.width_R for t in trees]),
    }


def _distinct(left_N: np.ndarray, right_N: np.ndarray, height_N: np.ndarray, patterns_N: np.ndarray, bits: int) -> tuple[np.ndarray, torch.Tensor, list[Join]]:
    """Give equal subtrees one entry of the table. g(t) depends on the shape below t alone, so the distinct ones are computed once.

    Height by height, an inner node is named by the pair of its children's entries. -> entry of each node (shifted by
    one, absent first) [N + 1], the entries given as bits [u, B], and the lr2p joins by height.
    """
    tree_1 = np.zeros(len(left_N) + 1, dtype=np.int64)
    order = np.argsort(height_N, kind="stable")
    bounds = np.searchsorted(height_N[order], np.arange(height_N.max(initial=-1) + 2))
    given = order[: bounds[1]] if len(bounds) > 1 else order[:0]
    bits_U = np.zeros((0, bits), dtype=np.float32)
    if bits:
        kinds, which = np.unique(patterns_N[given].view(f"V{patterns_N.shape[1]}").ravel(), return_inverse=True)
        tree_1[given + 1] = LEAF + 1 + which  # the leaf has its own entry among them too: width 1, bit 1
        raw = kinds.view(np.uint8).reshape(len(kinds), patterns_N.shape[1])
        width = raw[:, :2].astype(np.int64) @ [256, 1]
        edge = np.unpackbits(raw[:, 2:], axis=1, count=bits).astype(np.float32)
        bits_U = np.where(np.arange(bits) < width[:, None], 2 * edge - 1, 0).astype(np.float32)
    else:
        tree_1[given + 1] = LEAF
    made = LEAF + 1 + len(bits_U)
    base = made + len(left_N)  # above every entry
    heights = []
    for begin, end in zip(bounds[1:-1], bounds[2:]):
        node = order[begin:end]
        pair, which = np.unique(tree_1[left_N[node]] * base + tree_1[right_N[node]], return_inverse=True)
        tree_1[node + 1] = made + which
        made += len(pair)
        heights.append(pair)
    return tree_1, torch.from_numpy(bits_U), [Join(*map(_tensor, np.divmod(pair, base))) for pair in heights]


def _forest(trees: Sequence[Trees]) -> dict:
    """The forest of row blocks (section 3.2): block j of size 2^k covers rows [j 2^k, (j + 1) 2^k).

    The pool holds the initial state, the blocks that come from outside (one for each set bit of `first`), the rows, and then
    the larger blocks, size by size. Row i >= 1 reads one block for each set bit of i, smallest first.
    """
    first_G, last_G = (np.array([getattr(t, name) for t in trees]) for name in ("first", "last"))
    top = int(last_G.max()).bit_length()
    live_G = np.array([int(f).bit_count() for f in first_G])
    incoming_G = 1 + np.cumsum(live_G) - live_G
    incoming = int(live_G.sum())
    offset_KG = np.zeros((top + 1, len(trees)), dtype=np.int64)
    made, merges = 1 + incoming, []

    def position(k: np.ndarray, j: np.ndarray, g: np.ndarray) -> np.ndarray:
        """Where block j of size 2^k of graph g lies in the pool."""
        below = np.bitwise_count(first_G[g] & ((1 << k) - 1))
        return np.where((j + 1) << k <= first_G[g], incoming_G[g] + below, offset_KG[k, g] + j - (first_G[g] >> k))

    for k in range(top):
        count_G = (last_G >> k) - (first_G >> k)
        offset_KG[k] = made + np.cumsum(count_G) - count_G
        if k and count_G.sum():
            g = np.repeat(np.arange(len(trees)), count_G)
            j = np.arange(len(g)) - np.repeat(np.cumsum(count_G) - count_G, count_G) + (first_G[g] >> k)
            merges.append(Join(_tensor(position(k - 1, 2 * j, g)), _tensor(position(k - 1, 2 * j + 1, g))))
        made += int(count_G.sum())

    rows = _concatenated_rows(trees)
    blocks = np.bitwise_count(rows["row"])
    order = np.argsort(-blocks.astype(np.int64), kind="stable")
    left, graph, blocks = rows["row"][order], rows["graph"][order], blocks[order]
    row, folds = left.copy(), []
    for t in range(max(1, int(blocks.max(initial=1)))):
        reads = int((blocks > t).sum()) if t else len(order)
        low = left[:reads] & -left[:reads]
        k = np.bitwise_count(np.maximum(low, 1) - 1).astype(np.int64)
        folds.append(_tensor(np.where(low > 0, position(k, (row[:reads] >> k) - 1, graph[:reads]), 0)))  # row 0 reads the initial state
        left[:reads] -= low
    g, k = _set_bits(last_G)
    return {"incoming": incoming, "merges": merges, "folds": folds, "order": order, "outgoing": _tensor(position(k, (last_G[g] >> k) - 1, g))}


def _set_bits(x_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (g, k) with bit k of x[g] set, k ascending for each g."""
    pairs = [(g, k) for g, x in enumerate(x_G.tolist()) for k in range(int(x).bit_length()) if x >> k & 1]
    return tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)
