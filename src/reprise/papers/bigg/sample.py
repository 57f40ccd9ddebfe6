"""Sampling: many graphs at once, in O((n + m) log n) decisions per graph.

Sections 3.1 and 3.2, run forwards. Graphs go from row to row in step, so the forest of rows is the same arithmetic for all of
them. Within a row each graph walks over its own tree: the recursion of the paper as a generator, which stops where it needs an
answer; all walks that need an answer of one kind get theirs together.
Few walks need one at a time, so calls cost more than arithmetic: h and c of a state lie side by side in one row, and what
reads the same h is one matrix product (`Fused`).

Suffixes: G graphs, K those of them that a step is about, d width of a state; `hc` [K, 2d].
"""

from collections.abc import Generator, Sequence
from itertools import chain, groupby

import numpy as np
import torch
from torch.nn import functional as F

from reprise.errors import ReproError
from reprise.papers.bigg.cells import LSTM, Head, TreeLSTM
from reprise.papers.bigg.draws import Samples, Uniforms
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import EMPTY, LEAF

LEFT, RIGHT = 0, 1  # the decisions that a walk asks for


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
        """h, c of the right argument and its share of the first map, for `after`."""
        return torch.cat([right_hc, torch.addmm(self.cell.bias[0, 0], right_hc[:, : self.d], self.w_right)], dim=1)

    def after(self, left_hc: torch.Tensor, ready: torch.Tensor) -> torch.Tensor:
        """The same as a call, where the right argument is `ready`."""
        return self.gated(torch.addmm(ready[:, 2 * self.d :], left_hc[:, : self.d], self.w_left), left_hc, ready[:, : 2 * self.d])

    def gated(self, x: torch.Tensor, left_hc: torch.Tensor, right_hc: torch.Tensor) -> torch.Tensor:
        return _cell(self.cell.second(x[None])[0], self.cell.kind == "mlp", left_hc[:, self.d :], right_hc[:, self.d :])


