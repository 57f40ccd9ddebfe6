"""parse_shape and check_shape: names for the dimensions of a tensor."""

from typing import Any, NamedTuple

from reprise.kits.notation.caching import cached
from reprise.kits.notation.errors import Fault, shapes_text
from reprise.kits.notation.parsing import ELLIPSIS, parse_side, span_of_item
from reprise.kits.notation.planning import as_length


def parse_shape(x: Any, pattern: str) -> dict[str, int]:
    """The size of each named dimension: `parse_shape(x, "b _ h w") == {"b": 2, "h": 4, "w": 3}`.

    `_` skips a dimension and `...` any number of them; `1` or `()` must have size 1, a number its own.

    Raises:
        NotationError: another number of dimensions, another size than the number says, or axes in parentheses.
    """
    try:
        return _named(x, pattern)
    except Fault as fault:
        raise fault.error("parse_shape", pattern, shapes_text([x])) from None


def check_shape(tensor: Any, pattern: str, /, **lengths: int) -> Any:
    """The tensor itself, if its shape is `pattern` with these lengths: `x = check_shape(x, "b t c", c=3)`.

    The pattern is that of `parse_shape`.

    Raises:
        NotationError: it is not.
    """
    try:
        named = _named(tensor, pattern)
        for name, length in lengths.items():
            if name not in named:
                raise Fault(f"length {name!r} is given, but the pattern has no such axis (its names: {', '.join(sorted(named)) or 'none'})")
            if named[name] != as_length(length):
                index = next(i for i, item in enumerate(parse_side(pattern, underscore=True, repeats=True)) if item == (name,))
                raise Fault(f"dimension {name!r} has size {named[name]}, the lengths say {length}", span_of_item(pattern, index))
    except Fault as fault:
        raise fault.error("check_shape", pattern, shapes_text([tensor]), lengths) from None
    return tensor


class _Dimensions(NamedTuple):
    """What the pattern of a shape says for one number of dimensions."""

    names: tuple[tuple[str, int], ...]  # name, dimension
    sizes: tuple[tuple[int, int, int], ...]  # size that is wanted, dimension, item of the pattern


def _named(tensor: Any, pattern: str) -> dict[str, int]:
    shape = getattr(tensor, "shape", None)
    if shape is None:
        raise Fault(f"a {type(tensor).__name__} has no shape")
    names, sizes = _dimensions(pattern, len(shape))
    for wanted, dimension, item in sizes:
        if shape[dimension] != wanted:
            raise Fault(f"dimension {dimension} has size {shape[dimension]}, the pattern says {wanted}", span_of_item(pattern, item))
    return {name: shape[dimension] for name, dimension in names}


@cached
def _dimensions(pattern: str, ndim: int) -> _Dimensions:
    if "->" in pattern:
        at = pattern.index("->")
        raise Fault("one side only: there is no arrow in the pattern of a shape", (at, at + 2))
    items = parse_side(pattern, underscore=True, repeats=True)
    for index, item in enumerate(items):
        if item is not ELLIPSIS and (len(item) > 1 or ELLIPSIS in item):
            raise Fault("the pattern of a shape has no axes joined in parentheses", span_of_item(pattern, index))
    plain = len(items) - (ELLIPSIS in items)
    if ndim < plain or ndim > plain and ELLIPSIS not in items:
        raise Fault(f"the pattern has {'at least ' if ELLIPSIS in items else ''}{plain} dimensions, the tensor {ndim}")
    names: dict[str, int] = {}
    sizes = []
    dimension = 0
    for index, item in enumerate(items):
        if item is ELLIPSIS:
            dimension += ndim - plain
            continue
        name = item[0] if item else 1
        if isinstance(name, int):
            sizes.append((name, dimension, index))
        elif name in names:
            raise Fault(f"axis {name!r} stands twice", span_of_item(pattern, index))
        elif name != "_":
            names[name] = dimension
        dimension += 1
    return _Dimensions(tuple(names.items()), tuple(sizes))


__all__ = ["check_shape", "parse_shape"]
