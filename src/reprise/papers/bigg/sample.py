"""Sampling: many graphs at once, each a state machine of its own, in O((n + m) log n) decisions per graph.

Section 3.1 and 3.2, run forwards. A graph stands at a node of a row tree or between two rows; a tick advances every
graph, wherever it stands, and computes together what is of the same kind. Control is integer arithmetic on the CPU.
A handful of graphs are in the same place, so calls cost more than arithmetic: h and c of a state lie side by side in one
row, and what reads the same h is one matrix product (`Fused`).

Suffixes: G graphs, K those of them that a step is about, d width of a state; `hc` [K, 2d].
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from reprise.errors import ReproError
from reprise.papers.bigg.cells import LSTM, Head, TreeLSTM, gates
from reprise.papers.bigg.draws import Samples, Uniforms, rows_of_edges
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import EMPTY, LEAF

ROW, NODE, RIGHT, CLOSE, END = range(5)  # what a graph does next: a new row, a left decision, a right decision, a bottom-up step, nothing


class Fused:
    """A decision head and the LSTM cell that is told the answer: they read the same state."""

    def __init__(self, head: Head, cell: LSTM):
        self.d = cell.w_hidden.shape[-1]
        self.weight = torch.cat([head.hidden.weight[0], cell.w_hidden[0]]).T.contiguous()
        self.bias = torch.cat([head.hidden.bias[0, 0], self.weight.new_zeros(4 * self.d)])
        self.out, self.out_bias = head.out.weight[0, 0], head.out.bias[0, 0, 0]
        self.inputs = cell.inputs()[0]

    def logits(self, hc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logit of yes [K], and the gates' share of the state [K, 4d]."""
        x = torch.addmm(self.bias, hc[:, : self.d], self.weight)
        return (F.elu(x[:, : 2 * self.d]) * self.out).sum(1) + self.out_bias, x[:, 2 * self.d :]

    def told(self, gates_K4d: torch.Tensor, answer: torch.Tensor, hc: torch.Tensor) -> torch.Tensor:
        """The state after the answer."""
        return _cell(gates_K4d + self.inputs.index_select(0, answer), False, hc[:, self.d :])


class Joint:
    """A TreeLSTM cell as one product of [h_l; h_r]."""

    def __init__(self, cell: TreeLSTM):
        self.cell, self.d = cell, cell.d
        self.w_left, self.w_right = (w[0].T.contiguous() for w in (cell.w_left, cell.w_right))
        self.weight = torch.cat([self.w_left, self.w_right])

    def __call__(self, left_hc: torch.Tensor, right_hc: torch.Tensor) -> torch.Tensor:
        both = torch.cat([left_hc[:, : self.d], right_hc[:, : self.d]], dim=1)
        return self.gated(torch.addmm(self.cell.bias[0, 0], both, self.weight), left_hc, right_hc)

    def ready(self, right_hc: torch.Tensor) -> torch.Tensor:
        """The right argument's share of the first map."""
        return torch.addmm(self.cell.bias[0, 0], right_hc[:, : self.d], self.w_right)

    def after(self, left_hc: torch.Tensor, ready: torch.Tensor, right_hc: torch.Tensor) -> torch.Tensor:
        """The same as a call, where the right argument is `ready`."""
        return self.gated(torch.addmm(ready, left_hc[:, : self.d], self.w_left), left_hc, right_hc)

    def gated(self, x: torch.Tensor, left_hc: torch.Tensor, right_hc: torch.Tensor) -> torch.Tensor:
        return _cell(self.cell.second(x[None])[0], self.cell.kind == "mlp", left_hc[:, self.d :], right_hc[:, self.d :])


