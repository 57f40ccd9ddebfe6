"""Rearrange, Reduce, Repeat and EinMix as modules of torch."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reprise.kits.notation import verbs
from reprise.kits.notation.caching import plan
from reprise.kits.notation.errors import Fault
from reprise.kits.notation.parsing import ELLIPSIS, Item, names, parse_pattern, parse_side, span_of_axis
from reprise.kits.notation.planning import as_length

_tracing = torch.compiler.is_dynamo_compiling
_hooked = nn.modules.module._has_any_global_hook
_KEPT = 256  # shapes a layer remembers


class _Verb(nn.Module):
    """A verb with its pattern and lengths, checked when the layer is made as far as they can be without a shape."""

    verb: str
    reduction: str | Callable | None = None

    def __init__(self, pattern: str | None = None, /, **lengths: int):
        super().__init__()
        (pattern,) = verbs.by_keyword(type(self).__name__, lengths, pattern=pattern)
        try:
            left, right = parse_pattern(pattern)
            self.lengths = {name: as_length(length) for name, length in lengths.items()}
            known = set(names(left) + names(right))
            for name in self.lengths:
                if name not in known:
                    raise Fault(f"length {name!r} is given, but the pattern has no such axis (its names: {', '.join(sorted(known)) or 'none'})")
            self._check_sides(set(names(left)), set(names(right)), pattern)
        except Fault as fault:
            raise fault.error(type(self).__name__, pattern, "", lengths) from None
        self.pattern = pattern
        self._arguments: tuple[Any, ...] = (pattern,)
        self._runs: dict[tuple[type, torch.Size], Callable[[Tensor], Tensor]] = {}

    def _check_sides(self, left: set[str], right: set[str], pattern: str) -> None:
        if self.verb != "reduce" and (lost := sorted(left - right)):
            raise Fault(f"axis {lost[0]!r} is only on the left, and only reduce may drop an axis", span_of_axis(pattern, lost[0], "left"))
        if new := sorted(right - left - (set(self.lengths) if self.verb == "repeat" else set())):
            why = "new axis {!r} needs a length" if self.verb == "repeat" else "axis {!r} is only on the right: the input has no such axis"
            raise Fault(why.format(new[0]), span_of_axis(pattern, new[0], "right"))

    def __call__(self, x: Any, /) -> Tensor:
        """As any module is called; by a short cut where the shape was seen before and no hook or compiler listens."""
        try:
            run = None if _tracing() else self._runs[type(x), x.shape]
        except (KeyError, TypeError, AttributeError):
            run = None
        if run is None or self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks or _hooked() or self._compiled_call_impl:
            return super().__call__(x)
        try:
            return run(x)
        except Fault as fault:
            raise fault.error(self.verb, self.pattern, verbs.what(x), self.lengths) from None

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """The verb applied to `x`, a tensor or a list of tensors of one shape."""
        y = getattr(verbs, self.verb)(x, *self._arguments, **self.lengths)
        if not _tracing() and isinstance(x, Tensor) and isinstance(self.reduction, str | None):
            self._remember(type(x), x.shape)
        return y

    def _remember(self, cls: type, shape: torch.Size) -> None:
        if len(self._runs) >= _KEPT:
            self._runs.clear()
        try:
            self._runs[cls, shape] = plan(verbs.MAKERS[self.verb], self.pattern, cls, shape, *self._arguments[1:], **self.lengths)
        except TypeError:  # a symbolic size
            pass

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_runs": {}}  # plans are functions, which cannot be pickled, and come back by themselves

    def __repr__(self) -> str:
        lengths = [f"{name}={length}" for name, length in self.lengths.items()]
        return f"{type(self).__name__}({', '.join([*map(repr, self._arguments), *lengths])})"


class Rearrange(_Verb):
    """`rearrange` as a layer: `Rearrange("b c h w -> b (c h w)")`. Raises NotationError as the verb does."""

    verb = "rearrange"


class Repeat(_Verb):
    """`repeat` as a layer: `Repeat("b c -> b n c", n=4)`. Raises NotationError as the verb does."""

    verb = "repeat"


class Reduce(_Verb):
    """`reduce` as a layer: `Reduce("b c (h 2) (w 2) -> b c h w", "max")`; any reduction of the verb, functions included."""

    verb = "reduce"

    def __init__(self, pattern: str | None = None, reduction: verbs.Reduction | None = None, /, **lengths: int):
        pattern, reduction = verbs.by_keyword("Reduce", lengths, pattern=pattern, reduction=reduction)
        super().__init__(pattern, **lengths)
        try:
            verbs.check_reduction(reduction)
        except Fault as fault:
            raise fault.error("Reduce", pattern) from None
        self.reduction = reduction
        self._arguments = (pattern, reduction)


class EinMix(nn.Module):
    """A linear map between named axes: `EinMix("b t (h c) -> b h t d", weight_shape="h c d", bias_shape="h d", h=4, c=8, d=8)`.

    output = einsum(input, weight) + bias, the input split and the output joined as its pattern says.

    Args:
        pattern: input axes -> output axes.
        weight_shape: the axes of the weight; all need a length. Those that the output lacks are summed over.
        bias_shape: axes of the bias, all of which the output has; None for no bias.
        sizes: lengths of axes.

    Raises:
        NotationError: an axis of the output that neither input nor weight has; a weight axis in neither input nor output, or
            without a length; a length that is not used; a bias axis that the output lacks, or that comes before its ellipsis.

    The weight is uniform in +-sqrt(3 / fan_in), the bias in +-sqrt(1 / fan_in), fan_in the product of the lengths summed over.
    """

    def __init__(self, pattern: str, weight_shape: str, bias_shape: str | None = None, **sizes: int):
        super().__init__()
        self.pattern, self.weight_shape, self.bias_shape = pattern, weight_shape, bias_shape
        try:
            self.sizes = {name: as_length(size) for name, size in sizes.items()}
            left, right = parse_pattern(pattern)
            weight = _flat(weight_shape, "weight_shape")
            self._plan(left, right, weight)
            fan_in = math.prod([self.sizes[axis] for axis in weight if axis not in names(right)])
            self.weight = nn.Parameter(_uniform([self.sizes[axis] for axis in weight], math.sqrt(3 / max(fan_in, 1))))
            bias = None if bias_shape is None else self._bias_sizes(_flat(bias_shape, "bias_shape"), right)
            self.bias = None if bias is None else nn.Parameter(_uniform(bias, math.sqrt(1 / max(fan_in, 1))))
        except Fault as fault:
            raise fault.error("EinMix", pattern, "", sizes) from None

    def _plan(self, left: list[Item], right: list[Item], weight: list[str]) -> None:
        """Check the sides, and write down the layers before and after, and the einsum between them."""
        ins, outs = names(left), names(right)
        for side, items in (("left", left), ("right", right)):
            for axis in [axis for item in items if item is not ELLIPSIS for axis in item]:
                if isinstance(axis, int):
                    raise Fault(f"EinMix knows no axes without a name ({axis})", span_of_axis(self.pattern, axis, side))
        if any([ELLIPSIS in item for item in left if item is not ELLIPSIS]):
            raise Fault("on the left, an ellipsis cannot stand in parentheses", span_of_axis(self.pattern, ELLIPSIS, "left"))
        if (ELLIPSIS in ins) != (ELLIPSIS in outs):
            raise Fault("an ellipsis stands on both sides or on none", span_of_axis(self.pattern, ELLIPSIS))
        if missing := [axis for axis in outs if axis not in ins and axis not in weight]:
            raise Fault(f"axis {missing[0]!r} of the output is neither in the input nor in the weight", span_of_axis(self.pattern, missing[0], "right"))
        if idle := [axis for axis in weight if axis not in ins and axis not in outs]:
            raise Fault(f"axis {idle[0]!r} of the weight is neither in the input nor in the output")
        if unsized := [axis for axis in weight if axis not in self.sizes]:
            raise Fault(f"axis {unsized[0]!r} of the weight needs a length: {unsized[0]}=...")
        if unused := [axis for axis in self.sizes if axis not in ins and axis not in weight]:
            raise Fault(f"length {unused[0]!r} is given, but neither the input nor the weight has such an axis")
        if not weight:
            warnings.warn("EinMix: the weight has no axes, it is a single number", stacklevel=4)
        used = {axis: size for axis, size in self.sizes.items() if axis in ins}
        elementary = " ".join(ins)
        self.before = Rearrange(f"{_text(left)} -> {elementary}", **used) if _grouped(left) or used else None
        inside = {axis: size for axis, size in self.sizes.items() if axis in outs}
        self.after = Rearrange(f"{' '.join(outs)} -> {_text(right)}", **inside) if _grouped(right) else None
        order = list(dict.fromkeys([axis for axis in ins + weight if axis is not ELLIPSIS]))
        if len(order) > 52:
            raise Fault("EinMix has more than 52 axes")
        letter = {axis: "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[i] for i, axis in enumerate(order)} | {ELLIPSIS: ELLIPSIS}
        word = lambda axes: "".join([letter[axis] for axis in axes])  # noqa: E731
        self.einsum = f"{word(ins)},{word(weight)}->{word(outs)}"

    def _bias_sizes(self, bias: list[str], right: list[Item]) -> list[int]:
        """The shape of the bias: every output axis after the ellipsis, 1 where it does not depend on it."""
        outs = names(right)
        for axis in bias:
            if axis not in outs:
                raise Fault(f"axis {axis!r} of the bias is not in the output")
            if axis not in self.sizes:
                raise Fault(f"axis {axis!r} of the bias needs a length: {axis}=...")
            if ELLIPSIS in outs and outs.index(axis) < outs.index(ELLIPSIS):
                raise Fault(f"axis {axis!r} of the bias stands before the ellipsis of the output")
        after = outs[outs.index(ELLIPSIS) + 1 :] if ELLIPSIS in outs else outs
        return [self.sizes[axis] if axis in bias else 1 for axis in after]

    def forward(self, x: Tensor) -> Tensor:
        """einsum(x, weight) + bias."""
        if self.before is not None:
            x = self.before(x)
        x = torch.einsum(self.einsum, x, self.weight)
        if self.bias is not None:
            x = x + self.bias
        return x if self.after is None else self.after(x)

    def __repr__(self) -> str:
        bias = "" if self.bias_shape is None else f", {self.bias_shape!r}"
        return f"EinMix({self.pattern!r}, {self.weight_shape!r}{bias}" + "".join([f", {name}={size}" for name, size in self.sizes.items()]) + ")"


def _flat(text: Any, what: str) -> list[str]:
    """The names of a weight or bias shape, which has nothing but names."""
    if not isinstance(text, str):
        raise Fault(f"{what} is a string, not {type(text).__name__}")
    if "(" in text or ")" in text:
        raise Fault(f"{what} {text!r} has no parentheses")
    try:
        items = parse_side(text)
    except Fault as fault:
        raise Fault(f"{what} {text!r}: {fault.reason}") from None
    if not all([item and item is not ELLIPSIS and isinstance(item[0], str) for item in items]):
        raise Fault(f"{what} {text!r} has names only: no ellipsis and no numbers")
    return names(items)


def _grouped(items: list[Item]) -> bool:
    return any([item is not ELLIPSIS and (len(item) != 1 or ELLIPSIS in item) for item in items])


def _text(items: list[Item]) -> str:
    return " ".join([item if item is ELLIPSIS else f"({' '.join(map(str, item))})" if len(item) != 1 or ELLIPSIS in item else item[0] for item in items])


def _uniform(shape: list[int], bound: float) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)


__all__ = ["EinMix", "Rearrange", "Reduce", "Repeat"]
