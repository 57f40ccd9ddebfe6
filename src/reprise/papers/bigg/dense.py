"""The dense baseline: GraphRNN (You et al. 2018), a recurrent net over rows that starts a recurrent net over the entries of each row.

O(n^2) decisions, one for each pair of nodes at most `window` apart in the order, and O(n) sequential steps. Like BiGG it is
told n, by the encoding of the number of remaining rows.

Suffixes: S members, G graphs, R rows, M entries of a row (the window), H width of a state, T steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.papers.bigg.cells import Linear, elu, glorot, positions
from reprise.papers.bigg.draws import Samples, Uniforms


def window_of(graphs: Sequence[Graph]) -> int:
    """The furthest that an edge reaches back: the bandwidth of the graphs in their order. At least 1."""
    return max([1, *(int((g.edges[:, 0] - g.edges[:, 1]).max(initial=1)) for g in graphs)])


@dataclass(frozen=True, eq=False)
class DenseBatch:
    """Rows of several graphs, with their entries nearest first: entry j of row i is the pair (i, i - 1 - j)."""

    graphs: int
    nodes: int
    entry_GTM: torch.Tensor  # rows 0..T-1 of each graph, padded with zeros
    remaining_GT: torch.Tensor
    row: torch.Tensor  # [R] rows with an entry, g * T + i, those with more entries first
    active: list[int]  # [M] rows that have an entry j: a prefix of the above
    graph_R: torch.Tensor


def plan_dense(graphs: Sequence[Graph], window: int) -> DenseBatch:
    """Lay out a batch.

    Raises:
        ReproError: an edge reaches further back than the window, so the graph has probability zero.
    """
    if (reach := window_of(graphs)) > window:
        raise ReproError(f"an edge reaches back over {reach} nodes, but the dense model's window is {window}: take the window from these graphs too")
    T = max(g.n for g in graphs)
    entry_GTM = np.zeros((len(graphs), T, window), dtype=np.float32)
    remaining_GT = np.zeros((len(graphs), T), dtype=np.int64)
    for k, g in enumerate(graphs):
        u, v = g.edges.T
        entry_GTM[k, u, u - 1 - v] = 1
        remaining_GT[k, : g.n] = g.n - np.arange(g.n)
    index = np.concatenate([k * T + np.arange(1, g.n) for k, g in enumerate(graphs)])
    length = np.minimum(index % T, window)
    order = np.argsort(-length, kind="stable")
    index, length = index[order], length[order]
    return DenseBatch(
        graphs=len(graphs),
        nodes=sum(g.n for g in graphs),
        entry_GTM=torch.from_numpy(entry_GTM),
        remaining_GT=torch.from_numpy(remaining_GT),
        row=torch.from_numpy(index),
        active=[int((length > j).sum()) for j in range(min(window, T - 1))],
        graph_R=torch.from_numpy(index // T),
    )


class GRU(nn.Module):
    """A stack of GRU cells. Inputs [S, N, i], states [S, N, H]."""

    def __init__(self, members: int, i: int, width: int, generator: torch.Generator):
        super().__init__()
        self.width = width
        self.input = Linear(members, i, 3 * width, generator)
        self.hidden = Linear(members, width, 3 * width, generator)

    def forward(self, gates: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """One step; `gates` is `self.input` of the input, which can be computed for all steps at once."""
        H = self.width
        own = self.hidden(h)
        r, z = (gates[..., : 2 * H] + own[..., : 2 * H]).sigmoid().chunk(2, dim=-1)
        new = (gates[..., 2 * H :] + r * own[..., 2 * H :]).tanh()
        return new + z * (h - new)


class GraphRNN(nn.Module):
    """Section 2.3 of You et al.: f_trans over rows, f_out over the entries of a row.

    Args:
        members: S, models trained side by side.
        width: H of the recurrent net over rows.
        entry_width: H of the one over entries.
        window: M, entries of a row that are modelled; a graph whose edges reach further back has probability zero.
        generator: source of the initial weights.
    """

    def __init__(self, members: int, width: int, entry_width: int, window: int, generator: torch.Generator):
        super().__init__()
        self.members, self.width, self.entry_width, self.window = members, width, entry_width, window
        self.embed = Linear(members, window, width, generator)
        self.rows = GRU(members, width, width, generator)
        self.begin = Linear(members, width, entry_width, generator)
        self.answer = glorot(generator, members, 2, entry_width)  # the entry before: no edge or an edge; zeros at the first
        self.entries = GRU(members, entry_width, entry_width, generator)
        self.hidden = Linear(members, entry_width, entry_width, generator)
        self.out = Linear(members, entry_width, 1, generator)

    def row_gates(self, before_NM: torch.Tensor, remaining_N: torch.Tensor) -> torch.Tensor:
        """The gates' share of what a row is told: the row before, and how many are left. -> [S, N, 3H]."""
        codes_NH = positions(int(remaining_N.max()) + 1, self.width).to(before_NM)[remaining_N]
        return self.rows.input(elu(self.embed(before_NM.expand(self.members, -1, -1).contiguous())) + codes_NH)

    def logit(self, state_SRH: torch.Tensor) -> torch.Tensor:
        """The logit of an edge. -> [S, R]."""
        return self.out(elu(self.hidden(state_SRH))).squeeze(-1)

    def forward(self, batch: DenseBatch) -> torch.Tensor:
        """-log p(graph | n) in nats. -> [S, G]."""
        G, T, _ = batch.entry_GTM.shape
        before_GTM = F.pad(batch.entry_GTM, (0, 0, 1, 0))[:, :-1]
        gates_SGT = self.row_gates(before_GTM.flatten(0, 1), batch.remaining_GT.flatten()).view(self.members, G, T, -1)
        h, states = gates_SGT.new_zeros(self.members, batch.graphs, self.width), []
        for gates_SG in gates_SGT.unbind(2):  # n sequential steps
            h = self.rows(gates_SG, h)
            states.append(h)
        h_SRH = torch.stack(states, dim=2).flatten(1, 2).index_select(1, batch.row)
        entry_RM = batch.entry_GTM.flatten(0, 1).index_select(0, batch.row)
        s = self.begin(h_SRH).tanh()
        answers = self.entries.input(self.answer)  # [S, 2, 3H]
        nll_SG = h.new_zeros(self.members, batch.graphs)
        for j, rows in enumerate(batch.active):  # entries of all rows in step, those that have that many
            if j == 0:
                gates = self.entries.input.bias.expand(-1, rows, -1)
            else:
                gates = answers.index_select(1, entry_RM[:rows, j - 1].long())
            s = self.entries(gates, s[:, :rows])
            nll = F.softplus((1 - 2 * entry_RM[:rows, j]) * self.logit(s))
            nll_SG = nll_SG.index_add(1, batch.graph_R[:rows], nll)
        return nll_SG


