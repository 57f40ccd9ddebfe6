"""Layers with a leading axis of S members (one a seed), each with parameters of its own, and the word encoder.

Shapes: S members, B sentences, T tokens, D model size, U distinct word forms of a batch, L letters, F filters.
A layer takes one torch generator a member and draws that member's first parameters from it.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def stacked(rngs: list[torch.Generator], shape: tuple[int, ...], draw: Callable) -> nn.Parameter:
    """A parameter (S, *shape), filled for each member by `draw(empty tensor, generator)`."""
    return nn.Parameter(torch.stack([draw(torch.empty(shape), rng) for rng in rngs]))


def uniform(bound: float) -> Callable:
    """Draws from U(-bound, bound)."""
    return lambda x, rng: x.uniform_(-bound, bound, generator=rng)


def normal(std: float) -> Callable:
    """Draws from N(0, std^2)."""
    return lambda x, rng: x.normal_(0, std, generator=rng)


def kept(shape: tuple[int, ...], p: float, rng: np.random.Generator) -> np.ndarray:
    """Booleans, each False with probability p to 16 bits: one draw of the generator serves four of them."""
    count = math.prod(shape)
    bits = rng.integers(-(2**63), 2**63, -(-count // 4), np.int64).view(np.int16)
    return bits[:count].reshape(shape) >= round(p * 2**16) - 2**15


def dropout(x: torch.Tensor, p: float, rng: np.random.Generator | None) -> torch.Tensor:
    """Inverted dropout with a mask drawn on the CPU; the identity without a generator (evaluation)."""
    if rng is None or p == 0:
        return x
    scale = np.multiply(kept(x.shape, p, rng), 1 / (1 - p), dtype=np.float32)
    return x * torch.from_numpy(scale).to(x.device)


class Linear(nn.Module):
    """x W + b, (S, ..., I) -> (S, ..., O), initialised as `nn.Linear`."""

    def __init__(self, rngs: list[torch.Generator], inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = stacked(rngs, (inputs, outputs), uniform(1 / math.sqrt(inputs)))
        self.bias = stacked(rngs, (1, outputs), uniform(1 / math.sqrt(inputs))) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1, -2)
        y = torch.bmm(flat, self.weight) if self.bias is None else torch.baddbmm(self.bias, flat, self.weight)
        return y.view(*x.shape[:-1], -1)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis of (S, B, T, D) with a scale and a shift for each member."""

    def __init__(self, members: int, size: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(members, 1, 1, size)), nn.Parameter(torch.zeros(members, 1, 1, size))

    def forward(self, x_SBTD: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_SBTD, x_SBTD.shape[-1:]) * self.weight + self.bias


class Embedding(nn.Module):
    """A table of vectors for each member; row 0 is padding and stays zero if `padded`."""

    def __init__(self, rngs: list[torch.Generator], rows: int, size: int, std: float, padded: bool = False):
        super().__init__()
        self.weight, self.padded = stacked(rngs, (rows, size), normal(std)), padded
        if padded:
            with torch.no_grad():
                self.weight[:, 0] = 0

    def forward(self, ids_S: torch.Tensor) -> torch.Tensor:
        """(S, ...) row numbers -> (S, ..., size)."""
        members, rows, size = self.weight.shape
        offset = torch.arange(members, device=ids_S.device).view(-1, *[1] * (ids_S.dim() - 1)) * rows
        found = F.embedding(ids_S + offset, self.weight.view(members * rows, size))
        return found * (ids_S != 0)[..., None] if self.padded else found


class CharCNN(nn.Module):
    """Letter vectors, a convolution of odd width, the maximum over a word: (U, L) letters -> (S, U, F).

    The convolution of looked-up vectors is linear in each of them, so the products of all letters with each of the
    `width` filter slices are taken first and then looked up and added: no product depends on the number of words.
    """

    def __init__(self, rngs: list[torch.Generator], letters: int, size: int, filters: int, width: int):
        super().__init__()
        self.letters = Embedding(rngs, letters, size, std=1 / math.sqrt(size), padded=True)
        self.slices = nn.ModuleList(Linear(rngs, size, filters, bias=k == 0) for k in range(width))

    def forward(self, letters_UL: torch.Tensor) -> torch.Tensor:
        members, count, _ = self.letters.weight.shape
        vectors = self.letters(torch.arange(count, device=letters_UL.device).expand(members, -1))
        side = len(self.slices) // 2
        padded = F.pad(letters_UL, (side, side))
        total = 0
        for k, linear in enumerate(self.slices):
            products = linear(vectors).transpose(0, 1).flatten(1)  # letters x (S F): one lookup serves all members
            if k == side:  # a place without a letter is no place of the maximum
                products = F.pad(products[1:], (0, 0, 1, 0), value=-torch.inf)
            total = total + F.embedding(padded[:, k : k + letters_UL.shape[1]], products)
        return total.amax(1).unflatten(-1, (members, -1)).transpose(0, 1)
