"""Sampling: many graphs at once, in O((n + m) log n) decisions per graph.

Sections 3.1 and 3.2, run forwards. Graphs go from row to row in step, so the forest of rows is the same arithmetic for all of
them. Within a row each graph walks over its own tree: the recursion of the paper as a generator, which stops where it needs the
probability of an answer; all walks that need one of the same kind get theirs together.
Few walks need one at a time, so calls cost more than arithmetic. Hence h and c of a state lie side by side in one row, what reads
the same h is one matrix product (`Fused`), all gates of a cell pass one sigmoid (`_scaled`), and on the CPU the arithmetic is
NumPy's, whose calls are cheaper than torch's; elsewhere the same lines work on tensors.

Suffixes: G graphs, K those of them that a step is about, d width of a state; `hc` [K, 2d].
"""

from collections.abc import Generator, Sequence
from itertools import chain, groupby
from types import ModuleType

import numpy as np
import torch

from reprise.errors import ReproError
from reprise.papers.bigg.cells import LSTM, Head, TreeLSTM
from reprise.papers.bigg.draws import Samples, Uniforms
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import EMPTY, LEAF

LEFT, RIGHT = 0, 1  # the decisions at which a walk stops
Array = np.ndarray | torch.Tensor


def _array(x: torch.Tensor) -> Array:
    """What is computed with: on the CPU a view of the tensor as a NumPy array."""
    return x.detach().numpy() if x.device.type == "cpu" else x.detach()


def _library(x: Array) -> ModuleType:
    return np if isinstance(x, np.ndarray) else torch


def _on(numbers: Sequence[int], like: Array) -> Array:
    """Whole numbers, to index `like` with."""
    x = np.array(numbers, dtype=np.int64)
    return x if isinstance(like, np.ndarray) else torch.from_numpy(x).to(like.device)


