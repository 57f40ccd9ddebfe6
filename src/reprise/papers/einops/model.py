"""One small vision network, its tensor operations written three times: raw, with the official package, with ours.

Shapes: B images, T tokens, D features, H heads, K features of a head, P patch side, F hidden features of the mixer.

    patches -> D features each -> blocks of (attention, mixing of tokens, mixing of features) -> mean over tokens -> classes

The mixing layers are EinMix: a linear map between named axes (section 6). All three have the same parameters under the same
names, so the same weights can be loaded into each.
"""

from types import ModuleType
from typing import Protocol

import einops
import einops.layers.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reprise.kits import notation
from reprise.kits.notation.layers import torch as layers

CLASSES = 10


class Operations(Protocol):
    """What a way of writing tensor code has to offer."""

    def patches(self, x: Tensor, side: int) -> Tensor:
        """(B, height, width) -> (B, T, P * P)."""

    def split_heads(self, x: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 3 * H * K) -> queries, keys and values of shape (B, H, T, K)."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, H, T, K) twice -> (B, H, T, T)."""

    def merge_heads(self, weights: Tensor, v: Tensor) -> Tensor:
        """(B, H, T, T) and (B, H, T, K) -> (B, T, H * K)."""

    def pool(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D), the mean over tokens."""

    def mix_tokens(self, tokens: int, hidden: int) -> nn.Module:
        """A linear map over T: (B, T, D) -> (B, F, D)."""

    def mix_features(self, features: int, hidden: int) -> nn.Module:
        """A linear map over D: (B, T, D) -> (B, T, F)."""


class Raw:
    """Reshapes and permutations written out."""

    def patches(self, x, side):
        b, h, w = x.shape
        return x.reshape(b, h // side, side, w // side, side).permute(0, 1, 3, 2, 4).reshape(b, -1, side * side)

    def split_heads(self, x, heads):
        b, t, _ = x.shape
        return x.reshape(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def scores(self, q, k):
        return q @ k.transpose(-1, -2)

    def merge_heads(self, weights, v):
        b, h, t, k = v.shape
        return (weights @ v).transpose(1, 2).reshape(b, t, h * k)

    def pool(self, x):
        return x.mean(1)

    def mix_tokens(self, tokens, hidden):
        return RawMix((tokens, hidden), (hidden, 1), "btd,tf->bfd")

    def mix_features(self, features, hidden):
        return RawMix((features, hidden), (1, hidden), "btd,df->btf")


class RawMix(nn.Module):
    """A linear map by einsum, with the parameters that an EinMix of the same meaning has."""

    def __init__(self, weight: tuple[int, ...], bias: tuple[int, ...], subscripts: str):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(weight))
        self.bias = nn.Parameter(torch.empty(1, *bias))
        self.subscripts = subscripts

    def forward(self, x: Tensor) -> Tensor:
        """einsum(x, weight) + bias."""
        return torch.einsum(self.subscripts, x, self.weight) + self.bias


class Named:
    """The same in the notation, by a package that has it."""

    def __init__(self, package: ModuleType, layer_package: ModuleType):
        self.package, self.layers = package, layer_package

    def patches(self, x, side):
        return self.package.rearrange(x, "b (h p) (w q) -> b (h w) (p q)", p=side, q=side)

    def split_heads(self, x, heads):
        return self.package.rearrange(x, "b t (n h k) -> n b h t k", n=3, h=heads)

    def scores(self, q, k):
        return self.package.einsum(q, k, "b h i k, b h j k -> b h i j")

    def merge_heads(self, weights, v):
        return self.package.rearrange(self.package.einsum(weights, v, "b h i j, b h j k -> b h i k"), "b h t k -> b t (h k)")

    def pool(self, x):
        return self.package.reduce(x, "b t d -> b d", "mean")

    def mix_tokens(self, tokens, hidden):
        return self.layers.EinMix("b t d -> b f d", weight_shape="t f", bias_shape="f", t=tokens, f=hidden)

    def mix_features(self, features, hidden):
        return self.layers.EinMix("b t d -> b t f", weight_shape="d f", bias_shape="f", d=features, f=hidden)


OPERATIONS: dict[str, Operations] = {
    "raw": Raw(),
    "official": Named(einops, einops.layers.torch),
    "ours": Named(notation, layers),
}


class Block(nn.Module):
    """Attention, then an MLP over tokens and one over features, each added to its input."""

    def __init__(self, ops: Operations, tokens: int, features: int, hidden: int, heads: int):
        super().__init__()
        self.ops, self.heads = ops, heads
        self.qkv = ops.mix_features(features, 3 * features)
        self.out = ops.mix_features(features, features)
        self.tokens = nn.ModuleList([ops.mix_tokens(tokens, hidden), ops.mix_tokens(hidden, tokens)])
        self.features = nn.ModuleList([ops.mix_features(features, hidden), ops.mix_features(hidden, features)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = self.ops.split_heads(self.qkv(F.layer_norm(x, x.shape[-1:])), self.heads)
        weights = (self.ops.scores(q, k) * q.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out(self.ops.merge_heads(weights, v))
        for first, second in (self.tokens, self.features):
            x = x + second(F.relu(first(F.layer_norm(x, x.shape[-1:]))))
        return x


class Network(nn.Module):
    """Images (B, side, side) -> logits (B, classes)."""

    def __init__(self, ops: Operations, side: int, patch: int, features: int, hidden: int, heads: int, blocks: int):
        super().__init__()
        self.ops, self.patch = ops, patch
        tokens = (side // patch) ** 2
        self.embed = ops.mix_features(patch * patch, features)
        self.position = nn.Parameter(torch.empty(tokens, features))
        self.blocks = nn.Sequential(*[Block(ops, tokens, features, hidden, heads) for _ in range(blocks)])
        self.head = ops.mix_features(features, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.embed(self.ops.patches(x, self.patch)) + self.position
        pooled = self.ops.pool(self.blocks(tokens))
        return self.head(pooled[:, None])[:, 0]

    def start(self, generator: torch.Generator) -> "Network":
        """Draw all parameters anew, uniform in +-1 / sqrt(fan in) as by name and order, so that equal seeds give equal weights."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan_in = parameter.shape[0] if name.endswith("weight") else parameter.numel()
                parameter.copy_((torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1) * fan_in**-0.5)
        return self
