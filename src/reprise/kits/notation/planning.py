"""From a pattern to at most five calls on a tensor.

Every verb is   reshape to elementary axes -> reduce -> permute -> insert new axes -> reshape to output groups,

and each call that would change nothing is left out. `Recipe` holds what a pattern says for all shapes; `Recipe.sizes`
infers and checks the length of every elementary axis for one shape; `Layout` says which neighbouring axes may be
treated as one; `calls` writes down the calls.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from reprise.kits.notation.caching import cached
from reprise.kits.notation.errors import Fault
from reprise.kits.notation.parsing import ELLIPSIS, Axis, parse_pattern, span_of_axis, span_of_item

RESHAPE, REDUCE, PERMUTE, EXPAND = "reshape", "reduce", "permute", "expand"
Call = tuple[str, Any]  # (RESHAPE, shape), (REDUCE, (axes, shape before)), (PERMUTE, axes), (EXPAND, (shape with ones, shape, new axes lead))


class Layout:
    """Where each axis goes, by number: 0..n-1 are the input's elementary axes in order, n.. are new ones in output order.

    Attributes:
        n: how many axes the input has.
        inputs, outputs: the axes in each input and output dimension.
        reduced: the axes that do not survive.
        order: all axes of the output in order.
        permutation: of the axes kept, from input to output order; empty if it changes nothing.
        splits, joins: whether an input or output dimension is made of other than one axis.
        grows, leads: whether there are new axes, and whether they come before all others.
    """

    __slots__ = ("n", "inputs", "outputs", "reduced", "order", "kept", "permutation", "splits", "joins", "grows", "leads")

    def __init__(self, n: int, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]):
        self.n, self.inputs, self.outputs = n, inputs, outputs
        self.order = order = [axis for group in outputs for axis in group]
        moved = [axis for axis in order if axis < n]
        self.kept = kept = sorted(moved)
        self.reduced = () if len(kept) == n else tuple([axis for axis in range(n) if axis not in kept])
        self.permutation = () if moved == kept else tuple(moved) if len(kept) == n else tuple([kept.index(axis) for axis in moved])
        self.splits = len(inputs) != n or () in inputs
        self.joins = len(outputs) != len(order) or () in outputs
        self.grows = len(moved) < len(order)
        self.leads = self.grows and order[len(order) - len(moved) :] == moved

    def merged(self) -> tuple["Layout", list[tuple[int, ...]] | None]:
        """The same layout with fewer axes, and the old axes that make up each new one; None if nothing can be merged.

        Neighbours that stay neighbours count as one axis where that needs no reshape that was not there before: within
        one input and one output dimension always; across input dimensions if the input is split anyway; across output
        dimensions if the output is joined anyway. So no view becomes a copy, whatever the strides.
        """
        if not self.splits and not self.joins:
            return self, None
        n, order, gone = self.n, self.order, set(self.reduced)
        total = len(order) + len(gone)
        # an axis stands for the pair of itself and its successor: both in one input dimension (or new), both in one output dimension
        inside = {axis for group in self.inputs for axis in group[:-1]}.union(range(n, total - 1))
        together = {axis for group in self.outputs for axis, follower in zip(group, group[1:]) if follower == axis + 1 != n}
        glued = inside & (together | {axis for axis in gone if axis + 1 in gone})
        if len(self.inputs) != n - sum([axis < n for axis in glued]) or () in self.inputs:
            glued |= together
        if len(self.outputs) != len(order) - len(glued - gone) or () in self.outputs:
            glued |= {axis for axis, follower in zip(order, order[1:]) if follower == axis + 1 != n and axis in inside}
        if not glued:
            return self, None
        parts: list[tuple[int, ...]] = []
        number = []  # old axis -> new axis
        for axis in range(total):
            if axis - 1 in glued:
                parts[-1] += (axis,)
            else:
                parts.append((axis,))
            number.append(len(parts) - 1)
        inputs, outputs = _renumbered(self.inputs, number), _renumbered(self.outputs, number)
        return Layout(number[n - 1] + 1 if n else 0, inputs, outputs), parts

    def without_units(self, sizes: Sequence[int]) -> tuple["Layout", list[int]]:
        """The same layout without its axes of size 1, and the sizes left.

        If every reduced axis, or every new one, has size 1, one of them stays: a reduction may change the data type,
        and a repetition makes a copy.
        """
        stay = [size != 1 for size in sizes]
        for special in (self.reduced, range(self.n, len(sizes))):
            if special and not any([stay[axis] for axis in special]):
                stay[special[0]] = True
        number, left = {}, []
        for axis, size in enumerate(sizes):
            if stay[axis]:
                number[axis] = len(left)
                left.append(size)
        inputs = [tuple([number[axis] for axis in group if stay[axis]]) for group in self.inputs]
        outputs = [tuple([number[axis] for axis in group if stay[axis]]) for group in self.outputs]
        return Layout(sum(stay[: self.n]), inputs, outputs), left


def _renumbered(groups: Sequence[tuple[int, ...]], number: Sequence[int]) -> list[tuple[int, ...]]:
    """The groups in new numbers. A merged axis stands once, in the first of the dimensions that it spans."""
    seen: set[int] = set()
    result = []
    for group in groups:
        fresh = tuple([axis for axis in dict.fromkeys([number[axis] for axis in group]) if axis not in seen])
        seen.update(fresh)
        if fresh or not group:
            result.append(fresh)
    return result


def calls(layout: Layout, sizes: Sequence[int], shape: tuple[int, ...], out: tuple[int, ...]) -> list[Call]:
    """The calls that turn a tensor of `shape` into one of shape `out`, given the size of each axis of the layout."""
    result: list[Call] = []
    n = layout.n
    if layout.reduced or layout.permutation:
        elementary = tuple(sizes[:n])
        if elementary != shape:
            result.append((RESHAPE, elementary))
            shape = elementary
        if layout.reduced:
            result.append((REDUCE, (layout.reduced, shape)))
            shape = tuple([sizes[axis] for axis in layout.kept])
        if layout.permutation:
            result.append((PERMUTE, layout.permutation))
            shape = tuple([shape[axis] for axis in layout.permutation])
    if layout.grows:
        full = tuple([sizes[axis] for axis in layout.order])
        ones = tuple([sizes[axis] if axis < n else 1 for axis in layout.order])
        result.append((EXPAND, (ones, full, layout.leads and full[len(full) - len(layout.kept) :] == shape)))
        shape = full
    if out != shape:
        result.append((RESHAPE, out))
    return result


def symbolic_calls(layout: Layout, sizes: Sequence[Any], out: tuple[Any, ...]) -> list[Call]:
    """The same without looking at any size: sizes may be symbols of a tracer, whose values must stay open."""
    result: list[Call] = []
    n = layout.n
    if layout.splits and (layout.reduced or layout.permutation):
        result.append((RESHAPE, tuple(sizes[:n])))
    if layout.reduced:
        result.append((REDUCE, (layout.reduced, tuple(sizes[:n]))))
    if layout.permutation:
        result.append((PERMUTE, layout.permutation))
    if layout.grows:
        full = tuple([sizes[axis] for axis in layout.order])
        ones = tuple([sizes[axis] if axis < n else 1 for axis in layout.order])
        result.append((EXPAND, (ones, full, False)))  # a reshape that may be needless, but needs no comparison
    if layout.joins or layout.splits and not (layout.reduced or layout.permutation or layout.grows):
        result.append((RESHAPE, out))
    return result


@dataclass(slots=True)
class Recipe:
    """What a pattern says for every shape with its number of dimensions. Axes are numbered as in `Layout`."""

    verb: str
    pattern: str
    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    labels: tuple[Axis, ...]  # what each axis is called in the pattern
    n: int  # axes of the input
    layout: Layout  # after merging
    parts: list[tuple[int, ...]] | None  # the axes in each axis of the layout, if some are merged
    plain: Layout  # before merging: what a callable reduction gets to see
    known: list[int | None]  # the length of each axis as far as the pattern says it
    fixed: list[Call] | None  # the calls, if they are the same for every shape

    def sizes(self, shape: Sequence[int], lengths: Mapping[str, int]) -> list[int]:
        """The length of every axis, inferred from `shape` and checked.

        Raises:
            Fault: a length names no axis, does not fit, or cannot be inferred.
        """
        sizes = self.known.copy()
        for name, length in lengths.items():
            if name not in self.labels or name == ELLIPSIS:
                raise self._unused(name)
            sizes[self.labels.index(name)] = length
        for dimension, (group, size) in enumerate(zip(self.inputs, shape)):
            if len(group) == 1 and sizes[group[0]] is None:
                sizes[group[0]] = size
                continue
            known, unknown = 1, -1
            for axis in group:
                length = sizes[axis]
                if length is not None:
                    known *= length
                elif unknown < 0:
                    unknown = axis
                else:
                    raise self._two_unknown(dimension)
            if unknown < 0:
                if known != size:
                    raise self._mismatch(dimension, sizes, known, size)
            elif known == 0 or size % known:
                raise self._indivisible(dimension, unknown, known, size)
            else:
                sizes[unknown] = size // known
        for axis in range(self.n, len(sizes)):
            if sizes[axis] is None:
                name = self.labels[axis]
                raise Fault(f"new axis {name!r} needs a length: {name}=...", span_of_axis(self.pattern, name, "right"))
        return sizes

    def out(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The output shape."""
        result = []
        for group in self.outputs:
            length = 1
            for axis in group:
                length *= sizes[axis]
            result.append(length)
        return tuple(result)

    def calls(self, shape: tuple[int, ...], lengths: Mapping[str, int], symbolic: bool = False) -> list[Call]:
        """The fewest calls for this shape; see `sizes` for the errors."""
        if self.fixed is not None and not lengths:
            return self.fixed
        sizes = self.sizes(shape, lengths)
        out = self.out(sizes)
        if symbolic:
            return symbolic_calls(self.plain, sizes, out)
        if self.parts is not None:
            sizes = [prod([sizes[axis] for axis in part]) for part in self.parts]
        found = calls(self.layout, sizes, shape, out)
        if len(found) > 1 and 1 in sizes:
            smaller = calls(*self.layout.without_units(sizes), shape, out)
            if len(smaller) < len(found):
                return smaller
        return found

    def calls_around(self, shape: tuple[int, ...], lengths: Mapping[str, int]) -> tuple[list[Call], tuple[int, ...], tuple[int, ...], list[Call]]:
        """For a reduction that is a function: the calls before it, its axes, the shape it must leave, the calls after it.

        The function sees the axes that stay, in output order, then those it has to reduce, in input order.
        """
        sizes = self.sizes(shape, lengths)
        layout = self.plain
        everything = (*layout.order, *layout.reduced)
        seen = Layout(layout.n, layout.inputs, [(axis,) for axis in everything])
        before = calls(seen, sizes, shape, tuple([sizes[axis] for axis in everything]))
        axes = tuple(range(len(layout.order), len(everything)))
        left = tuple([sizes[axis] for axis in layout.order])
        out = self.out(sizes)
        return before, axes, left, [(RESHAPE, out)] if out != left else []

    # -- what can be wrong, in words -----------------------------------------------------------------------------

    def _unused(self, name: str) -> Fault:
        known = ", ".join(sorted({label for label in self.labels if isinstance(label, str)} - {ELLIPSIS})) or "none"
        return Fault(f"length {name!r} is given, but the pattern has no such axis (its names: {known})")

    def _group(self, dimension: int) -> str:
        return " ".join([str(self.labels[axis]) for axis in self.inputs[dimension]])

    def _two_unknown(self, dimension: int) -> Fault:
        return Fault(f"dimension {dimension} is ({self._group(dimension)}): all of its lengths but one must be given", self._span(dimension))

    def _mismatch(self, dimension: int, sizes: list[int | None], known: int, size: int) -> Fault:
        group = self.inputs[dimension]
        if not group:
            return Fault(f"dimension {dimension} must have size 1, not {size}", self._span(dimension))
        product = " * ".join([f"{self.labels[axis]}={sizes[axis]}" if isinstance(self.labels[axis], str) else str(sizes[axis]) for axis in group])
        total = f"{product} = {known}" if len(group) > 1 else product
        return Fault(f"dimension {dimension} has size {size}, the pattern says {total}", self._span(dimension))

    def _indivisible(self, dimension: int, unknown: int, known: int, size: int) -> Fault:
        if known == 0:
            return Fault(f"dimension {dimension}: {self.labels[unknown]!r} cannot be inferred beside a length of 0", self._span(dimension))
        return Fault(f"dimension {dimension} has size {size}, which {known}, the product of the given lengths in ({self._group(dimension)}), does not divide", self._span(dimension))

    def _span(self, dimension: int) -> tuple[int, int] | None:
        items = parse_pattern(self.pattern)[0]
        if ELLIPSIS in items:
            at = items.index(ELLIPSIS)
            hidden = len(self.inputs) - (len(items) - 1)
            dimension = dimension if dimension < at else max(at, dimension - hidden + 1)
        return span_of_item(self.pattern, dimension)


