"""einsum with names of any length, groups, unit axes and checked sizes."""

import operator
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from string import ascii_letters
from typing import Any, NamedTuple

from reprise.kits.notation import backends
from reprise.kits.notation.backends import Backend, backend_of, backend_of_class
from reprise.kits.notation.caching import UNUSUAL, Unplain, cached, plan
from reprise.kits.notation.errors import Fault, shapes_text
from reprise.kits.notation.parsing import ELLIPSIS, Item, parse_side
from reprise.kits.notation.planning import as_length

_class_and_shape = operator.attrgetter("__class__", "shape")


def einsum(*tensors_and_pattern: Any, **lengths: int) -> Any:
    """A sum of products: `einsum(q, k, "batch query d, batch key d -> batch query key")`.

    Args:
        tensors_and_pattern: tensors of one library, then the pattern: for each tensor its axes, separated by commas, an
            arrow, the axes of the result. A name may stand twice in an input (its diagonal). An ellipsis broadcasts as
            usual; one that the result lacks is summed. Groups `(h d)` and unit axes split and join as in `rearrange`.
        lengths: lengths of axes that cannot be inferred.

    Raises:
        NotationError: number of tensors or dimensions, a name with two sizes (a size of 1 does not broadcast), a result
            axis that no input has, more than 52 axes.
    """
    *tensors, pattern = tensors_and_pattern or [None]
    if backends.tracing():
        return _direct(tensors, pattern, lengths)
    try:
        run = plan(_plan, pattern, *map(_class_and_shape, tensors), **lengths)
    except UNUSUAL:
        return _direct(tensors, pattern, lengths)
    return run(*tensors)


def _plan(pattern: str, /, *classes_and_shapes: tuple[type, tuple[int, ...]], **lengths: int) -> Callable[..., Any]:
    backend, *others = {backend_of_class(cls) for cls, _ in classes_and_shapes} or [None]
    if backend is None or others:
        raise Unplain("")
    shapes = [tuple(shape) for _, shape in classes_and_shapes]
    return _planned(backend, _sides(pattern, tuple(map(len, shapes))), shapes, lengths)


def _direct(tensors: list[Any], pattern: Any, lengths: Mapping[str, Any]) -> Any:
    """A call that is not usual or not right, once its arguments are made plain."""
    try:
        if not isinstance(pattern, str) or not tensors:
            raise Fault("einsum takes tensors and, as the last positional argument, a pattern")
        backend = backend_of(tensors[0])
        for i, tensor in enumerate(tensors):
            if backend_of(tensor) is not backend:
                raise Fault(f"tensor {i} is a {type(tensor).__name__}, tensor 0 a {type(tensors[0]).__name__}")
        lengths = {name: as_length(length) for name, length in lengths.items()}
        shapes = [tuple(tensor.shape) for tensor in tensors]
        run = _planned(backend, _sides(pattern, tuple([len(shape) for shape in shapes])), shapes, lengths)
    except Fault as fault:
        raise fault.error("einsum", pattern, shapes_text(tensors), lengths) from None
    return run(*tensors)


class _Sides(NamedTuple):
    """A parsed pattern with every ellipsis expanded: for each dimension the names of its axes.

    A hidden axis is called by its distance from the last one, so that ellipses of different length align on the right;
    a number, which is an axis of its own, by its operand and place.
    """

    operands: list[list[tuple[str, ...]]]
    result: list[tuple[str, ...]]
    numbers: tuple[tuple[str, int], ...]
    groups: bool  # whether any dimension is not exactly one axis


