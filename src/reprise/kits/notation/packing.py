"""pack and unpack: several tensors as one, and back."""

import operator
import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from reprise.kits.notation import backends
from reprise.kits.notation.backends import Backend, backend_of, backend_of_class
from reprise.kits.notation.caching import PATTERNS, UNUSUAL, Latest, Unplain, cached, plan
from reprise.kits.notation.errors import Fault, shapes_text
from reprise.kits.notation.planning import as_length

_class_and_shape = operator.attrgetter("__class__", "shape")
_packed, _unpacked = Latest(PATTERNS), Latest(PATTERNS)
_PACKED, _UNPACKED = _packed.entries, _unpacked.entries
_NOTHING, _NO_PIECES = (None, None), (None, None, None, None)
Shape = tuple[int, ...]


def pack(tensors: Sequence[Any], pattern: str) -> tuple[Any, list[Shape]]:
    """Join tensors along `*`, which stands for any number of their axes: `pack([image_HWC, mask_HW], "h w *")`.

    Args:
        tensors: of one library; the axes before and after the `*` must have equal sizes in all.
        pattern: distinct names and exactly one `*`, separated by whitespace.

    Returns:
        One tensor of as many dimensions as the pattern has items, and for each input the shape that `*` stood for.

    Raises:
        NotationError: no tensors, too few axes, sizes that differ, or a pattern that does not parse.
    """
    if backends.tracing():
        return _pack_direct(tensors, pattern)
    try:
        parts = [*tensors]
        known, run = _PACKED.get(pattern, _NOTHING)
        given = [*map(_class_and_shape, parts)]
        if given != known:
            run = plan(_plan_pack, pattern, *given)
            _packed.enter(pattern, (given, run))
    except UNUSUAL:
        return _pack_direct(tensors, pattern)
    return run(parts)


def unpack(tensor: Any, packed_shapes: Sequence[Sequence[int]], pattern: str) -> list[Any]:
    """The inverse of `pack`: a list of views, one for each shape; one -1 among all the shapes is inferred.

    Raises:
        NotationError: the shapes do not add up to the size along `*`, several -1, another number of dimensions.
    """
    if backends.tracing():
        return _unpack_direct(tensor, packed_shapes, pattern)
    try:
        for piece in packed_shapes:
            for length in piece:
                if type(length) is not int:  # True equals 1, and would find its plan
                    raise TypeError
        known, shape, latest, run = _UNPACKED.get(pattern, _NO_PIECES)
        if type(tensor) is not known or tensor.shape != shape or packed_shapes != latest:
            pieces = [*map(tuple, packed_shapes)]
            run = plan(_plan_unpack, pattern, type(tensor), tensor.shape, *pieces)
            _unpacked.enter(pattern, (type(tensor), tensor.shape, pieces, run))
    except UNUSUAL:
        return _unpack_direct(tensor, packed_shapes, pattern)
    return run(tensor)


def _plan_pack(pattern: str, *classes_and_shapes: tuple[type, Shape]) -> Callable[[Sequence[Any]], tuple[Any, list[Shape]]]:
    backend, *others = {backend_of_class(cls) for cls, _ in classes_and_shapes} or [None]
    if backend is None or others:
        raise Unplain("")
    return _packer(backend, pattern, [tuple(shape) for _, shape in classes_and_shapes])


def _pack_direct(tensors: Any, pattern: Any) -> tuple[Any, list[Shape]]:
    """A call that is not usual or not right."""
    try:
        if isinstance(tensors, (str, bytes)) or not hasattr(tensors, "__len__"):
            raise Fault(f"a {type(tensors).__name__} is no list of tensors")
        if len(tensors) == 0:
            raise Fault("the list of tensors is empty")
        parts = [*tensors]
        backend = backend_of(parts[0])
        for i, tensor in enumerate(parts):
            if backend_of(tensor) is not backend:
                raise Fault(f"tensor {i} is a {type(tensor).__name__}, tensor 0 a {type(parts[0]).__name__}")
        run = _packer(backend, pattern, [tuple(tensor.shape) for tensor in parts])
    except Fault as fault:
        raise fault.error("pack", pattern, shapes_text(tensors)) from None
    return run(parts)