@cached
def recipe(pattern: str, verb: str, ndim: int) -> Recipe:
    """The recipe of a pattern for tensors of `ndim` dimensions.

    Raises:
        Fault: the pattern does not parse, breaks a rule of its verb, or wants another number of dimensions.
    """
    left, right = parse_pattern(pattern)
    hidden = _hidden(left, right, ndim, verb, pattern)
    number: dict[Axis, int] = {}
    labels: list[Axis] = []
    inputs: list[tuple[int, ...]] = []
    for item in left:
        if item is ELLIPSIS:
            inputs += [(axis,) for axis in range(len(labels), len(labels) + hidden)]
            number[ELLIPSIS] = len(labels)
            labels += [ELLIPSIS] * hidden
            continue
        start = len(labels)
        for name in item:
            if name.__class__ is str:
                number[name] = len(labels)
            elif verb != "reduce":
                raise Fault(f"the input axis {name} has no name, and only reduce may drop an axis", span_of_axis(pattern, name, "left"))
            labels.append(name)
        inputs.append(tuple(range(start, len(labels))))
    n = len(labels)
    outputs: list[tuple[int, ...]] = []
    for item in right:
        if item is ELLIPSIS:
            outputs += [(axis,) for axis in range(number[ELLIPSIS], number[ELLIPSIS] + hidden)]
            continue
        group: list[int] = []
        for name in item:
            axis = number.get(name) if name.__class__ is str else None
            if name is ELLIPSIS:
                group += range(axis, axis + hidden)
                continue
            if axis is None:
                if verb != "repeat":
                    raise Fault(f"axis {name!r} is only on the right: the input has no such axis", span_of_axis(pattern, name, "right"))
                axis = len(labels)
                if name.__class__ is str:
                    number[name] = axis
                labels.append(name)
            group.append(axis)
        outputs.append(tuple(group))
    layout = Layout(n, inputs, outputs)
    if layout.reduced and verb != "reduce":
        name = labels[layout.reduced[0]]
        raise Fault(f"axis {name!r} is only on the left, and only reduce may drop an axis", span_of_axis(pattern, name, "left"))
    merged, parts = layout.merged()
    known = [label if label.__class__ is int else None for label in labels]
    fixed = None if layout.splits or layout.joins or layout.grows or layout.reduced else [(PERMUTE, layout.permutation)] if layout.permutation else []
    return Recipe(verb, pattern, inputs, outputs, tuple(labels), n, merged, parts, layout, known, fixed)