@cached
def _sides(pattern: str, ndims: tuple[int, ...]) -> _Sides:
    left, arrow, right = pattern.partition("->")
    if not arrow:
        raise Fault("there is no arrow '->' between the inputs and the result")
    if "->" in right:
        at = pattern.rindex("->")
        raise Fault("there is a second arrow", (at, at + 2))
    texts = left.split(",")
    if len(texts) != len(ndims):
        raise Fault(f"the pattern has {len(texts)} inputs, {len(ndims)} tensors are given")
    numbers: dict[str, int] = {}
    hidden_most, seen_ellipsis, offset = 0, False, 0
    operands: list[list[tuple[str, ...]]] = []
    for i, (text, ndim) in enumerate(zip(texts, ndims)):
        items = parse_side(text, offset, underscore=True, repeats=True)
        span = (offset, offset + len(text))
        offset += len(text) + 1
        if any([item is not ELLIPSIS and ELLIPSIS in item for item in items]):
            raise Fault("in an input, an ellipsis cannot stand in parentheses", span)
        hidden = ndim - len(items) + 1 if ELLIPSIS in items else 0
        if hidden < 0 or ELLIPSIS not in items and ndim != len(items):
            raise Fault(f"input {i} has {len(items) - (ELLIPSIS in items)} dimensions in the pattern, {ndim} in its tensor", span)
        seen_ellipsis |= ELLIPSIS in items
        hidden_most = max(hidden, hidden_most)
        dimensions: list[tuple[str, ...]] = []
        for item in items:
            if item is ELLIPSIS:
                dimensions += [(f"{ELLIPSIS}{k}",) for k in reversed(range(hidden))]
            else:
                dimensions.append(tuple([_numbered(axis, numbers) for axis in item]))
        operands.append(dimensions)
    at = len(left) + 2
    items = parse_side(right, at, underscore=True)
    known = {axis for dimensions in operands for dimension in dimensions for axis in dimension}
    everything = tuple([f"{ELLIPSIS}{k}" for k in reversed(range(hidden_most))])
    result = _result(items, known, everything, seen_ellipsis, (at, len(pattern)))
    groups = any([len(dimension) != 1 for dimensions in (*operands, result) for dimension in dimensions])
    return _Sides(operands, result, tuple(numbers.items()), groups)


def _numbered(axis: str | int, numbers: dict[str, int]) -> str:
    if isinstance(axis, str):
        return axis
    name = f"{axis}#{len(numbers)}"
    numbers[name] = axis
    return name


def _result(items: list[Item], known: set[str], hidden: tuple[str, ...], seen_ellipsis: bool, span: tuple[int, int]) -> list[tuple[str, ...]]:
    result: list[tuple[str, ...]] = []
    for item in items:
        for axis in (item,) if item is ELLIPSIS else item:
            if axis is ELLIPSIS and not seen_ellipsis:
                raise Fault("the ellipsis is only in the result", span)
            if axis is not ELLIPSIS and axis not in known:
                raise Fault(f"axis {axis!r} is in the result, but in no input", span)
        if item is ELLIPSIS:
            result += [(axis,) for axis in hidden]
        else:
            result.append(tuple([name for axis in item for name in (hidden if axis is ELLIPSIS else (axis,))]))
    return result


def _sizes(sides: _Sides, shapes: list[tuple[int, ...]], lengths: Mapping[str, int]) -> dict[str, int]:
    """The size of every axis, inferred over all operands; a hidden axis has the size that its operands broadcast to."""
    sizes: dict[str, Any] = {name: size for name, size in sides.numbers}  # noqa: C416  (what torch.compile can trace)
    names = {axis for dimensions in sides.operands for dimension in dimensions for axis in dimension}
    for name, length in lengths.items():
        if name not in names:
            raise Fault(f"length {name!r} is given, but no input has such an axis (names: {', '.join(sorted(names - {number for number, _ in sides.numbers}))})")
        sizes[name] = length
    waiting = [(i, dimension, size) for i, (dimensions, shape) in enumerate(zip(sides.operands, shapes)) for dimension, size in zip(dimensions, shape)]
    while waiting:
        later = []
        for i, dimension, size in waiting:
            missing = [axis for axis in dimension if axis not in sizes]
            if len(missing) > 1:
                later.append((i, dimension, size))
                continue
            known = prod([sizes[axis] for axis in dimension if axis in sizes])
            if missing:
                if len(dimension) > 1 and (known == 0 or size % known):
                    raise Fault(f"({' '.join(dimension)}) of input {i} has size {size}, which the known {known} does not divide")
                sizes[missing[0]] = size if len(dimension) == 1 else size // known
            elif known != size:
                if dimension and dimension[0].startswith(ELLIPSIS):
                    if known != 1 and size != 1:
                        raise Fault(f"the axes of the ellipsis do not broadcast: size {size} of input {i} against {known}")
                    sizes[dimension[0]] = size if known == 1 else known
                else:
                    what = f"axis {dimension[0]!r}" if len(dimension) == 1 else f"({' '.join(dimension)})"
                    raise Fault(f"{what} has size {size} in input {i}, {known} elsewhere (sizes of 1 do not broadcast)")
        if len(later) == len(waiting):
            raise Fault(f"({' '.join(later[0][1])}) of input {later[0][0]}: all of its lengths but one must be given")
        waiting = later
    return sizes


