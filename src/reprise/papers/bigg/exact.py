"""How exact the likelihood is, in double precision: normalised over all graphs, and equal to the recursion with its gradient."""

import copy
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import Rows, plan_batch, plan_trees
from reprise.papers.bigg.recursive import Recursion


def all_graphs(n: int) -> list[Rows]:
    """All 2^(n (n - 1) / 2) graphs on n nodes."""
    pairs = np.stack(np.tril_indices(n, -1), axis=1)
    return [Rows(n, np.arange(n), pairs[np.array(choice, dtype=bool)]) for choice in product([0, 1], repeat=len(pairs))]


def exactness(model: BiGG, rows: Sequence[Rows]) -> dict[str, float]:
    """`normalisation`: the largest |sum of p(G | n) - 1| for n = 3 and 4; `recursion`, `gradient`: the largest deviation of
    -log p and of a component of its gradient from the recursion over the graphs `rows`. `model` is a stack of one.
    """
    model = copy.deepcopy(model).double().requires_grad_(True)
    weights = list(model.parameters())
    with torch.no_grad():
        totals = [nll_of(model, all_graphs(n)).neg().exp().sum().item() for n in (3, 4)]
    ours = nll_of(model, rows)
    theirs = torch.stack([Recursion(model).observe(r) for r in rows])
    gradients = [torch.autograd.grad(nll.sum(), weights, allow_unused=True, materialize_grads=True) for nll in (ours, theirs)]
    return {
        "normalisation": max(abs(total - 1) for total in totals),
        "recursion": (ours - theirs).abs().max().item(),
        "gradient": max((a - b).abs().max().item() for a, b in zip(*gradients)),
    }


def nll_of(model: BiGG, rows: Sequence[Rows]) -> torch.Tensor:
    """-log p of each graph by a stack of one. -> [G]."""
    return model(plan_batch([plan_trees(r, model.bits) for r in rows], model.bits))[0]
