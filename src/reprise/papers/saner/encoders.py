"""Context encoders: the adapted transformer (TENER, Yan et al. 2019) and two to compare with, a usual transformer and a BiLSTM.

All map (S, B, T, D) to (S, B, T, D). Shapes: S members, B sentences, T tokens, H heads, E = D / H head size.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from reprise.papers.saner.layers import LayerNorm, Linear, dropout, normal, stacked, uniform


def sinusoids(positions: torch.Tensor, size: int) -> torch.Tensor:
    """[sin(p f_0..), cos(p f_0..)] with f_r = 10000^(-r / (size/2 - 1)): (P) -> (P, size)."""
    half = size // 2
    frequency = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000) / max(half - 1, 1)))
    angle = positions[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


def by_key(score_TP: torch.Tensor) -> torch.Tensor:
    """From scores by offset (..., T, 2T - 1) to scores by key (..., T, T): out[i, j] = in[i, j - i + T - 1].

    Each row starts one offset earlier than the one above; padding a column and reading on in rows one shorter shifts so.
    """
    length = score_TP.shape[-2]
    flat = F.pad(score_TP, (0, 1)).flatten(-2)[..., length - 1 : length - 1 + length * (2 * length - 1)]
    return flat.unflatten(-1, (length, 2 * length - 1))[..., :length]


def attend(score_SBHTT: torch.Tensor, value_SBHTE: torch.Tensor, mask_SBT: torch.Tensor, p: float, rng: np.random.Generator | None) -> torch.Tensor:
    """softmax over the keys that are no padding, dropout, the mean of the values, heads side by side: (S, B, T, D)."""
    alpha = score_SBHTT.masked_fill(~mask_SBT[:, :, None, None], -torch.inf).softmax(-1)
    return (dropout(alpha, p, rng) @ value_SBHTE).transpose(2, 3).flatten(3)


class RelativeAttention(nn.Module):
    """Attention that knows direction and distance, without key and output projections and unscaled (TENER).

    score[i, j] = (q_i + u) . k_j + (q_i + w) . R_(j - i),   k = the head's slice of x
    """

    def __init__(self, rngs: list[torch.Generator], size: int, heads: int, p: float):
        super().__init__()
        self.heads, self.p = heads, p
        self.query_value = Linear(rngs, size, 2 * size, bias=False)
        head = size // heads
        xavier = normal(math.sqrt(2 / (heads + head)))
        self.u, self.w = (stacked(rngs, (1, 1, heads, head), xavier) for _ in "uw")

    def forward(self, x_SBTD: torch.Tensor, mask_SBT: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        query, value, key = (x.unflatten(-1, (self.heads, -1)) for x in (*self.query_value(x_SBTD).chunk(2, -1), x_SBTD))  # S, B, T, H, E
        length = x_SBTD.shape[2]
        offsets = torch.arange(1 - length, length, device=x_SBTD.device)  # key minus query
        content = (query + self.u).transpose(2, 3) @ key.permute(0, 1, 3, 4, 2)
        position = ((query + self.w).flatten(0, 3) @ sinusoids(offsets, query.shape[-1]).T).view(*query.shape[:4], -1)
        return attend(content + by_key(position.transpose(2, 3)), value.transpose(2, 3), mask_SBT, self.p, rng)


class ScaledAttention(nn.Module):
    """Dot-product attention as usual: key and output projections, divided by sqrt(E), nothing about positions."""

    def __init__(self, rngs: list[torch.Generator], size: int, heads: int, p: float):
        super().__init__()
        self.heads, self.p = heads, p
        self.project, self.out = Linear(rngs, size, 3 * size), Linear(rngs, size, size)

    def forward(self, x_SBTD: torch.Tensor, mask_SBT: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(2, 3) for x in self.project(x_SBTD).chunk(3, -1))
        return self.out(attend(query @ key.mT / math.sqrt(query.shape[-1]), value, mask_SBT, self.p, rng))


class Transformer(nn.Module):
    """Post-norm layers: x = LN(x + Attn(x)); x = LN(x + FFN(x)), FFN = Linear(D, 2D), ReLU, dropout, Linear(2D, D), dropout.

    `relative` chooses the paper's attention; otherwise the usual one, with absolute positions added to the input.
    """

    def __init__(self, rngs: list[torch.Generator], size: int, heads: int, layers: int, p: float, relative: bool = True):
        super().__init__()
        self.p, self.relative = p, relative
        attention = RelativeAttention if relative else ScaledAttention
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": attention(rngs, size, heads, p),
                    "norm1": LayerNorm(len(rngs), size),
                    "wide": Linear(rngs, size, 2 * size),
                    "narrow": Linear(rngs, 2 * size, size),
                    "norm2": LayerNorm(len(rngs), size),
                }
            )
            for _ in range(layers)
        )

    def forward(self, x_SBTD: torch.Tensor, mask_SBT: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        if not self.relative:
            x_SBTD = x_SBTD + sinusoids(torch.arange(x_SBTD.shape[2], device=x_SBTD.device), x_SBTD.shape[3])
        for layer in self.layers:
            x_SBTD = layer["norm1"](x_SBTD + layer["attention"](x_SBTD, mask_SBT, rng))
            inner = dropout(layer["wide"](x_SBTD).relu(), self.p, rng)
            x_SBTD = layer["norm2"](x_SBTD + dropout(layer["narrow"](inner), self.p, rng))
        return x_SBTD


class BiLSTM(nn.Module):
    """One bidirectional LSTM a member, D / 2 units each way; oneDNN is kept out, its bits depend on the processor."""

    def __init__(self, rngs: list[torch.Generator], size: int, layers: int, p: float):
        super().__init__()
        self.p, self.layers, self.units = p, layers, size // 2
        shapes = [(4 * self.units, size), (4 * self.units, self.units), (4 * self.units,), (4 * self.units,)]  # W_ih, W_hh, b_ih, b_hh
        draw = uniform(1 / math.sqrt(self.units))
        self.weights = nn.ParameterList(stacked(rngs, shape, draw) for _ in range(2 * layers) for shape in shapes)  # both directions of each layer

    def forward(self, x_SBTD: torch.Tensor, mask_SBT: torch.Tensor, rng: np.random.Generator | None) -> torch.Tensor:
        x_SBTD, outputs = dropout(x_SBTD, self.p, rng), []
        with torch.backends.mkldnn.flags(enabled=False):
            for s, (x_BTD, mask_BT) in enumerate(zip(x_SBTD, mask_SBT)):
                packed = nn.utils.rnn.pack_padded_sequence(x_BTD, mask_BT.sum(-1).cpu(), batch_first=True, enforce_sorted=False)
                start = x_BTD.new_zeros(2 * self.layers, len(x_BTD), self.units)
                y, _, _ = torch.lstm(packed.data, packed.batch_sizes, (start, start), [w[s] for w in self.weights], True, self.layers, 0.0, False, True)
                y = nn.utils.rnn.PackedSequence(y, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
                outputs.append(nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x_BTD.shape[1])[0])
        return dropout(torch.stack(outputs), self.p, rng)


def encoder(name: str, rngs: list[torch.Generator], size: int, heads: int, layers: int, p: float) -> nn.Module:
    """The encoder called `tener`, `transformer` or `lstm`."""
    if name == "lstm":
        return BiLSTM(rngs, size, layers, p)
    return Transformer(rngs, size, heads, layers, p, relative=name == "tener")