def _hidden(left: list, right: list, ndim: int, verb: str, pattern: str) -> int:
    """How many axes the ellipsis stands for."""
    for item in left:
        if item is not ELLIPSIS and ELLIPSIS in item:
            raise Fault("on the left, an ellipsis cannot stand in parentheses: its axes could not be told apart", span_of_axis(pattern, ELLIPSIS, "left"))
    on_right = any([item is ELLIPSIS or ELLIPSIS in item for item in right])
    if ELLIPSIS not in left:
        if on_right:
            raise Fault("the ellipsis is only on the right", span_of_axis(pattern, ELLIPSIS, "right"))
        if len(left) != ndim:
            raise Fault(f"the left side has {len(left)} dimensions, the input {ndim}", (0, len(pattern.partition("->")[0].rstrip())))
        return 0
    if not on_right and verb != "reduce":
        raise Fault("the ellipsis is only on the left, and only reduce may drop axes", span_of_axis(pattern, ELLIPSIS, "left"))
    if ndim < len(left) - 1:
        raise Fault(f"the left side has at least {len(left) - 1} dimensions, the input {ndim}", (0, len(pattern.partition("->")[0].rstrip())))
    return ndim - len(left) + 1


def as_length(length: Any) -> int:
    """A length as a non-negative Python int.

    Raises:
        Fault: it is no integer (True is none), or negative.
    """
    if type(length) is int and length >= 0:
        return length
    if isinstance(length, (bool, np.bool_)):
        raise Fault(f"a length is an integer, not {length!r}")
    if type(length).__name__ != "SymInt":  # a symbol of a tracer keeps its value open
        try:
            length = operator.index(length)
        except TypeError:
            raise Fault(f"a length is an integer, not {length!r}") from None
        if length < 0:
            raise Fault(f"a length cannot be negative: {length}")
    return length