@torch.no_grad()
def sample_dense(model: GraphRNN, sizes: Sequence[int], draw: Uniforms) -> Samples:
    """Draw a graph of each size from one model (a stack of one), all at once, entry by entry."""
    G, T = len(sizes), max(sizes)
    n_G = np.array(sizes)
    new = model.answer.new_zeros
    h, row_GM = new(1, G, model.width), new(G, model.window)
    nll_G, edges, batches = np.zeros(G), [[] for _ in sizes], 0
    answers = model.entries.input(model.answer)
    for i in range(T):
        gates = model.row_gates(row_GM, torch.from_numpy(np.maximum(n_G - i, 0)).to(h.device))
        h = model.rows(gates, h)
        row_GM = new(G, model.window)
        alive = np.flatnonzero(n_G > i)
        state = model.begin(h[:, alive]).tanh()
        gates = model.entries.input.bias.expand(-1, len(alive), -1)
        for j in range(min(i, model.window)):
            state = model.entries(gates, state)
            logit = model.logit(state)[0].double().cpu()
            batches += 1
            yes = np.array([next(draw[g]) for g in alive]) < logit.sigmoid().numpy()
            nll_G[alive] += F.softplus(logit).numpy() - np.where(yes, logit.numpy(), 0)
            row_GM[alive, j] = torch.from_numpy(yes).to(row_GM)
            gates = answers.index_select(1, torch.from_numpy(yes.astype(np.int64)).to(h.device))
            for g in alive[yes]:
                edges[g].append((i, i - 1 - j))
    return Samples.of(edges, [range(n) for n in sizes], nll_G, batches)