class Subtrees:
    """The table of the subtrees met so far, each embedded once: g depends on the shape alone.

    A subtree is named by its number; its row of `table` is h, c and its share in l2r. With B > 0 a narrow one is named by its width
    too, since its embedding are bits.
    """

    def __init__(self, model: BiGG, left_to_right: Joint):
        self.bits, self.d, self.left_to_right, self.merge_children = model.bits, model.d, left_to_right, Joint(model.merge_children)
        self.number, self.height, self.fresh = {}, [0, 0], []
        self.table = left_to_right.ready(torch.cat(model.base(), dim=2)[0])  # EMPTY and LEAF

    def join(self, left: int, right: int, width: int) -> int:
        """The number of the tree made of two; its row of the table is computed when it is first read."""
        key = left, right, width if width <= self.bits else 0
        number = self.number.get(key)
        if number is None:
            number = self.number[key] = len(self.height)
            self.height.append(1 + max(self.height[left], self.height[right]))
            self.fresh.append((self.height[number], number, *key))
        return number

    def rows(self, number_K: Sequence[int]) -> torch.Tensor:
        """Rows of the table. -> [K, 2d + 5d or 20d]."""
        if max(number_K) >= len(self.height) - len(self.fresh):
            self._embed()
        return self.table.index_select(0, _on(number_K, self.table))

    def _embed(self) -> None:
        """Embed the trees not yet embedded, from the lowest to the highest (equation 6)."""
        while len(self.table) < len(self.height):
            self.table = torch.cat([self.table, torch.zeros_like(self.table)])
        for _, equally_high in groupby(sorted(self.fresh), lambda tree: tree[0]):
            _, number, left, right, width = zip(*equally_high)
            left_hc, right_hc = (self.table.index_select(0, _on(part, self.table))[:, : 2 * self.d] for part in (left, right))
            hc = self.merge_children(left_hc, right_hc)
            if self.bits:
                width = _on(width, self.table)[:, None]
                hc = torch.where(width > 0, self._raw(left_hc[:, : self.d], right_hc[:, : self.d], width).repeat(1, 2), hc)
            self.table.index_copy_(0, _on(number, self.table), self.left_to_right.ready(hc))
        self.fresh.clear()

    def _raw(self, left: torch.Tensor, right: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
        """Bits of a narrow interval from those of its halves: bit 0 is the last column, so the right half comes first. [K, d] -> [K, d]."""
        low = width - width // 2  # the right half is the wider one
        offset = torch.arange(self.d, device=left.device).expand_as(left)
        # An empty half is all -1; the table's entry for it, which knows no width, has but its first bit set.
        left, right = (torch.where((part[:, :1] == -1) & (part[:, 1:] == 0).all(1, keepdim=True), -1, part) for part in (left, right))
        bits = torch.where(offset < low, right, left.gather(1, (offset - low).clamp_min(0)))
        return torch.where(offset < width, bits, 0)


def _cell(x: torch.Tensor, signed: bool, *cs: torch.Tensor) -> torch.Tensor:
    """The output of a gated cell, see `cells.gated`, side by side. [K, (3 + k) d], k states [K, d] -> [K, 2d]."""
    d = cs[0].shape[1]
    gates = x[:, :-d].sigmoid()
    if signed:
        torch.tanh(x[:, 2 * d : -d], out=gates[:, 2 * d :])
    i, o, *forget = gates.chunk(2 + len(cs), 1)
    c = i * x[:, -d:].tanh()
    for f, c_k in zip(forget, cs):
        c.addcmul_(f, c_k)
    return torch.cat([o * c.tanh(), c], 1)


def _on(numbers: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(numbers, dtype=np.int64)).to(like.device)


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
        self.model, self.draw, self.greedy, self.d = model, draw, greedy, model.d
        self.width = [w.tolist() for w in width]
        self.degree = None if degree is None else [d.tolist() for d in degree]
        for g, bounds in enumerate(self.degree or []):
            for row, (least, most) in enumerate(bounds):
                if least > min(most, self.width[g][row]):
                    raise ReproError(f"row {row} of graph {g} must have {least} edges, but may have {min(most, self.width[g][row])} at most: correct `degree`")
        self.depth = max(map(max, self.width)).bit_length() + 2
        self.state = model.initial.new_zeros(len(width) * self.depth, 2 * model.d)
        self.count_G = [0] * len(width)  # edges of the row so far
        self.edges: list[list[tuple[int, int]]] = [[] for _ in width]
        self.decided: list[tuple] = []
        self.waiting: list[list[tuple]] = [[], []]  # what walks ask for, left and right decisions
        self.left, self.right = Fused(model.has_left, model.top_down), Fused(model.has_right, model.top_right)
        self.left_to_right = Joint(model.left_to_right)
        self.trees = Subtrees(model, self.left_to_right)
        if model.history:
            self.merge_blocks, self.summarise = Joint(model.merge_blocks), Joint(model.summarise)

    def run(self) -> Samples:
        """Row by row; graphs with more rows first, so that those with a row i are the first K."""
        order = sorted(range(len(self.width)), key=lambda g: -len(self.width[g]))
        n_G = np.array([len(self.width[g]) for g in order])
        codes, initial = self.model.codes(int(n_G[0]) + 1).repeat(1, 2), self.model.initial.flatten(1)
        forest: dict[int, torch.Tensor] = {}  # k -> the block of 2^k rows of each graph, [K, 2d]
        for i in range(n_G[0]):
            K = int((n_G > i).sum())
            state, *older = [forest[k][:K] for k in sorted(forest)] or [initial.expand(K, -1)]
            for block in older:  # from the most recent block to the oldest
                state = self.summarise(state, block)
            tree_K = self._grow(order[:K], i, state + codes.index_select(0, _on(n_G[:K] - i, codes)))
            if self.model.history:
                block, k = self.trees.rows(tree_K)[:, : 2 * self.d], 0
                while k in forest:  # carry, as in adding one to a binary number
                    block = self.merge_blocks(forest.pop(k)[:K], block)
                    k += 1
                forest[k] = block
        return Samples.of(self.edges, self.width, self._nll(), len(self.decided))

    # -- one row of each graph -----------------------------------------------------------------------------------

    def _grow(self, g_K: list[int], i: int, state: torch.Tensor) -> list[int]:
        """Decide row i, given its states [K, 2d]. -> the number of each graph's tree [K]."""
        tree_G = dict.fromkeys(g_K, EMPTY)
        asked = [k for k, g in enumerate(g_K) if self.width[g][i]]
        if asked:
            g_K, state = [g_K[k] for k in asked], state.index_select(0, _on(asked, state))
            self.state.index_copy_(0, _on([g * self.depth for g in g_K], state), state)
            for g in g_K:
                self.count_G[g] = 0
            yes = self._decide(self.model.has_edge(state[None, :, : self.d])[0], g_K, [self._forced(g, i, self.width[g][i]) for g in g_K])
            walks = {g: self._row(g, i, tree_G).send for g, has_edge in zip(g_K, yes) if has_edge}
            for go in walks.values():
                go(None)
            while any(self.waiting):
                kind, decide = (LEFT, self._left) if self.waiting[LEFT] else (RIGHT, self._right)
                request, self.waiting[kind] = self.waiting[kind], []
                g_K, *about = zip(*request)
                for g, answer in zip(g_K, decide(g_K, *about)):
                    walks[g](answer)
        return list(tree_G.values())

    def _row(self, g: int, i: int, tree_G: dict[int, int]) -> Generator[None, bool, None]:
        """Walk over row i, which has an edge."""
        tree_G[g] = yield from self._node(g, i, 0, self.width[g][i], g * self.depth)
        yield

    def _node(self, g: int, i: int, lo: int, hi: int, place: int) -> Generator[None, bool, int]:
        """Walk over [lo, hi) of row i, which holds an edge; returns the number of its tree.

        The state s lies at `place`. The next place is for s1 and then, once the left subtree is complete, for s3: there the child finds it.
        """
        if hi - lo == 1:
            self.edges[g].append((i, lo))
            self.count_G[g] += 1
            return LEAF
        mid = (lo + hi) // 2
        self.waiting[LEFT].append((g, place, self._forced(g, i, mid)))
        has_left = yield
        left = (yield from self._node(g, i, lo, mid, place + 1)) if has_left else EMPTY
        has_right = True
        if has_left or hi - mid > 1:  # else there is no question, and a single column needs no state
            self.waiting[RIGHT].append((g, place + 1, self._forced(g, i, hi) if has_left else True, has_left, left))
            has_right = yield
        right = (yield from self._node(g, i, mid, hi, place + 1)) if has_right else EMPTY
        return self.trees.join(left, right, hi - lo)

    def _left(self, g_K: Sequence[int], place_K: Sequence[int], known_K: Sequence[bool | None]) -> list[bool]:
        """has_left (equation 8) and s1 (equation 7)."""
        place = _on(place_K, self.state)
        state = self.state.index_select(0, place)
        logit, gates = self.left.logits(state)
        yes = self._decide(logit, g_K, known_K)
        self.state.index_copy_(0, place + 1, self.left.told(gates, _on(yes, state), state))
        return yes

    def _right(self, g_K: Sequence[int], place_K: Sequence[int], known_K: Sequence[bool | None], has_left_K: Sequence[bool], left_K: Sequence[int]) -> list[bool]:
        """s2, has_right (equation 10), which is no question where there is no left child, and s3 (equation 9)."""
        place = _on(place_K, self.state)
        s2 = self.left_to_right.after(self.state.index_select(0, place), self.trees.rows(left_K))
        logit, gates = self.right.logits(s2)
        yes = self._decide(logit, g_K, known_K, has_left_K)
        self.state.index_copy_(0, place, self.right.told(gates, _on(yes, s2), s2))
        return yes

    # -- decisions -----------------------------------------------------------------------------------------------

    def _decide(self, logit_K: torch.Tensor, g_K: Sequence[int], known_K: Sequence[bool | None], asked_K: Sequence[bool] | None = None) -> list[bool]:
        """Draw the answers that are not known. What is not asked does not count in the likelihood."""
        z = logit_K.cpu().numpy().astype(np.float64)
        p = 1 / (1 + np.exp(-z))
        if self.greedy:
            p = (1 - self.greedy) * p + self.greedy * (p >= 0.5)
        draw = self.draw
        yes = [next(draw[g]) < p if known is None else known for g, p, known in zip(g_K, p.tolist(), known_K)]
        self.decided.append((g_K, z.tolist(), yes, asked_K or [True] * len(yes)))
        return yes

    def _forced(self, g: int, i: int, column: int) -> bool | None:
        """True if row i lacks more edges than the columns from `column` on can hold, False if it has all that it may have."""
        if self.degree is None:
            return None
        least, most = self.degree[g][i]
        if least - self.count_G[g] > self.width[g][i] - column:
            return True
        return False if self.count_G[g] >= most else None

    def _nll(self) -> np.ndarray:
        """The sum of -log p over all decisions that were asked for. -> float64 [G]."""
        if not self.decided:
            return np.zeros(len(self.width))
        g, z, yes, asked = (np.fromiter(chain.from_iterable(part), kind) for part, kind in zip(zip(*self.decided), (np.int64, np.float64, bool, bool)))
        return np.bincount(g, np.where(asked, np.logaddexp(0, np.where(yes, -z, z)), 0), len(self.width))


@torch.inference_mode()
def sample(model: BiGG, width: Sequence[np.ndarray], draw: Uniforms, greedy: float = 0.0, degree: Sequence[np.ndarray] | None = None) -> Samples:
    """Draw one graph for each entry of `width`, all at once. See `Sampler`."""
    return Sampler(model, width, draw, greedy, degree).run()