class Subtrees:
    """The table of the subtrees met so far, each embedded once: g depends on the shape alone.

    A subtree is named by its number; `hc` are the embeddings, `ready` their share in l2r. With B > 0 a narrow one is named by its
    width too, since its embedding are bits.
    """

    def __init__(self, model: BiGG, left_to_right: Joint):
        self.bits, self.d, self.left_to_right, self.merge_children = model.bits, model.d, left_to_right, Joint(model.merge_children)
        self.count, self.number = 0, {}
        self.hc, self.ready = model.initial.new_zeros(64, 2 * model.d), model.initial.new_zeros(64, left_to_right.weight.shape[1])
        self._add(torch.cat(model.base(), dim=2)[0])  # EMPTY and LEAF

    def join(self, left_K: np.ndarray, right_K: np.ndarray, width_K: np.ndarray) -> np.ndarray:
        """The numbers of the trees made of two; those not met before are embedded. [K] three times -> [K]."""
        width_K = np.where(width_K <= self.bits, width_K, 0)
        keys = list(zip(left_K.tolist(), right_K.tolist(), width_K.tolist()))
        if fresh := list(dict.fromkeys(key for key in keys if key not in self.number)):
            self.number |= {key: self.count + k for k, key in enumerate(fresh)}
            left, right, width = (torch.tensor(part, device=self.hc.device) for part in zip(*fresh))
            left_hc, right_hc = self.hc.index_select(0, left), self.hc.index_select(0, right)
            hc = self.merge_children(left_hc, right_hc)
            if self.bits:
                raw = self._raw(left_hc[:, : self.d], right_hc[:, : self.d], width[:, None])
                hc = torch.where(width[:, None] > 0, raw.repeat(1, 2), hc)
            self._add(hc)
        return np.array([self.number[key] for key in keys])

    def _add(self, hc: torch.Tensor) -> None:
        end = self.count + len(hc)
        while end > len(self.hc):
            self.hc, self.ready = (torch.cat([x, torch.zeros_like(x)]) for x in (self.hc, self.ready))
        self.hc[self.count : end], self.ready[self.count : end] = hc, self.left_to_right.ready(hc)
        self.count = end

    def _raw(self, left: torch.Tensor, right: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        """Bits of a narrow interval from those of its halves: bit 0 is the last column, so the right half comes first. [K, d] -> [K, d]."""
        low = width - width // 2  # the right half is the wider one
        offset = torch.arange(self.d, device=left.device).expand_as(left)
        # An empty half is all -1; the table's entry for it, which knows no width, has but its first bit set.
        left, right = (torch.where((part[:, :1] == -1) & (part[:, 1:] == 0).all(1, keepdim=True), -1, part) for part in (left, right))
        bits = torch.where(offset < low, right, left.gather(1, (offset - low).clamp_min(0)))
        return torch.where(offset < width, bits, 0)


def _cell(x: torch.Tensor, signed: bool, *cs: torch.Tensor) -> torch.Tensor:
    return torch.cat(gates(x, signed, cs)[:2], dim=1)


class Sampler:
    """Draw graphs from one model (a stack of one).

    Args:
        model: the model, S = 1.
        width: for each graph the number of columns of each of its rows, int64 [n]; 0, 1, ..., n - 1 for an undirected graph.
        draw: a stream of uniform numbers for each graph.
        greedy: f in [0, 1]; p becomes (1 - f) p + f [p >= 1/2], so 1 always takes the likelier answer.
        degree: for each graph the least and the largest number of edges of each row, int64 [n, 2]; None: any.

    Raises:
        ReproError: a row cannot have as many edges as it must.
    """

    def __init__(self, model: BiGG, width: Sequence[np.ndarray], draw: Uniforms, greedy: float = 0.0, degree: Sequence[np.ndarray] | None = None):
        self.model, self.draw, self.greedy = model, draw, greedy
        G = len(width)
        self.n_G = np.array([len(w) for w in width])
        self.width_GR = np.stack([np.pad(w, (0, self.n_G.max() - len(w))) for w in width])
        self.degree = None if degree is None else np.stack([np.pad(d, ((0, self.n_G.max() - len(d)), (0, 0))) for d in degree])
        if degree is not None and (bad := self.degree[..., 0] > np.minimum(self.degree[..., 1], self.width_GR)).any():
            g, row = np.argwhere(bad)[0]
            raise ReproError(f"row {row} of graph {g} must have {self.degree[g, row, 0]} edges, but may have {min(self.degree[g, row, 1], self.width_GR[g, row])} at most: correct `degree`")
        self.depth = max(int(self.width_GR.max()), 1).bit_length() + 1
        self.levels = int(self.n_G.max()).bit_length() + 1
        self.next_G, self.row_G, self.top_G, self.count_G = np.full(G, ROW), np.full(G, -1), np.zeros(G, dtype=np.int64), np.zeros(G, dtype=np.int64)
        self.lo_GD, self.hi_GD = np.zeros((2, G, self.depth), dtype=np.int64)  # intervals of the open nodes
        self.has_left_GD = np.zeros((G, self.depth), dtype=bool)
        self.rightward_GD = np.zeros((G, self.depth), dtype=bool)  # is the right child what is being generated?
        self.d = d = model.d
        self.tree_G, self.left_GD = np.zeros(G, dtype=np.int64), np.zeros((G, self.depth), dtype=np.int64)  # the subtree completed last; the open nodes' left ones
        self.state_G = model.initial.new_zeros(G, 2 * d)  # s of the current node
        self.open_GD = model.initial.new_zeros(G * self.depth, 2 * d)  # s1 of the open nodes
        self.forest_GL = model.initial.new_zeros(G * self.levels, 2 * d)  # one block for each set bit of the number of finished rows
        self.nll_G = np.zeros(G)
        self.edges: list[np.ndarray] = []
        self.initial = model.initial.flatten(1)
        self.left, self.right = Fused(model.has_left, model.top_down), Fused(model.has_right, model.top_right)
        self.left_to_right = Joint(model.left_to_right)
        self.trees = Subtrees(model, self.left_to_right)
        if model.history:
            self.merge_blocks, self.summarise = Joint(model.merge_blocks), Joint(model.summarise)
        self.codes = model.codes(int(self.n_G.max()) + 1).repeat(1, 2)

    def run(self) -> Samples:
        """Tick until every graph is complete."""
        ticks = 0
        while (self.next_G != END).any():
            ticks += 1
            for kind, step in ((NODE, self._left), (RIGHT, self._right), (CLOSE, self._close), (ROW, self._row)):
                while len(g_K := np.flatnonzero(self.next_G == kind)) and not (kind == ROW and self._worth_waiting(g_K)):
                    step(g_K)
                    if kind != CLOSE:  # closing costs next to nothing
                        break
        return Samples(rows_of_edges(self.edges, [w[:n] for n, w in zip(self.n_G, self.width_GR)]), self.nll_G, ticks)

    def _worth_waiting(self, g_K: np.ndarray) -> bool:
        """A new row costs more kernels than a decision: begin rows together, unless most graphs wait for it already."""
        return 2 * len(g_K) < (self.next_G != END).sum()

    # -- the steps -----------------------------------------------------------------------------------------------

    def _left(self, g: np.ndarray) -> None:
        """Open a node: has_left, s1."""
        top = self.top_G[g]
        lo, hi = self.lo_GD[g, top], self.hi_GD[g, top]
        mid = (lo + hi) // 2
        state = self._get(self.state_G, g)
        logit, gates = self.left.logits(state)
        yes = self._decide(g, logit, self._short(g, mid), np.zeros(len(g), dtype=bool))
        s1 = self.left.told(gates, self._on(yes), state)
        self._put(self.open_GD, g * self.depth + top, s1)
        self.has_left_GD[g, top], self.rightward_GD[g, top] = yes, False
        self.next_G[g] = RIGHT
        self._descend(g, yes, lo, mid, s1)

    def _right(self, g: np.ndarray) -> None:
        """The left child is complete: has_right, s3."""
        top = self.top_G[g]
        lo, hi, has_left = self.lo_GD[g, top], self.hi_GD[g, top], self.has_left_GD[g, top]
        mid = (lo + hi) // 2
        left = self.left_GD[g, top] = self.tree_G[g]
        s2 = self.left_to_right.after(self._get(self.open_GD, g * self.depth + top), self._get(self.trees.ready, left), self._get(self.trees.hc, left))
        logit, gates = self.right.logits(s2)
        yes = self._decide(g, logit, self._short(g, hi), self._full(g), asked=has_left)  # forced where there is no left child
        s3 = self.right.told(gates, self._on(yes), s2)
        self.rightward_GD[g, top] = True
        self.next_G[g] = CLOSE
        self._descend(g, yes, mid, hi, s3)

    def _descend(self, g: np.ndarray, yes: np.ndarray, lo: np.ndarray, hi: np.ndarray, state: torch.Tensor) -> None:
        """Enter the child [lo, hi) where the answer was yes; single columns and absent children are complete at once."""
        single, inner = hi - lo == 1, yes & (hi - lo > 1)
        leaf = yes & single
        if leaf.any():
            self.edges.append(np.stack([g[leaf], self.row_G[g[leaf]], lo[leaf]], axis=1))
            self.count_G[g[leaf]] += 1
        self.tree_G[g[~inner]] = np.where(yes[~inner], LEAF, EMPTY)
        if inner.any():
            deep = g[inner]
            self._put(self.state_G, deep, self._rows(state, inner))
            self.top_G[deep] += 1
            self.lo_GD[deep, self.top_G[deep]], self.hi_GD[deep, self.top_G[deep]] = lo[inner], hi[inner]
            self.next_G[deep] = NODE

    def _close(self, g: np.ndarray) -> None:
        """Both children are complete: g of the node, then up to the parent."""
        top = self.top_G[g]
        width = self.hi_GD[g, top] - self.lo_GD[g, top]
        self.tree_G[g] = self.trees.join(self.left_GD[g, top], self.tree_G[g], width)
        self.top_G[g] -= 1
        inside = self.top_G[g] >= 0
        up = g[inside]
        self.next_G[up] = np.where(self.rightward_GD[up, self.top_G[up]], CLOSE, RIGHT)
        self.next_G[g[~inside]] = ROW

    def _row(self, g: np.ndarray) -> None:
        """Enter the finished row into the forest, then begin the next one: R_i, has_edge."""
        begun = g[self.row_G[g] >= 0]
        if self.model.history and len(begun):
            self._carry(begun)
        self.row_G[g] += 1
        done = self.row_G[g] == self.n_G[g]
        self.next_G[g[done]] = END
        g = g[~done]
        if not len(g):
            return
        row, width = self.row_G[g], self.width_GR[g, self.row_G[g]]
        state = self._summary(g) + self._get(self.codes, self.n_G[g] - row)
        self.count_G[g] = 0
        yes = self._decide(g, self.model.has_edge(state[None, :, : self.d])[0], self._short(g, width), self._full(g), asked=width > 0) & (width > 0)
        self.top_G[g] = -1
        self.next_G[g] = ROW
        self._descend(g, yes, np.zeros_like(width), width, state)

    def _carry(self, g: np.ndarray) -> None:
        """Merge the row into the forest like a one added to a binary number."""
        block, k = self._get(self.trees.hc, self.tree_G[g]), 0
        while len(g):
            carries = (self.row_G[g] >> k & 1).astype(bool)
            self._put(self.forest_GL, g[~carries] * self.levels + k, self._rows(block, ~carries))
            g, block = g[carries], self._rows(block, carries)
            if len(g):
                block = self.merge_blocks(self._get(self.forest_GL, g * self.levels + k), block)
            k += 1

    def _summary(self, g: np.ndarray) -> torch.Tensor:
        """Fold the blocks before the row, the most recent first. -> [K, 2d]."""
        result = self.initial.repeat(len(g), 1)
        if not self.model.history:
            return result
        left, first = self.row_G[g].copy(), True
        while (reads := np.flatnonzero(left)).size:
            low = left[reads] & -left[reads]
            block = self._get(self.forest_GL, g[reads] * self.levels + np.bitwise_count(low - 1).astype(np.int64))
            self._put(result, reads, block if first else self.summarise(self._get(result, reads), block))
            left[reads] -= low
            first = False
        return result

    # -- decisions -----------------------------------------------------------------------------------------------

    def _decide(self, g: np.ndarray, logit_K: torch.Tensor, must: np.ndarray, must_not: np.ndarray, asked: np.ndarray | None = None) -> np.ndarray:
        """Draw the answers and add their -log p; who is not asked says yes, free of charge. -> bool [K]."""
        z = logit_K.double().cpu().numpy()
        p = 1 / (1 + np.exp(-z))
        if self.greedy:
            p = (1 - self.greedy) * p + self.greedy * (p >= 0.5)
        asked = np.ones(len(g), dtype=bool) if asked is None else asked
        free = asked & ~(must | must_not)
        yes = must | ~asked
        yes[free] = self.draw(g[free]) < p[free]
        self.nll_G[g] += np.where(asked, np.logaddexp(0, np.where(yes, -z, z)), 0)
        return yes

    def _short(self, g: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Does the row lack more edges than the columns from `column` on can hold? [K]"""
        if self.degree is None:
            return np.zeros(len(g), dtype=bool)
        row = self.row_G[g]
        return self.degree[g, row, 0] - self.count_G[g] > self.width_GR[g, row] - column

    def _full(self, g: np.ndarray) -> np.ndarray:
        """Has the row all the edges that it may have? [K]"""
        if self.degree is None:
            return np.zeros(len(g), dtype=bool)
        return self.count_G[g] >= self.degree[g, self.row_G[g], 1]

    # -- small parts ---------------------------------------------------------------------------------------------

    def _on(self, x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(x.astype(np.int64)).to(self.initial.device)

    def _get(self, store: torch.Tensor, place_K: np.ndarray) -> torch.Tensor:
        return store.index_select(0, self._on(place_K))

    def _put(self, store: torch.Tensor, place_K: np.ndarray, hc: torch.Tensor) -> None:
        store.index_copy_(0, self._on(place_K), hc)

    def _rows(self, hc: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
        return hc if mask.all() else self._get(hc, np.flatnonzero(mask))


@torch.no_grad()
def sample(model: BiGG, width: Sequence[np.ndarray], draw: Uniforms, greedy: float = 0.0, degree: Sequence[np.ndarray] | None = None) -> Samples:
    """Draw one graph for each entry of `width`, all at once. See `Sampler`."""
    return Sampler(model, width, draw, greedy, degree).run()
