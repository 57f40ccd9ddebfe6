"""BiGG: the likelihood of a batch of graphs in O(log n) steps, each of which works on all rows of all graphs at once.

Section 3 of the paper. Suffixes: S members of the stack, G graphs, R rows, U distinct subtrees, P pool of row blocks,
K decisions, d width of a state.
"""

import torch
from torch import nn
from torch.nn import functional as F

from reprise.papers.bigg.cells import LSTM, Head, State, TreeLSTM, glorot, joined, positions, take
from reprise.papers.bigg.plan import Batch, Join


class BiGG(nn.Module):
    """The model, `members` times with weights of their own.

    Args:
        members: S, models trained side by side on the same batches.
        d: width of a state.
        cell: `light` or `mlp`, see `cells.TreeLSTM`.
        bits: B; intervals up to B columns are given to the model as bits instead of being embedded by lr2p. 0: none.
        history: False for the ablation in which a row knows nothing of the rows before it.
        generator: source of the initial weights.

    Raises:
        ValueError: B exceeds d, so the bits do not fit into a state.
    """

    def __init__(self, members: int, d: int, cell: str, bits: int, history: bool, generator: torch.Generator):
        super().__init__()
        if bits > d:
            raise ValueError(f"bits = {bits} must not exceed d = {d}: the bits are laid into a state")
        self.members, self.d, self.bits, self.history = members, d, bits, history
        self.has_edge, self.has_left, self.has_right = (Head(members, d, generator) for _ in range(3))
        self.top_down, self.top_right = (LSTM(members, d, generator) for _ in range(2))
        self.left_to_right, self.merge_children = (TreeLSTM(members, d, cell, generator) for _ in range(2))  # l2r, lr2p
        if history:
            self.merge_blocks, self.summarise = (TreeLSTM(members, d, cell, generator) for _ in range(2))
        self.initial = glorot(generator, members, 2, d)  # h and c of the state before any row
        if not bits:
            self.empty, self.leaf = glorot(generator, members, 2, d), glorot(generator, members, 2, d)

    # -- section 3.1: the tree of a row --------------------------------------------------------------------------

    def base(self) -> State:
        """The first two entries of the table: nothing, and a single edge. With B > 0 these are bits: -1 and +1 at the last column."""
        if self.bits:
            sign = self.initial.new_zeros(self.members, 2, self.d)
            sign[:, 0, 0], sign[:, 1, 0] = -1, 1
            return sign, sign
        pair = torch.stack([self.empty, self.leaf], dim=2)  # [S, (h, c), (empty, leaf), d]
        return pair[:, 0], pair[:, 1]

    def subtrees(self, batch: Batch) -> State:
        """Bottom-up embedding of every distinct subtree, from leaves to roots (equation 6). -> [S, U, d]."""
        table = self.base()
        if len(batch.bits_U):
            raw = F.pad(batch.bits_U, (0, self.d - self.bits)).to(table[0].dtype).expand(self.members, -1, -1)
            table = joined(table, (raw, raw))
        return _grown(table, self.merge_children, batch.heights)

    # -- section 3.2: the forest of rows -------------------------------------------------------------------------

    def row_blocks(self, batch: Batch, table: State, incoming: State | None = None) -> State:
        """The pool: initial state, blocks from outside, rows, and the blocks of 2, 4, ... rows made of them. -> [S, P, d]."""
        pool = [(self.initial[:, :1], self.initial[:, 1:]), *([incoming] if incoming is not None else []), take(table, batch.tree_R)]
        return _grown(joined(*pool), self.merge_blocks, batch.merges)

    def row_states(self, batch: Batch, pool: State | None) -> State:
        """What each row knows of the rows before it, and how many are left (equation 12). -> [S, R, d], in the batch's sorted order.

        A row folds its blocks from the smallest, most recent one to the largest; t counts the blocks.
        """
        if self.history:
            ready = self.summarise.prepare(pool) if len(batch.folds) > 1 else None
            state, done = take(pool, batch.folds[0]), []
            for index in batch.folds[1:]:  # rows with more blocks stand first
                reads = len(index)
                done.append((state[0][:, reads:], state[1][:, reads:]))
                state = self.summarise((state[0][:, :reads], state[1][:, :reads]), take(ready, index))
            h_SRd, c_SRd = joined(state, *reversed(done))
        else:
            h_SRd, c_SRd = (self.initial[:, i : i + 1].expand(-1, batch.nodes, -1) for i in (0, 1))
        return self.placed((h_SRd, c_SRd), batch.remaining_R)

    def placed(self, state: State, remaining_R: torch.Tensor) -> State:
        """Add the encoding of the number of remaining rows to both h and c, so that the model knows n. [S, R, d]."""
        code_Rd = self.codes(int(remaining_R.max()) + 1)[remaining_R]
        return state[0] + code_Rd, state[1] + code_Rd

    def codes(self, n: int) -> torch.Tensor:
        """`positions(n, d)`, kept from call to call. -> at least [n, d]."""
        kept = getattr(self, "_codes", None)
        if kept is None or len(kept) < n or kept.dtype != self.initial.dtype or kept.device != self.initial.device:
            self._codes = kept = positions(2 * n, self.d).to(self.initial)
        return kept

    # -- section 3.1, top-down: the decisions --------------------------------------------------------------------

    def decisions(self, batch: Batch, table: State, row_SRd: State) -> torch.Tensor:
        """The logits of all decisions. -> [S, K]."""
        logits = [self.has_edge(row_SRd[0].index_select(1, batch.asked))]
        left_inputs, right_inputs = self.top_down.inputs(), self.top_right.inputs()
        ready = self.left_to_right.prepare(table)
        above = row_SRd
        for level in batch.levels:
            logits.append(self.has_left(above[0].index_select(1, level.source)))  # equation 8
            s1 = self.top_down(left_inputs.index_select(1, level.has_left), take(above, level.going))  # equation 7: to the left child
            s2 = self.left_to_right(s1, take(ready, level.left_tree))  # the left subtree as it turned out
            logits.append(self.has_right(s2[0].index_select(1, level.chooses)))  # equation 10; forced where there is no left child
            s3 = self.top_right(right_inputs[:, 1:], take(s2, level.descends))  # equation 9: to the right child
            above = joined(s1, s3)
        return torch.cat(logits, dim=1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """-log p(graph | n) in nats. -> [S, G]."""
        return self.with_blocks(batch)[0]

    def with_blocks(self, batch: Batch, incoming: State | None = None) -> tuple[torch.Tensor, State | None]:
        """Negative log-likelihood of the batch's rows given the blocks before them, and the blocks that are live after them.

        `incoming`: [S, batch.incoming, d], None where all row ranges begin at row 0. -> [S, G], states [S, live, d].
        """
        table = self.subtrees(batch)
        pool = self.row_blocks(batch, table, incoming) if self.history else None
        logits_SK = self.decisions(batch, table, self.row_states(batch, pool))
        nll_SK = F.softplus(-batch.sign_K.to(logits_SK.dtype) * logits_SK)
        nll_SG = nll_SK.new_zeros(self.members, batch.graphs).index_add(1, batch.graph_K, nll_SK)
        return nll_SG, take(pool, batch.outgoing) if self.history else None


def _grown(table: State, cell: TreeLSTM, joins: list[Join]) -> State:
    """Append to a table, step by step, what a cell makes of two earlier entries."""
    for join in joins:
        table = joined(table, cell(take(table, join.left), cell.prepare(take(table, join.right))))
    return table
