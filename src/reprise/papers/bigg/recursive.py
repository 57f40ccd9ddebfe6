"""The model as section 3 tells it: one row, one tree node, one decision at a time.

Slow, and the reference: `model` and `sample` must give the same numbers. One model of a stack (S = 1); a state is (h, c), each [1, 1, d].
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from reprise.papers.bigg.cells import State
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import Rows

Decide = Callable[[torch.Tensor], bool]  # logit -> answer


class Recursion:
    """Walk over a graph, observing or sampling; `nll` sums -log p of every decision, `row_states` keeps R_i."""

    def __init__(self, model: BiGG):
        self.model = model
        self.inputs = model.top_down.inputs(), model.top_right.inputs()
        self.nll = model.initial.new_zeros(())
        self.row_states: list[State] = []
        self.decisions = 0

    def observe(self, rows: Rows) -> torch.Tensor:
        """-log p of a graph. -> scalar."""
        of_row = [set() for _ in range(rows.n)]
        for i, j in rows.edges_E2.tolist():
            of_row[i].add(j)
        self._rows(rows.n, rows.width_R, lambda i: lambda lo, hi, forced: lambda _: any(lo <= j < hi for j in of_row[i]))
        return self.nll

    def sample(self, n: int, width_R, uniform: Callable[[], float]) -> list[tuple[int, int]]:
        """A graph, one uniform number per free decision: yes where it lies below p."""

        def choose(lo: int, hi: int, forced: bool) -> Decide:
            return lambda logit: forced or uniform() < logit.sigmoid().item()

        return self._rows(n, width_R, lambda i: choose)

    def _rows(self, n: int, width_R, oracle) -> list[tuple[int, int]]:
        model, edges, forest = self.model, [], {}  # forest: k -> block of 2^k rows
        for i in range(n):
            state = (model.initial[:, :1], model.initial[:, 1:])
            blocks = sorted(forest) if model.history else []
            if blocks:
                state = forest[blocks[0]]
                for k in blocks[1:]:  # from the most recent block to the oldest
                    state = model.summarise(state, model.summarise.prepare(forest[k]))
            code = model.codes(n + 1)[n - i]
            state = (state[0] + code, state[1] + code)
            self.row_states.append(state)
            width, columns = int(width_R[i]), []
            row = self._empty()
            if width and self._ask(model.has_edge, state, oracle(i)(0, width, False)):
                row = self._node(state, 0, width, oracle(i), columns)
            edges += [(i, j) for j in columns]
            k = 0
            while k in forest:  # carry, as in adding one to a binary number
                row = model.merge_blocks(forest.pop(k), model.merge_blocks.prepare(row)) if model.history else row
                k += 1
            forest[k] = row
        return edges

    def _node(self, s: State, lo: int, hi: int, choose, columns: list[int]) -> State:
        """Decide what lies in [lo, hi), which holds an edge; returns its bottom-up embedding g."""
        model, begin = self.model, len(columns)
        if hi - lo == 1:
            columns.append(lo)
            return self._given(lo, hi, columns[begin:]) if model.bits else self._base(1)
        mid = (lo + hi) // 2
        has_left = self._ask(model.has_left, s, choose(lo, mid, False))  # equation 8
        s1 = model.top_down(self.inputs[0][:, int(has_left)][:, None], s)
        left = self._node(s1, lo, mid, choose, columns) if has_left else self._empty()
        s2 = model.left_to_right(s1, model.left_to_right.prepare(left))
        has_right = self._ask(model.has_right, s2, choose(mid, hi, False)) if has_left else True
        s3 = model.top_right(self.inputs[1][:, int(has_right)][:, None], s2)
        right = self._node(s3, mid, hi, choose, columns) if has_right else self._empty()
        if hi - lo <= model.bits:
            return self._given(lo, hi, columns[begin:])
        return model.merge_children(left, model.merge_children.prepare(right))  # equation 6

    def _ask(self, head, state: State, decide: Decide) -> bool:
        logit = head(state[0]).squeeze()
        answer = bool(decide(logit))
        self.nll = self.nll + F.softplus(-logit if answer else logit)
        self.decisions += 1
        return answer

    def _base(self, entry: int) -> State:
        h, c = self.model.base()
        return h[:, entry : entry + 1], c[:, entry : entry + 1]

    def _empty(self) -> State:
        return self._base(0)

    def _given(self, lo: int, hi: int, columns: list[int]) -> State:
        """The interval as bits: offsets from the right end, +1 edge, -1 none, 0 beyond the width."""
        raw = self.model.initial.new_zeros(1, 1, self.model.d)
        raw[..., : hi - lo] = -1
        for j in columns:
            raw[..., hi - 1 - j] = 1
        return raw, raw