def _packer(backend: Backend, pattern: Any, shapes: list[Shape]) -> Callable[[list[Any]], tuple[Any, list[Shape]]]:
    """What to do with the list of tensors, which becomes one of the parts to join."""
    before, after = _split_pattern(pattern)
    n, m = len(before), len(after)
    changed, packed = [], []
    for i, shape in enumerate(shapes):
        if len(shape) < n + m:
            raise Fault(f"tensor {i} has {len(shape)} dimensions, fewer than the {n + m} names of the pattern")
        head, middle, tail = shape[:n], shape[n : len(shape) - m], shape[len(shape) - m :]
        first = shapes[0]
        for name, here, there in zip(before + after, head + tail, first[:n] + first[len(first) - m :]):
            if here != there:
                raise Fault(f"axis {name!r} has size {here} in tensor {i}, {there} in tensor 0")
        packed.append(middle)
        if len(middle) != 1:
            changed.append((i, (*head, prod(middle), *tail)))
    reshape, concatenate = backend.reshape, backend.concatenate

    def run(parts):  # no annotations: torch.compile would have to evaluate them
        for i, shape in changed:
            parts[i] = reshape(parts[i], shape)
        return concatenate(parts, n), packed.copy()

    return run


def _plan_unpack(pattern: str, cls: type, shape: Shape, *packed_shapes: Shape) -> Callable[[Any], list[Any]]:
    return _unpacker(backend_of_class(cls), pattern, tuple(shape), packed_shapes)


def _unpack_direct(tensor: Any, packed_shapes: Any, pattern: Any) -> list[Any]:
    """A call that is not usual or not right."""
    try:
        run = _unpacker(backend_of(tensor), pattern, tuple(tensor.shape), packed_shapes)
    except Fault as fault:
        raise fault.error("unpack", pattern, f"{shapes_text([tensor])} into {packed_shapes!r}") from None
    return run(tensor)


def _unpacker(backend: Backend, pattern: Any, shape: Shape, packed_shapes: Any) -> Callable[[Any], list[Any]]:
    """What to do with the tensor: cut along the axis of `*`, and give each piece its shape."""
    before, after = _split_pattern(pattern)
    if len(shape) != len(before) + 1 + len(after):
        raise Fault(f"the pattern has {len(before) + 1 + len(after)} items, the tensor {len(shape)} dimensions")
    axis = len(before)
    try:
        wanted = [tuple([_length(n) for n in piece]) for piece in packed_shapes]
    except TypeError:
        raise Fault("packed_shapes is a list of shapes, each a list or tuple of integers") from None
    start, places, changed = 0, [], []
    for i, piece in enumerate(_inferred(wanted, shape[axis])):
        length = prod(piece)
        places.append((axis, start, length) if piece else (axis, start, None))
        if len(piece) > 1:
            changed.append((i, (*shape[:axis], *piece, *shape[axis + 1 :])))
        start += length
    cut, places = backend.cutter(places)
    reshape = backend.reshape

    def run(x):
        pieces = [cut(x, place) for place in places]
        for i, shape in changed:
            pieces[i] = reshape(pieces[i], shape)
        return pieces

    return run


def _length(n: Any) -> int:
    return -1 if not isinstance(n, bool) and n == -1 else as_length(n)


def _inferred(pieces: list[Shape], total: int) -> list[Shape]:
    """The shapes with -1 replaced by what is left of `total`."""
    open_ones = sum([piece.count(-1) for piece in pieces])
    if open_ones > 1:
        raise Fault(f"only one -1 can be inferred, there are {open_ones}")
    taken = sum([prod(piece) for piece in pieces if -1 not in piece])
    if not open_ones:
        if taken != total:
            raise Fault(f"the shapes hold {taken} entries, the packed axis {total}")
        return pieces
    at, inner = next((i, -prod(piece)) for i, piece in enumerate(pieces) if -1 in piece)
    left = total - taken
    if left < 0 or inner == 0 or left % inner:
        raise Fault(f"the shapes without -1 take {taken} of {total} entries; {left} are left, which shape {pieces[at]} cannot hold")
    return [tuple([left // inner if n == -1 else n for n in piece]) for piece in pieces]


@cached
def _split_pattern(pattern: str) -> tuple[list[str], list[str]]:
    """The names before and after the `*`."""
    words = list(re.finditer(r"\S+", pattern))
    items = [word[0] for word in words]
    for i, (item, word) in enumerate(zip(items, words)):
        if item in items[:i]:
            raise Fault(f"{'the' if item == '*' else 'axis'} {item!r} stands twice", word.span())
        if item != "*" and not (item.isidentifier() and item[0] != "_" != item[-1]):
            raise Fault(f"{item!r} is neither a name nor '*'", word.span())
    if "*" not in items:
        raise Fault("there is no '*', which stands for the axes to pack")
    at = items.index("*")
    return items[:at], items[at + 1 :]


__all__ = ["pack", "unpack"]
