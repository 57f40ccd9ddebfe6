"""The tagger: word representation, encoder, attentive augmentation, gate, CRF, S seeds at once.

Shapes: S members (seeds), B sentences, T tokens, D model size, M similar words, V source vector size, K tags,
U distinct word forms of the batch, L letters, C size of contextual features.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from reprise.papers.saner.crf import CRF
from reprise.papers.saner.encoders import encoder
from reprise.papers.saner.layers import CharCNN, Embedding, Linear, dropout, kept, stacked, uniform
from reprise.params import Params


class Architecture(Params):
    """What the tagger is made of."""

    input: Literal["random", "static", "features"] = Field(description="word vectors: learned from the labels alone, the source vectors (frozen), or frozen contextual features")
    encoder: Literal["tener", "transformer", "lstm"] = Field(description="context encoder: the paper's, a usual transformer, a BiLSTM")
    augmentation: Literal["none", "mean", "attention"] = Field(description="how similar words are weighted: not used, direct summation (mean), attention")
    fusion: Literal["none", "concat", "add", "gate"] = Field(description="how h and v meet: [h; v], g*h + (1-g)*v, or [g*h; (1-g)*v]")
    value_init: Literal["random", "source"] = Field(description="value vectors: a trained table, or the source vectors through a learned projection")
    value_std: float = Field(gt=0, description="standard deviation of the entries of a new value table, or of the source vectors before their projection; the paper's is 1")
    m: int = Field(gt=0, description="similar words of a token")
    d: int = Field(gt=0, description="model size D")
    heads: int = Field(gt=0, description="attention heads")
    layers: int = Field(gt=0, description="encoder layers")
    word_size: int = Field(ge=0, description="size of learned word vectors")
    letter_size: int = Field(ge=0, description="size of letter vectors; 0 leaves out the character encoder")
    filters: int = Field(ge=0, description="filters of the character encoder")
    letter_width: int = Field(gt=0, description="width of its convolution")
    dropout_encoder: float = Field(ge=0, lt=1, description="on attention weights and in the FFN")
    dropout_input: float = Field(ge=0, lt=1, description="on the word representation")
    dropout_augmentation: float = Field(ge=0, lt=1, description="on v")
    dropout_fusion: float = Field(ge=0, lt=1, description="on u")
    dropout_output: float = Field(ge=0, lt=1, description="before the last linear map")
    dropout_word: float = Field(ge=0, lt=1, description="share of words replaced by <unk> while training")

    @model_validator(mode="after")
    def _consistent(self):
        if (self.augmentation == "none") != (self.fusion == "none"):
            raise ValueError("augmentation and fusion are either both 'none' or neither")
        if self.d % (2 * self.heads):
            raise ValueError("d must be a multiple of twice the number of heads")
        return self


@dataclass
class Sizes:
    """What the architecture takes from the data: words (row 0 is <unk>), letters (row 0 is padding), entity types, features."""

    words: int
    letters: int
    types: int
    features: int = 0


@dataclass
class Batch:
    """Padded sentences of each member."""

    mask_SBT: torch.Tensor  # which tokens there are
    word_SBT: torch.Tensor  # row of the learned word table, 0 for words not in the training set
    row_SBT: torch.Tensor  # row of the source vectors, 0 for none
    near_SBTM: torch.Tensor  # rows of the similar words, 0 for none
    form_SBT: torch.Tensor  # place of the token's form in letters_UL
    letters_UL: torch.Tensor  # letters of the distinct forms, 0 behind the last
    feature_SBTC: torch.Tensor | None = None
    tag_SBT: torch.Tensor | None = None


class Augmentation(nn.Module):
    """Similar words, weighted by how well they fit the context: attentive semantic augmentation.

    p_ij = softmax_j(h_i . e_ij / sqrt(D)),   v_i = sum_j p_ij e_ij;   no similar word: v_i = 0

    With `source` values e = s W for fixed source vectors s, so that h . e = (h W^T) . s and v = (sum p s) W: tokens are
    projected instead of their M neighbours, and no table is trained.
    """

    def __init__(self, rngs: list[torch.Generator], a: Architecture, vectors_RV: torch.Tensor):
        super().__init__()
        self.attention, self.size = a.augmentation == "attention", a.d
        if a.value_init == "source":
            self.register_buffer("vectors", vectors_RV * (a.value_std * math.sqrt(vectors_RV.shape[1])), persistent=False)
            self.project = Linear(rngs, vectors_RV.shape[1], a.d, bias=False)
        else:
            self.values = Embedding(rngs, len(vectors_RV), a.d, a.value_std, padded=True)

    def forward(self, h_SBTD: torch.Tensor, near_SBTM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """v (S, B, T, D) and the weights p (S, B, T, M), exactly 0 where there is no neighbour."""
        source = hasattr(self, "project")
        e = nn.functional.embedding(near_SBTM, self.vectors) if source else self.values(near_SBTM)
        there = near_SBTM > 0
        score = torch.zeros(near_SBTM.shape, device=e.device)
        if self.attention:
            query = torch.bmm(h_SBTD.flatten(1, 2), self.project.weight.mT).view(*h_SBTD.shape[:3], -1) if source else h_SBTD
            score = (e @ query[..., None])[..., 0] / math.sqrt(self.size)
        p_SBTM = score.masked_fill(~there, torch.finfo(score.dtype).min).softmax(-1) * there
        v = (p_SBTM[..., None, :] @ e)[..., 0, :]
        return self.project(v) if source else v, p_SBTM


class Gate(nn.Module):
    """g = sigmoid(W1 h + W2 v + b),   u = [g * h ; (1 - g) * v] (the gate module); or g * h + (1 - g) * v."""

    def __init__(self, rngs: list[torch.Generator], size: int, additive: bool = False):
        super().__init__()
        bound = uniform(1 / math.sqrt(size))
        self.w1, self.w2 = stacked(rngs, (size, size), bound), stacked(rngs, (size, size), bound)
        self.b, self.additive = stacked(rngs, (1, size), bound), additive

    def forward(self, h_SBTD: torch.Tensor, v_SBTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """u (S, B, T, 2D), or (S, B, T, D) if additive, and g."""
        g = torch.baddbmm(self.b, torch.cat([h_SBTD, v_SBTD], -1).flatten(1, 2), torch.cat([self.w1, self.w2], 1)).sigmoid().view_as(h_SBTD)
        u = g * h_SBTD + (1 - g) * v_SBTD if self.additive else torch.cat([g * h_SBTD, (1 - g) * v_SBTD], -1)
        return u, g


class Tagger(nn.Module):
    """The whole of it, for S = len(rngs) seeds. Parts that all variants share draw first: variants pair by seed."""

    def __init__(self, rngs: list[torch.Generator], a: Architecture, sizes: Sizes, vectors_RV: torch.Tensor):
        """`vectors_RV`: source vectors, row 0 zero (no vector)."""
        super().__init__()
        self.a, width = a, 0
        self.crf = CRF(rngs, sizes.types)
        if a.letter_size:
            self.letters = CharCNN(rngs, sizes.letters, a.letter_size, a.filters, a.letter_width)
            width += a.filters
        if a.input == "random":
            self.words = Embedding(rngs, sizes.words, a.word_size, std=1 / math.sqrt(a.word_size))
            width += a.word_size
        elif a.input == "static":
            self.register_buffer("vectors", vectors_RV * math.sqrt(vectors_RV.shape[1]), persistent=False)  # entries of order 1
            width += vectors_RV.shape[1]
        else:
            width += sizes.features
        self.inputs = Linear(rngs, width, a.d)
        self.encoder = encoder(a.encoder, rngs, a.d, a.heads, a.layers, a.dropout_encoder)
        if a.augmentation != "none":
            self.augmentation = Augmentation(rngs, a, vectors_RV)
            if a.fusion != "concat":
                self.gate = Gate(rngs, a.d, additive=a.fusion == "add")
        self.output = Linear(rngs, 2 * a.d if a.fusion in ("concat", "gate") else a.d, self.crf.start.shape[-1])

    def represent(self, batch: Batch, rng: np.random.Generator | None) -> torch.Tensor:
        """x (S, B, T, D): letters and words of each token."""
        keep_SBT = batch.mask_SBT if rng is None else torch.from_numpy(kept(batch.mask_SBT.shape, self.a.dropout_word, rng)).to(batch.mask_SBT.device)
        parts = []
        if self.a.letter_size:
            letters_SUF = self.letters(batch.letters_UL)
            members, forms, _ = letters_SUF.shape
            offset = torch.arange(members, device=letters_SUF.device)[:, None, None] * forms
            parts.append(nn.functional.embedding(batch.form_SBT + offset, letters_SUF.flatten(0, 1)))
        if self.a.input == "random":
            parts.append(self.words(batch.word_SBT * keep_SBT))
        elif self.a.input == "static":
            parts.append(nn.functional.embedding(batch.row_SBT * keep_SBT, self.vectors))
        else:
            parts.append(batch.feature_SBTC.float() * keep_SBT[..., None])
        return self.inputs(dropout(torch.cat(parts, -1), self.a.dropout_input, rng))

    def forward(self, batch: Batch, rng: np.random.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Emissions log p (S, B, T, K), and the gate g (S, B, T, D) where there is one; a generator means training."""
        a, g = self.a, None
        h = self.encoder(self.represent(batch, rng), batch.mask_SBT, rng)
        u = h
        if a.augmentation != "none":
            v, _ = self.augmentation(h, batch.near_SBTM)
            v = dropout(v, a.dropout_augmentation, rng)
            u, g = (torch.cat([h, v], -1), None) if a.fusion == "concat" else self.gate(h, v)
        u = dropout(u, 1 - (1 - a.dropout_fusion) * (1 - a.dropout_output), rng)  # both at once
        return self.output(u).log_softmax(-1), g

    def loss(self, batch: Batch, rng: np.random.Generator | None) -> torch.Tensor:
        """The batch mean of the negative log-likelihood, for each member (S)."""
        emission, _ = self(batch, rng)
        return self.crf.loss(emission, batch.tag_SBT, batch.mask_SBT).mean(-1)

    @torch.no_grad()
    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The best legal tags (S, B, T) and the gate's mean over D (S, B, T), 1 without a gate."""
        emission, g = self(batch)
        return self.crf.viterbi(emission, batch.mask_SBT), torch.ones(batch.mask_SBT.shape, device=emission.device) if g is None else g.mean(-1)