def _planned(backend: Backend, sides: _Sides, shapes: list[tuple[int, ...]], lengths: Mapping[str, int]) -> Callable:
    sizes = _sizes(sides, shapes, lengths)
    letters: dict[str, str] = {}
    for axis in [axis for dimensions in sides.operands for dimension in dimensions for axis in dimension]:
        if axis not in letters:
            if len(letters) == len(ascii_letters):
                raise Fault(f"more than {len(ascii_letters)} axes")
            letters[axis] = ascii_letters[len(letters)]
    inputs = ["".join([letters[axis] for dimension in dimensions for axis in dimension]) for dimensions in sides.operands]
    result = "".join([letters[axis] for dimension in sides.result for axis in dimension])
    run = _as_matmul(backend, inputs, result, shapes, sides.groups)
    if run is None:
        run = partial(backend.einsum, ",".join(inputs) + "->" + result)
    if not sides.groups:
        return run
    # a hidden axis never stands in a group of an input, so its own size, which may be 1, can be read off the shape
    reshape = backend.reshape
    into = []
    for dimensions, shape in zip(sides.operands, shapes):
        split = [[size] if len(dimension) == 1 else [sizes[axis] for axis in dimension] for dimension, size in zip(dimensions, shape)]
        into.append(tuple([size for part in split for size in part]))
    out = tuple([prod([sizes[axis] for axis in dimension]) for dimension in sides.result])
    return lambda *tensors: reshape(run(*[reshape(tensor, shape) for tensor, shape in zip(tensors, into)]), out)


def _as_matmul(backend: Backend, inputs: list[str], result: str, shapes: list[tuple[int, ...]], groups: bool) -> Callable | None:
    """A matrix product where the pattern is one as it stands, up to exchanging the last two axes; else None.

    It takes `batch m k, batch k n -> batch m n`, each pair in either order; the batch may be missing in one input.
    """
    if groups or len(inputs) != 2 or min(len(inputs[0]), len(inputs[1]), len(result)) < 2:
        return None
    swapped = result[-2] in inputs[1]
    (a, a_shape), (b, b_shape) = sorted(zip(inputs, shapes), key=lambda pair: result[-2] not in pair[0]) if swapped else zip(inputs, shapes)
    batch, m, n = result[:-2], result[-2], result[-1]
    if m in b or n in a or m not in a[-2:] or n not in b[-2:]:
        return None
    k = a[-2:].replace(m, "")
    if k != b[-2:].replace(n, "") or k in result or len(set(a)) < len(a) or len(set(b)) < len(b):
        return None
    if not (batch.endswith(a[:-2]) and batch.endswith(b[:-2]) and batch in (a[:-2], b[:-2])):
        return None
    if a_shape[a.index(k)] != b_shape[b.index(k)]:  # of an ellipsis that is summed: one of them broadcasts
        return None
    matmul, swap = backend.matmul, backend.swap
    flip_a, flip_b = a[-1] != k, b[-1] != n
    if swapped:
        if not flip_a and not flip_b:
            return lambda y, x: matmul(x, y)
        return lambda y, x: matmul(swap(x) if flip_a else x, swap(y) if flip_b else y)
    if not flip_a and not flip_b:
        return matmul
    if not flip_a:
        return lambda x, y: matmul(x, swap(y))
    return lambda x, y: matmul(swap(x) if flip_a else x, swap(y) if flip_b else y)


__all__ = ["einsum"]