def _scaled(weight: torch.Tensor, d: int, signed: bool = False) -> torch.Tensor:
    """A cell's last map as `_cell` wants it: what passes a sigmoid negated, u doubled before. [gates d, inputs] -> [inputs, gates d]."""
    scale = -torch.ones(len(weight) // d)
    scale[-1] = -2  # tanh(u) = 2 sigma(2u) - 1
    if signed:
        scale[2:-1] = 1  # forget gates that pass a tanh
    return weight.T * scale.to(weight).repeat_interleave(d)


def _cell(y: Array, signed: bool, *cs: Array) -> Array:
    """The output of a gated cell, see `cells.gated`, from gates whose maps were `_scaled`. [K, (3 + k) d], k states [K, d] -> [K, 2d]."""
    library, d = _library(y), cs[0].shape[1]
    gates = library.exp(y)
    gates += 1
    gates = 1 / gates  # sigma(x) = 1 / (1 + exp(-x))
    forget = library.tanh(y[:, 2 * d : -d]) if signed else gates[:, 2 * d : -d]
    c = 2 * gates[:, -d:]
    c -= 1
    c *= gates[:, :d]
    for k, c_k in enumerate(cs):
        c += forget[:, k * d : (k + 1) * d] * c_k
    return library.concatenate([gates[:, d : 2 * d] * library.tanh(c), c], 1)


def _elu(x: Array) -> Array:
    library = _library(x)
    return library.where(x > 0, x, library.exp(x) - 1)


class Fused:
    """A decision head and the LSTM cell, if any, that is told the answer: they read the same state."""

    def __init__(self, head: Head, cell: LSTM | None = None):
        self.d = head.hidden.weight.shape[-1]
        weight, bias = head.hidden.weight[0].T, head.hidden.bias[0, 0]
        if cell:
            weight = torch.cat([weight, _scaled(cell.w_hidden[0], self.d)], dim=1)
            bias = torch.cat([bias, bias.new_zeros(4 * self.d)])
            self.inputs = _array(_scaled(cell.inputs()[0].T, self.d))
        self.weight, self.bias = _array(weight.contiguous()), _array(bias)
        self.out, self.out_bias = _array(head.out.weight[0, 0]), _array(head.out.bias[0, 0])

    def logits(self, hc: Array) -> tuple[Array, Array]:
        """The logit of yes [K], and the gates' share of the state [K, 4d]."""
        x = hc[:, : self.d] @ self.weight
        x += self.bias
        return _elu(x[:, : 2 * self.d]) @ self.out + self.out_bias, x[:, 2 * self.d :]

    def told(self, gates_K4d: Array, answer: Array, hc: Array) -> Array:
        """The state after the answer."""
        return _cell(gates_K4d + self.inputs[answer], False, hc[:, self.d :])


class Joint:
    """A TreeLSTM cell as one product of [h_l; h_r]."""

    def __init__(self, cell: TreeLSTM):
        self.d, self.mlp = cell.d, cell.kind == "mlp"
        maps = [cell.w_left[0], cell.w_right[0], cell.bias[0].T]
        if self.mlp:
            maps = [m.T for m in maps]
            self.w_out, self.b_out = (_array(_scaled(m, self.d, True)) for m in (cell.w_out[0].flatten(0, 1), cell.b_out[0].T))
        else:
            maps = [_scaled(m, self.d) for m in maps]
        self.weight, self.bias = _array(torch.cat(maps[:2])), _array(maps[2])
        self.w_left, self.w_right = self.weight[: self.d], self.weight[self.d :]

    def __call__(self, left_hc: Array, right_hc: Array) -> Array:
        both = _library(left_hc).concatenate([left_hc[:, : self.d], right_hc[:, : self.d]], 1)
        return self._gated(both @ self.weight + self.bias, left_hc, right_hc)

    def ready(self, right_hc: Array) -> Array:
        """h, c of the right argument and its share of the first map, for `after`."""
        return _library(right_hc).concatenate([right_hc, right_hc[:, : self.d] @ self.w_right + self.bias], 1)

    def after(self, left_hc: Array, ready: Array) -> Array:
        """The same as a call, where the right argument is `ready`."""
        return self._gated(left_hc[:, : self.d] @ self.w_left + ready[:, 2 * self.d :], left_hc, ready)

    def _gated(self, x: Array, left_hc: Array, right_hc: Array) -> Array:
        d = self.d
        if self.mlp:
            x = _elu(x)
            x = _library(x).concatenate([x[:, 4 * k : 4 * (k + d)] @ self.w_out[:, k : k + d] for k in range(0, 5 * d, d)], 1) + self.b_out
        return _cell(x, self.mlp, left_hc[:, d : 2 * d], right_hc[:, d : 2 * d])


class Subtrees:
    """The table of the subtrees met so far, each embedded once: g depends on the shape alone.

    A subtree is named by its number; its row of `table` is h, c and its share in l2r. With B > 0 a narrow one is named by its width
    too, since its embedding are its bits.
    """

    def __init__(self, model: BiGG, left_to_right: Joint):
        self.bits, self.d, self.left_to_right, self.merge_children = model.bits, model.d, left_to_right, Joint(model.merge_children)
        self.number, self.height, self.fresh = {}, [0, 0], []
        self.pattern = [0, 1]  # edges of EMPTY, LEAF and the narrow ones as binary digits; digit 0 is the last column
        self.table = left_to_right.ready(_array(torch.cat(model.base(), dim=2)[0]))

    def join(self, left: int, right: int, width: int) -> int:
        """The number of the tree made of two; its row of the table is computed when it is first read."""
        narrow = width <= self.bits
        key = left, right, width if narrow else 0
        number = self.number.get(key)
        if number is None:
            number = self.number[key] = len(self.height)
            self.height.append(0 if narrow else 1 + max(self.height[left], self.height[right]))
            self.pattern.append(self.pattern[left] << width - width // 2 | self.pattern[right] if narrow else 0)  # the right half is the wider one
            self.fresh.append((self.height[number], number, *key))
        return number

    def rows(self, number_K: Sequence[int]) -> Array:
        """Rows of the table. -> [K, 2d + 5d or 20d]."""
        if max(number_K) >= len(self.height) - len(self.fresh):
            self._embed()
        return self.table[_on(number_K, self.table)]

    def _embed(self) -> None:
        """Embed the trees not yet embedded, from the lowest to the highest (equation 6)."""
        library = _library(self.table)
        while len(self.table) < len(self.height):
            self.table = library.concatenate([self.table, library.zeros_like(self.table)])
        for height, equally_high in groupby(sorted(self.fresh), lambda tree: tree[0]):
            _, number, left, right, width = zip(*equally_high)
            if height:
                hc = self.merge_children(self.table[_on(left, self.table)], self.table[_on(right, self.table)])
            else:
                signs = [[2 * (self.pattern[n] >> bit & 1) - 1 for bit in range(w)] + [0] * (self.d - w) for n, w in zip(number, width)]
                hc = library.asarray([row + row for row in signs], dtype=self.table.dtype, device=self.table.device)
            self.table[_on(number, self.table)] = self.left_to_right.ready(hc)
        self.fresh.clear()


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
        self.initial = _array(model.initial.flatten(1))
        self.state = self.initial[_on([0] * (len(width) * self.depth), self.initial)]  # a row for each graph and depth
        self.count_G = [0] * len(width)  # edges of the row so far
        self.edges: list[list[tuple[int, int]]] = [[] for _ in width]
        self.decided: list[tuple] = []
        self.waiting: list[list[tuple]] = [[], []]  # walks that have stopped at a left and at a right decision
        self.said_G = [False] * len(width)  # the last answer of each walk
        self.edge, self.left, self.right = Fused(model.has_edge), Fused(model.has_left, model.top_down), Fused(model.has_right, model.top_right)
        self.left_to_right = Joint(model.left_to_right)
        self.trees = Subtrees(model, self.left_to_right)
        if model.history:
            self.merge_blocks, self.summarise = Joint(model.merge_blocks), Joint(model.summarise)

    def run(self) -> Samples:
        """Row by row; graphs with more rows first, so that those with a row i are the first K."""
        order = sorted(range(len(self.width)), key=lambda g: -len(self.width[g]))
        n_G = np.array([len(self.width[g]) for g in order])
        codes = _array(self.model.codes(int(n_G[0]) + 1).repeat(1, 2))
        forest: dict[int, Array] = {}  # k -> the block of 2^k rows of each graph, [K, 2d]
        for i in range(n_G[0]):
            K = int((n_G > i).sum())
            state, *older = [forest[k][:K] for k in sorted(forest)] or [self.initial[_on([0] * K, self.initial)]]
            for block in older:  # from the most recent block to the oldest
                state = self.summarise(state, block)
            tree_K = self._grow(order[:K], i, state + codes[_on(n_G[:K] - i, codes)])
            if self.model.history:
                block, k = self.trees.rows(tree_K)[:, : 2 * self.d], 0
                while k in forest:  # carry, as in adding one to a binary number
                    block = self.merge_blocks(forest.pop(k)[:K], block)
                    k += 1
                forest[k] = block
        return Samples.of(self.edges, self.width, self._nll(), len(self.decided))

    # -- one row of each graph -----------------------------------------------------------------------------------

    def _grow(self, g_K: list[int], i: int, state: Array) -> list[int]:
        """Decide row i, given its states [K, 2d]. -> the number of each graph's tree [K]."""
        self.tree_G = dict.fromkeys(g_K, EMPTY)
        asked = [k for k, g in enumerate(g_K) if self.width[g][i]]
        if asked:
            g_K, state = [g_K[k] for k in asked], state[_on(asked, state)]
            self.state[_on([g * self.depth for g in g_K], state)] = state
            walks = {g: self._row(g, i) for g in g_K}
            self.go = {g: walk.send for g, walk in walks.items()}
            for walk in walks.values():
                next(walk)
            self._decide(self.edge.logits(state)[0], g_K)
            while any(self.waiting):
                kind, decide = (LEFT, self._left) if self.waiting[LEFT] else (RIGHT, self._right)
                request, self.waiting[kind] = self.waiting[kind], []
                decide(*zip(*request))
        return list(self.tree_G.values())

    def _row(self, g: int, i: int) -> Generator[None, float, None]:
        """Walk over row i."""
        self.count_G[g] = 0
        if self._says(g, i, self.width[g][i], (yield)):
            self.tree_G[g] = yield from self._node(g, i, 0, self.width[g][i], g * self.depth)
        yield

    def _node(self, g: int, i: int, lo: int, hi: int, place: int) -> Generator[None, float, int]:
        """Walk over [lo, hi) of row i, which holds an edge; returns the number of its tree.

        The state s lies at `place`. The next place is for s1 and then, once the left subtree is complete, for s3: there the child finds it.
        """
        if hi - lo == 1:
            self.edges[g].append((i, lo))
            self.count_G[g] += 1
            return LEAF
        mid = (lo + hi) // 2
        self.waiting[LEFT].append((g, place))
        has_left = self._says(g, i, mid, (yield))
        left = (yield from self._node(g, i, lo, mid, place + 1)) if has_left else EMPTY
        has_right = True
        if has_left or hi - mid > 1:  # else there is no question, and a single column needs no state
            self.waiting[RIGHT].append((g, place + 1, has_left, left))
            p = yield
            has_right = self.said_G[g] = self._says(g, i, hi, p) if has_left else True
        right = (yield from self._node(g, i, mid, hi, place + 1)) if has_right else EMPTY
        return self.trees.join(left, right, hi - lo)

    def _left(self, g_K: Sequence[int], place_K: Sequence[int]) -> None:
        """has_left (equation 8) and s1 (equation 7)."""
        place = _on(place_K, self.state)
        state = self.state[place]
        logit, gates = self.left.logits(state)
        yes = self._decide(logit, g_K)
        self.state[place + 1] = self.left.told(gates, _on(yes, state), state)

    def _right(self, g_K: Sequence[int], place_K: Sequence[int], has_left_K: Sequence[bool], left_K: Sequence[int]) -> None:
        """s2, has_right (equation 10), which is no question where there is no left child, and s3 (equation 9)."""
        place = _on(place_K, self.state)
        s2 = self.left_to_right.after(self.state[place], self.trees.rows(left_K))
        logit, gates = self.right.logits(s2)
        yes = self._decide(logit, g_K, has_left_K)
        self.state[place] = self.right.told(gates, _on(yes, s2), s2)

    # -- decisions -----------------------------------------------------------------------------------------------

    def _decide(self, logit_K: Array, g_K: Sequence[int], asked_K: Sequence[bool] | None = None) -> list[bool]:
        """Tell each walk its probability, let it go on to its next stop; -> the answers. What is not asked does not count in the likelihood."""
        z = (logit_K.cpu().numpy() if torch.is_tensor(logit_K) else logit_K).astype(np.float64)
        p = 1 / (1 + np.exp(-z))
        if self.greedy:
            p = (1 - self.greedy) * p + self.greedy * (p >= 0.5)
        go, said = self.go, self.said_G
        for g, p_g in zip(g_K, p.tolist()):
            go[g](p_g)
        yes = [said[g] for g in g_K]
        self.decided.append((g_K, z, yes, asked_K or [True] * len(yes)))
        return yes

    def _says(self, g: int, i: int, column: int, p: float) -> bool:
        """Whether there is an edge in the columns before `column`: drawn, unless the bounds leave no choice."""
        known = None if self.degree is None else self._forced(g, i, column)
        yes = self.said_G[g] = next(self.draw[g]) < p if known is None else known
        return yes

    def _forced(self, g: int, i: int, column: int) -> bool | None:
        """True if row i lacks more edges than the columns from `column` on can hold, False if it has all that it may have."""
        least, most = self.degree[g][i]
        if least - self.count_G[g] > self.width[g][i] - column:
            return True
        return False if self.count_G[g] >= most else None

    def _nll(self) -> np.ndarray:
        """The sum of -log p over all decisions that were asked for. -> float64 [G]."""
        if not self.decided:
            return np.zeros(len(self.width))
        g_K, z_K, yes_K, asked_K = zip(*self.decided)
        g, yes, asked = (np.fromiter(chain.from_iterable(part), kind) for part, kind in ((g_K, np.int64), (yes_K, bool), (asked_K, bool)))
        z = np.concatenate(z_K)
        return np.bincount(g, np.where(asked, np.logaddexp(0, np.where(yes, -z, z)), 0), len(self.width))


@torch.inference_mode()
@np.errstate(over="ignore")  # of exp, see `_cell`
def sample(model: BiGG, width: Sequence[np.ndarray], draw: Uniforms, greedy: float = 0.0, degree: Sequence[np.ndarray] | None = None) -> Samples:
    """Draw one graph for each entry of `width`, all at once. See `Sampler`."""
    return Sampler(model, width, draw, greedy, degree).run()
