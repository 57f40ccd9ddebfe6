"""The patterns that the experiments run on.

`MODELS` are operations of real networks with the raw code that each replaces, written for numpy as people write it, with
sizes taken from the input and -1 where one is left over; `raw` translates it to torch. `ROWS` are further patterns that go
through every rule of the notation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Pattern(NamedTuple):
    """One call: the verb, its pattern, lengths and (for reduce) reduction, and the shape of a reference input."""

    name: str
    verb: str
    pattern: str
    shape: tuple[int, ...]
    lengths: dict[str, int] = {}
    reduction: str = ""
    code: str = ""  # the raw equivalent: an expression of x and the lengths, in the dialect of numpy


def _p(name: str, verb: str, pattern: str, shape: tuple[int, ...], code: str = "", reduction: str = "", **lengths: int) -> Pattern:
    return Pattern(name, verb, pattern, shape, lengths, reduction, code)


MODELS = [
    # layouts
    _p("image to channels first", "rearrange", "b h w c -> b c h w", (2, 4, 6, 3), "x.transpose(0, 3, 1, 2)"),
    _p("image to channels last", "rearrange", "b c h w -> b h w c", (2, 3, 4, 6), "x.transpose(0, 2, 3, 1)"),
    _p("batch second", "rearrange", "b t c -> t b c", (2, 5, 3), "x.transpose(1, 0, 2)"),
    _p("video to channels first", "rearrange", "b t h w c -> b c t h w", (2, 3, 4, 2, 3), "x.transpose(0, 4, 1, 2, 3)"),
    _p("transpose of the last two axes", "rearrange", "... i j -> ... j i", (2, 3, 4), "x.swapaxes(-1, -2)"),
    # flattening and its inverse
    _p("flatten before the classifier", "rearrange", "b c h w -> b (c h w)", (2, 3, 4, 6), "x.reshape(x.shape[0], -1)"),
    _p("image to a sequence of pixels", "rearrange", "b c h w -> b (h w) c", (2, 3, 4, 6), "x.reshape(x.shape[0], x.shape[1], -1).transpose(0, 2, 1)"),
    _p("sequence of pixels to image", "rearrange", "b (h w) c -> b c h w", (2, 24, 3), "x.transpose(0, 2, 1).reshape(x.shape[0], -1, h, x.shape[1] // h)", h=4),
    _p("batch and time as one", "rearrange", "b t c -> (b t) c", (2, 5, 3), "x.reshape(-1, x.shape[-1])"),
    _p("batch and time apart again", "rearrange", "(b t) c -> b t c", (10, 3), "x.reshape(-1, t, x.shape[-1])", t=5),
    _p("frames as a batch of images", "rearrange", "b t c h w -> (b t) c h w", (2, 3, 2, 4, 2), "x.reshape(-1, *x.shape[2:])"),
    _p("images back to frames", "rearrange", "(b t) c h w -> b t c h w", (6, 2, 4, 2), "x.reshape(-1, t, *x.shape[1:])", t=3),
    _p("everything but the batch", "rearrange", "b ... -> b (...)", (2, 3, 2, 4), "x.reshape(x.shape[0], -1)"),
    # attention
    _p("split heads", "rearrange", "b t (h d) -> b h t d", (2, 5, 12), "x.reshape(x.shape[0], -1, h, x.shape[2] // h).transpose(0, 2, 1, 3)", h=4),
    _p("merge heads", "rearrange", "b h t d -> b t (h d)", (2, 4, 5, 3), "x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1, x.shape[1] * x.shape[3])"),
    _p("split queries, keys and values", "rearrange", "b t (n h d) -> n b h t d", (2, 5, 24), "x.reshape(x.shape[0], x.shape[1], n, h, -1).transpose(2, 0, 3, 1, 4)", n=3, h=2),
    _p("heads into the batch", "rearrange", "b t (h d) -> (b h) t d", (2, 5, 12), "x.reshape(x.shape[0], -1, h, x.shape[2] // h).transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[2] // h)", h=4),
    _p("heads out of the batch", "rearrange", "(b h) t d -> b t (h d)", (8, 5, 3), "x.reshape(-1, h, x.shape[1], x.shape[2]).transpose(0, 2, 1, 3).reshape(-1, x.shape[1], h * x.shape[2])", h=4),
    _p("image features to heads", "rearrange", "b (h d) y x_ax -> b h (y x_ax) d", (2, 6, 2, 4), "x.reshape(x.shape[0], h, -1, x.shape[2] * x.shape[3]).swapaxes(-1, -2)", h=2),
    _p("grouped queries", "rearrange", "b t (g q d) -> b g q t d", (2, 3, 12), "x.reshape(x.shape[0], x.shape[1], g, q, -1).transpose(0, 2, 3, 1, 4)", g=2, q=3),
    _p("repeat keys for grouped queries", "repeat", "b g t d -> b (g q) t d", (2, 2, 3, 2), "x.repeat(q, 1)", q=3),
    _p("windows of attention", "rearrange", "b (n w) d -> (b n) w d", (2, 12, 3), "x.reshape(-1, w, x.shape[-1])", w=4),
    _p("windows back", "rearrange", "(b n) w d -> b (n w) d", (6, 4, 3), "x.reshape(-1, n * x.shape[1], x.shape[2])", n=3),
    _p("shifted windows of an image", "rearrange", "b (y p) (z q) c -> (b y z) (p q) c", (2, 4, 6, 2), "x.reshape(x.shape[0], -1, p, x.shape[2] // q, q, x.shape[3]).transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * q, x.shape[3])", p=2, q=3),
    _p("rotary pairs", "rearrange", "b t (d r) -> b t d r", (2, 5, 6), "x.reshape(*x.shape[:-1], -1, r)", r=2),
    _p("rotary halves", "rearrange", "... (r d) -> ... r d", (2, 5, 6), "x.reshape(*x.shape[:-1], r, -1)", r=2),
    # patches and pixels
    _p("patches of a vision transformer", "rearrange", "b c (h p) (w q) -> b (h w) (p q c)", (2, 3, 4, 6), "x.reshape(x.shape[0], x.shape[1], -1, p, x.shape[3] // q, q).transpose(0, 2, 4, 3, 5, 1).reshape(x.shape[0], -1, p * q * x.shape[1])", p=2, q=3),
    _p("patches back to an image", "rearrange", "b (h w) (p q c) -> b c (h p) (w q)", (2, 6, 12), "x.reshape(x.shape[0], h, -1, p, q, x.shape[2] // (p * q)).transpose(0, 5, 1, 3, 2, 4).reshape(x.shape[0], x.shape[2] // (p * q), h * p, -1)", h=2, p=2, q=2),
    _p("tubelets of a video", "rearrange", "b (t s) (h p) (w q) c -> b (t h w) (s p q c)", (1, 4, 4, 2, 3), "x.reshape(x.shape[0], -1, s, x.shape[2] // p, p, x.shape[3] // q, q, x.shape[4]).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape[0], -1, s * p * q * x.shape[4])", s=2, p=2, q=2),
    _p("space to depth", "rearrange", "b (h i) (w j) c -> b h w (c i j)", (2, 4, 6, 3), "x.reshape(x.shape[0], -1, i, x.shape[2] // j, j, x.shape[3]).transpose(0, 1, 3, 5, 2, 4).reshape(x.shape[0], x.shape[1] // i, x.shape[2] // j, -1)", i=2, j=2),
    _p("depth to space", "rearrange", "b h w (c i j) -> b (h i) (w j) c", (2, 2, 3, 12), "x.reshape(*x.shape[:3], -1, i, j).transpose(0, 1, 4, 2, 5, 3).reshape(x.shape[0], x.shape[1] * i, x.shape[2] * j, -1)", i=2, j=2),
    _p("pixel shuffle", "rearrange", "b (c i j) h w -> b c (h i) (w j)", (2, 8, 2, 3), "x.reshape(x.shape[0], -1, i, j, x.shape[2], x.shape[3]).transpose(0, 1, 4, 2, 5, 3).reshape(x.shape[0], -1, x.shape[2] * i, x.shape[3] * j)", i=2, j=2),
    _p("pixel unshuffle", "rearrange", "b c (h i) (w j) -> b (c i j) h w", (2, 2, 4, 6), "x.reshape(x.shape[0], x.shape[1], -1, i, x.shape[3] // j, j).transpose(0, 1, 3, 5, 2, 4).reshape(x.shape[0], -1, x.shape[2] // i, x.shape[3] // j)", i=2, j=2),
    _p("channel shuffle", "rearrange", "b (g c) h w -> b (c g) h w", (2, 6, 2, 3), "x.reshape(x.shape[0], g, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape[0], -1, *x.shape[2:])", g=3),
    _p("contact sheet of images", "rearrange", "(r k) h w c -> (r h) (k w) c", (6, 2, 3, 3), "x.reshape(r, -1, *x.shape[1:]).swapaxes(1, 2).reshape(r * x.shape[1], -1, x.shape[3])", r=2),
    _p("images side by side", "rearrange", "b h w c -> h (b w) c", (3, 2, 4, 3), "x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1, x.shape[3])"),
    _p("groups for a group norm", "rearrange", "b (g c) h w -> b g (c h w)", (2, 6, 2, 3), "x.reshape(x.shape[0], g, -1)", g=3),
    _p("back from a group norm", "rearrange", "b g (c h w) -> b (g c) h w", (2, 3, 12), "x.reshape(x.shape[0], -1, h, w)", h=2, w=3),
    _p("cut a signal into frames", "rearrange", "b (n k) c -> b n k c", (2, 12, 3), "x.reshape(x.shape[0], -1, k, x.shape[2])", k=4),
    _p("spectrum to features", "rearrange", "b f t ri -> b t (f ri)", (2, 4, 5, 2), "x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)"),
    _p("Mixer: tokens last", "rearrange", "b t c -> b c t", (2, 5, 3), "x.swapaxes(1, 2)"),
    _p("axial attention, rows", "rearrange", "b h w c -> (b h) w c", (2, 3, 4, 3), "x.reshape(-1, *x.shape[2:])"),
    _p("axial attention, columns", "rearrange", "b h w c -> (b w) h c", (2, 3, 4, 3), "x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])"),
    _p("capsules", "rearrange", "b (n d) h w -> b (n h w) d", (2, 6, 2, 3), "np.moveaxis(x.reshape(x.shape[0], -1, d, *x.shape[2:]), 2, -1).reshape(x.shape[0], -1, d)", d=3),
    # reductions
    _p("global average pooling", "reduce", "b c h w -> b c", (2, 3, 4, 6), "x.mean((2, 3))", "mean"),
    _p("global max pooling, axes kept", "reduce", "b c h w -> b c 1 1", (2, 3, 4, 6), "x.max((2, 3))[:, :, None, None]", "max"),
    _p("average pooling 2x2", "reduce", "b c (h i) (w j) -> b c h w", (2, 3, 4, 6), "x.reshape(*x.shape[:2], x.shape[2] // i, i, x.shape[3] // j, j).mean((3, 5))", "mean", i=2, j=2),
    _p("max pooling 2x3, channels last", "reduce", "b (h i) (w j) c -> b h w c", (2, 4, 6, 3), "x.reshape(x.shape[0], -1, i, x.shape[2] // j, j, x.shape[3]).max((2, 4))", "max", i=2, j=3),
    _p("max pooling in time", "reduce", "b (t k) c -> b t c", (2, 12, 3), "x.reshape(x.shape[0], -1, k, x.shape[2]).max((2,))", "max", k=3),
    _p("pooling to a fixed grid", "reduce", "b c (h i) (w j) -> b (c h w)", (2, 3, 4, 6), "x.reshape(*x.shape[:2], h, -1, w, x.shape[3] // w).mean((3, 5)).reshape(x.shape[0], -1)", "mean", h=2, w=3),
    _p("mean over all tokens", "reduce", "b t c -> b c", (2, 5, 3), "x.mean((1,))", "mean"),
    _p("sum of the loss over time", "reduce", "b t -> b", (4, 5), "x.sum((1,))", "sum"),
    _p("mean over heads", "reduce", "b h i j -> b i j", (2, 4, 3, 5), "x.mean((1,))", "mean"),
    _p("extremes of each channel", "reduce", "b c ... -> c", (2, 3, 4, 2), "x.reshape(x.shape[0], x.shape[1], -1).max((0, 2))", "max"),
    _p("maxout", "reduce", "b (c k) -> b c", (3, 8), "x.reshape(x.shape[0], -1, k).max((2,))", "max", k=4),
    _p("energy of frames", "reduce", "b (n k) -> b n", (2, 12), "x.reshape(x.shape[0], -1, k).sum((2,))", "sum", k=4),
    # repetitions
    _p("nearest upsampling", "repeat", "b c h w -> b c (h i) (w j)", (2, 3, 2, 3), "x.repeat(i, 2).repeat(j, 3)", i=2, j=2),
    _p("grey image to three channels", "repeat", "b h w -> b c h w", (2, 4, 3), "x[:, None].repeat(c, 1)", c=3),
    _p("one class token for the batch", "repeat", "t c -> b t c", (1, 4), "x[None].repeat(b, 0)", b=3),
    _p("beam search", "repeat", "b t -> (b k) t", (2, 5), "x.repeat(k, 0)", k=3),
    _p("tile a texture", "repeat", "h w c -> (r h) (s w) c", (2, 3, 2), "x[None, :, None].repeat(r, 0).repeat(s, 2).reshape(r * x.shape[0], -1, x.shape[2])", r=2, s=3),
]


def raw(pattern: Pattern, library: str) -> Callable[..., Any]:
    """The raw code of a pattern as a function of x and the lengths by name, in the dialect of numpy or torch."""
    code = pattern.code
    if library == "torch":
        for ours, theirs in ((".transpose(", ".permute("), (".max(", ".amax("), (".repeat(", ".repeat_interleave("), ("np.moveaxis", "torch.movedim")):
            code = code.replace(ours, theirs)
    names = {"np": np}
    if "torch." in code:
        import torch

        names["torch"] = torch
    return eval(f"lambda x{''.join(f', {name}' for name in pattern.lengths)}: {code}", names)  # noqa: S307  (our own table, above)


def _rows() -> list[Pattern]:
    """Every rule at least once: permutations, groups, unit axes, numbers, ellipsis, lengths given and inferred, sizes 0 and 1."""
    rows: list[Pattern] = []

    def add(verb: str, pattern: str, shape: tuple[int, ...], reduction: str = "", **lengths: int) -> None:
        rows.append(Pattern(f"row {len(rows)}", verb, pattern, shape, lengths, reduction))

    four, units, empty = (2, 3, 4, 5), (2, 1, 4, 1), (2, 0, 4, 3)
    for shape in (four, units, empty):
        for right in ("a b c d", "d c b a", "b a d c", "(a b) c d", "a (b c) d", "(d a) (c b)", "(a b c d)", "a 1 b c () d", "(b d) 1 (a c)", "c (a d b)", "(1 a) b (c 1) d"):
            add("rearrange", f"a b c d -> {right}", shape)
        for right in ("a b", "d a", "(c a)", "", "1 b 1", "(d b) c", "a b c d"):
            for reduction in ("sum", "prod", "max") if shape is four else ("sum",):
                add("reduce", f"a b c d -> {right}", shape, reduction)
        for right in ("a b c d n", "n a b c d", "(a n) b c d", "a (n b) 1 (c d)", "d (b n 2) c a", "a b c d 1", "2 (a 3) b d c n"):
            add("repeat", f"a b c d -> {right}", shape, n=2) if "n" in right else add("repeat", f"a b c d -> {right}", shape)
    for right in ("... a", "a ...", "(...) a", "(... a)", "(a ...)", "a 1 ..."):
        for shape in ((3,), (2, 3), (2, 3, 4, 3)):
            add("rearrange", f"... a -> {right}", shape)
    for right in ("a", "...", "... a", "(a ...)", ""):
        add("reduce", f"... a -> {right}", (2, 3, 4), "max")
        add("reduce", f"... a -> {right}", (4,), "sum")
    for right in ("... a n", "(n ...) a", "n ... a", "... (a n)"):
        add("repeat", f"... a -> {right}", (2, 3, 4), n=3)
        add("repeat", f"... a -> {right}", (4,), n=1)
    add("rearrange", "(a b) c -> b (c a)", (6, 4), a=2)
    add("rearrange", "(a b) c -> b (c a)", (6, 4), b=2)
    add("rearrange", "(a b) (c d) -> (a c) (b d)", (6, 4), a=2, d=2)
    add("rearrange", "(a b) (c d) -> (d b) a c", (6, 4), a=2, b=3, c=4)
    add("rearrange", "(a b c) -> c b a", (24,), a=2, c=3)
    add("rearrange", "(a b c) -> (c a) b", (24,), a=2, b=4)
    add("rearrange", "(a b) -> a b", (7,), a=1)
    add("rearrange", "(a b) -> a b", (0,), a=3)
    add("rearrange", "(a b) -> b a", (0,), a=0, b=4)
    add("rearrange", "a 1 (b 1) () -> b a", (3, 1, 4, 1))
    add("rearrange", "1 -> ", (1,))
    add("rearrange", " -> ", ())
    add("rearrange", " -> 1 ()", ())
    add("rearrange", "a1 Bc2 é -> é a1 Bc2", (2, 3, 4))
    add("rearrange", "a(b c)d->(d a)b c", (2, 6, 3), b=2)
    add("rearrange", "a b -> b a", (2, 3), a=2, b=3)
    for reduction in ("min", "max", "sum", "mean", "prod"):
        add("reduce", "a (b 2) (c 3) -> a b c", (2, 4, 6), reduction)
        add("reduce", "(a 2) 3 b 1 -> b a", (4, 3, 2, 1), reduction)
        add("reduce", "2 2 a -> a", (2, 2, 5), reduction)
        add("reduce", "a b -> (b 1) 1", (1, 3), reduction)
    add("reduce", "a b -> b a", (2, 3), "mean")
    add("reduce", "(a b) c -> b", (6, 4), "sum", a=2)
    add("reduce", "(a b) (c d) -> d a", (6, 4), "min", b=3, c=2)
    add("reduce", "a ... b -> b", (2, 3, 4, 5), "mean")
    add("reduce", "a (b c) d -> (d b)", (2, 6, 3), "max", c=3)
    add("repeat", " -> a", (), a=3)
    add("repeat", "a -> (a 2) (3 b)", (2,), b=2)
    add("repeat", "a -> a b", (3,), b=0)
    add("repeat", "a -> a b", (3,), b=1)
    add("repeat", "(a b) -> (b n a) m", (6,), a=2, n=2, m=3)
    add("repeat", "a 1 b -> a (n b)", (2, 1, 3), n=2)
    add("repeat", "a b -> b a", (2, 3))
    return rows


ROWS = _rows()


def reference(pattern: Pattern, rng: np.random.Generator) -> np.ndarray:
    """An input for a pattern: whole numbers in double precision, so that sums and products are exact in any order."""
    return rng.integers(-3, 4, pattern.shape).astype(np.float64)
