"""rearrange, reduce and repeat: the calls people write, each one cache lookup away from its plan.

Whatever is not the usual call is found out when that lookup fails: a list, a length that is no plain integer, arguments
by keyword, sizes that are symbols of a tracer, and mistakes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from numpy import ndarray

from reprise.kits.notation import backends
from reprise.kits.notation.backends import REDUCTIONS, apply_callable, backend_of, backend_of_class
from reprise.kits.notation.caching import PLANS, UNUSUAL, Latest, Unplain, plan
from reprise.kits.notation.errors import Fault, NotationTypeError, shapes_text
from reprise.kits.notation.planning import as_length, recipe

Reduction = str | Callable[[Any, tuple[int, ...]], Any]
Lengths = Mapping[str, Any]

# The most frequent verb looks here first. By pattern, for calls with lengths: class, shape, lengths, plan; and for those without.
_latest, _by_shape = Latest(512), Latest(PLANS)
_LATEST, _BY_SHAPE = _latest.entries, _by_shape.entries


def rearrange(tensor: Any = None, pattern: str | None = None, /, **lengths: int) -> Any:
    """Reorder, split and join axes: `rearrange(x, "b (h p) c -> b h (p c)", p=2)`.

    Args:
        tensor: numpy array, torch tensor, array-API array, or a list of such of one shape, which are stacked on a new first axis.
        pattern: input axes -> output axes; both sides name the same axes.
        lengths: lengths of axes that cannot be inferred from the shape, or that shall be checked. An axis may have any
            name; `tensor=` and `pattern=` stand for the arguments of these names only where those are missing.

    Returns:
        The same values: a view where the framework allows, the same object if nothing changes.

    Raises:
        NotationError: the pattern does not parse, or does not fit the shape and lengths.
    """
    given, cls = tensor, type(tensor)
    if cls is not ndarray:
        if backends.tracing():
            return _traced("rearrange", tensor, pattern, None, lengths)
        if isinstance(tensor, list):
            tensor = _stacked("rearrange", tensor, pattern, lengths)
            cls = type(tensor)
    try:
        if lengths:
            for length in lengths.values():
                if type(length) is not int:  # True and 2.0 equal integers, and would find their plans
                    raise TypeError
            try:
                known, shape, latest, run = _LATEST[pattern]
            except KeyError:
                known = shape = latest = None
            if cls is not known or tensor.shape != shape or lengths != latest:
                run = plan(plan_rearrange, pattern, cls, tensor.shape, **lengths)
                _latest.enter(pattern, (cls, tensor.shape, lengths, run))
        else:
            try:
                run = _BY_SHAPE[pattern, cls, tensor.shape]
            except KeyError:
                run = plan(plan_rearrange, pattern, cls, tensor.shape)
                _by_shape.enter((pattern, cls, tensor.shape), run)
    except UNUSUAL:
        tensor, run = _unusual("rearrange", given, pattern, None, lengths)
    return run(tensor)


def repeat(tensor: Any = None, pattern: str | None = None, /, **lengths: int) -> Any:
    """Repeat along new axes: `repeat(x, "h w -> (h up) w c", up=2, c=3)`; a number is a new axis without a name.

    Args: as for `rearrange`; every new name needs a length.

    Returns:
        With new axes: for numpy a new writable array, for torch possibly a view that shares memory (do not write to it in place).

    Raises:
        NotationError: as for `rearrange`.
    """
    given, cls = tensor, type(tensor)
    if cls is not ndarray:
        if backends.tracing():
            return _traced("repeat", tensor, pattern, None, lengths)
        if isinstance(tensor, list):
            tensor = _stacked("repeat", tensor, pattern, lengths)
            cls = type(tensor)
    try:
        run = plan(plan_repeat, pattern, cls, tensor.shape, **lengths)
    except UNUSUAL:
        tensor, run = _unusual("repeat", given, pattern, None, lengths)
    return run(tensor)


def reduce(tensor: Any = None, pattern: str | None = None, reduction: Reduction | None = None, /, **lengths: int) -> Any:
    """Reduce the axes that the right side leaves out: `reduce(x, "b (h 2) (w 2) c -> b h w c", "max")`.

    Args:
        tensor, pattern, lengths: as for `rearrange`; numbers on the left are axes to reduce.
        reduction: min, max, sum, mean, prod, any, all; or a function f(tensor, axes) that sees the axes that stay, in output
            order, then those to reduce, in input order, and returns the tensor without the latter. By position or keyword.

    Raises:
        NotationError: as for `rearrange`; or the reduction is unknown, or a mean is asked of whole numbers.
    """
    if reduction is None and "reduction" in lengths:
        reduction = lengths.pop("reduction")
    given, cls = tensor, type(tensor)
    if cls is not ndarray:
        if backends.tracing():
            return _traced("reduce", tensor, pattern, reduction, lengths)
        if isinstance(tensor, list):
            tensor = _stacked("reduce", tensor, pattern, lengths)
            cls = type(tensor)
    try:
        if type(reduction) is not str:
            run = _reducer(pattern, cls, tensor.shape, reduction, lengths)
        else:
            run = plan(plan_reduce, pattern, cls, tensor.shape, reduction, **lengths)
    except UNUSUAL:
        tensor, run = _unusual("reduce", given, pattern, reduction, lengths)
    try:
        return run(tensor)
    except Fault as fault:  # about what only the call itself shows: the type of the entries, what a function makes of them
        raise fault.error("reduce", pattern, what(given), lengths) from None


# -- plans -----------------------------------------------------------------------------------------------------------


def plan_rearrange(pattern: str, cls: type, shape: tuple[int, ...], /, **lengths: int) -> Callable[[Any], Any]:
    """What `rearrange` does to a tensor of this class and shape. Raises Fault."""
    return backend_of_class(cls).chain(recipe(pattern, "rearrange", len(shape)).calls(shape, lengths))


def plan_repeat(pattern: str, cls: type, shape: tuple[int, ...], /, **lengths: int) -> Callable[[Any], Any]:
    """What `repeat` does to a tensor of this class and shape. Raises Fault."""
    return backend_of_class(cls).chain(recipe(pattern, "repeat", len(shape)).calls(shape, lengths))


def plan_reduce(pattern: str, cls: type, shape: tuple[int, ...], reduction: str, /, **lengths: int) -> Callable[[Any], Any]:
    """What `reduce` does to a tensor of this class and shape. Raises Fault."""
    check_reduction(reduction)
    return backend_of_class(cls).chain(recipe(pattern, "reduce", len(shape)).calls(shape, lengths), reduction)


def _plan_around(pattern: str, cls: type, shape: tuple[int, ...], /, **lengths: int) -> tuple:
    """For a reduction that is a function: what happens before and after it, its axes, and the shape that it has to leave."""
    before, axes, left, after = recipe(pattern, "reduce", len(shape)).calls_around(shape, lengths)
    backend = backend_of_class(cls)
    return backend.chain(before), backend.chain(after, "function"), axes, left


def _reducer(pattern: str, cls: type, shape: tuple[int, ...], function: Any, lengths: Lengths) -> Callable[[Any], Any]:
    """`reduce` with a function: its plan is cached, the function is not."""
    check_reduction(function)
    before, after, axes, left = plan(_plan_around, pattern, cls, shape, **lengths)
    return lambda x: after(apply_callable(before(x), function, axes, left) if axes else before(x))


def check_reduction(reduction: Any) -> None:
    """Raise Fault unless `reduction` is one."""
    if not callable(reduction) and reduction not in REDUCTIONS:
        raise Fault(f"unknown reduction {reduction!r}: there are {', '.join(REDUCTIONS)}, and functions f(tensor, axes)")


MAKERS = {"rearrange": plan_rearrange, "repeat": plan_repeat, "reduce": plan_reduce}

# -- the unusual -----------------------------------------------------------------------------------------------------


def _unusual(verb: str, given: Any, pattern: Any, reduction: Any, lengths: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    """The tensor, and what to call with it, once the arguments are made plain.

    Raises:
        NotationError: they cannot be.
    """
    if pattern is None:
        given, pattern = by_keyword(verb, lengths, tensor=given, pattern=pattern)
    if reduction is None and verb == "reduce":
        by_keyword(verb, lengths, reduction=reduction)
    try:
        lengths = {name: as_length(length) for name, length in lengths.items()}
        tensor = stacked(given) if isinstance(given, list) else given
        backend_of(tensor)
        if not isinstance(pattern, str):
            raise Fault(f"a pattern is a string, not {type(pattern).__name__}")
        arguments = (pattern, type(tensor), tensor.shape)
        try:
            if verb != "reduce":
                return tensor, plan(MAKERS[verb], *arguments, **lengths)
            if type(reduction) is str:
                return tensor, plan(plan_reduce, *arguments, reduction, **lengths)
            return tensor, _reducer(*arguments, reduction, lengths)
        except (TypeError, Unplain):  # sizes or lengths that are symbols
            return tensor, lambda x: _direct(verb, x, pattern, reduction, lengths)
    except Fault as fault:
        raise fault.error(verb, pattern, what(given), lengths) from None


def by_keyword(verb: str, lengths: dict[str, Any], **given: Any) -> list[Any]:
    """The arguments, those missing taken out of the keywords, which the original lets them be given by.

    Raises:
        NotationTypeError: one is missing.
    """
    for name, value in given.items():
        if value is None:
            if name not in lengths:
                raise NotationTypeError(f"{verb} needs a {name}")
            given[name] = lengths.pop(name)
    return [*given.values()]


def _stacked(verb: str, tensors: list[Any], pattern: Any, lengths: Lengths) -> Any:
    try:
        return stacked(tensors)
    except Fault as fault:
        raise fault.error(verb, pattern, what(tensors), lengths) from None


def _traced(verb: str, tensor: Any, pattern: Any, reduction: Any, lengths: dict[str, Any]) -> Any:
    """A call that torch.compile looks at."""
    given = tensor
    try:
        lengths = {name: as_length(length) for name, length in lengths.items()}
        if isinstance(tensor, list):
            tensor = stacked(tensor)
        return _direct(verb, tensor, pattern, reduction, lengths)
    except Fault as fault:
        raise fault.error(verb, pattern, what(given), lengths) from None


def _direct(verb: str, x: Any, pattern: Any, reduction: Any, lengths: Lengths) -> Any:
    """The calls themselves: no cache, and no size is hashed or compared with a constant, since it may be a symbol."""
    backend = backend_of(x)
    found = recipe(pattern, verb, len(x.shape))
    if verb == "reduce":
        check_reduction(reduction)
        if type(reduction) is not str:
            before, axes, left, after = found.calls_around(x.shape, lengths)
            x = backend.chain(before)(x)
            return backend.chain(after, "function")(apply_callable(x, reduction, axes, left) if axes else x)
    for call in found.calls(x.shape, lengths, symbolic=True):
        for function, constant in backend.lower(call, reduction):
            x = function(x, constant)
    return x


def what(given: Any) -> str:
    """What a call was given, for a message: its shape, a list of shapes; nothing for what is no tensor."""
    return f"a list of {shapes_text(given)}" if isinstance(given, list) else shapes_text([given]) if hasattr(given, "shape") else ""


def stacked(tensors: list[Any]) -> Any:
    """The tensors of a list as one with a new first axis.

    Raises:
        Fault: not tensors; an empty list; elements of different libraries or shapes.
    """
    if not tensors:
        raise Fault("the list of tensors is empty", kind=NotationTypeError)
    cls = type(tensors[0])
    backend = backend_of(tensors[0])
    for i, tensor in enumerate(tensors):
        if type(tensor) is not cls and backend_of(tensor) is not backend:
            raise Fault(f"element {i} of the list is a {type(tensor).__name__}, element 0 a {cls.__name__}")
    try:
        return backend.stack(tensors)
    except Exception:
        for i, tensor in enumerate(tensors):
            if tensor.shape != tensors[0].shape:
                raise Fault(f"element {i} of the list has shape {tuple(tensor.shape)}, element 0 has {tuple(tensors[0].shape)}") from None
        raise


def asnumpy(tensor: Any) -> Any:
    """The values of a tensor as a numpy array, detached and on the CPU; a numpy array is returned as it is.

    Raises:
        NotationError: it is no tensor.
    """
    try:
        return backend_of(tensor).asnumpy(tensor)
    except Fault as fault:
        raise fault.kind(f"asnumpy: {fault.reason}") from None


__all__ = ["asnumpy", "rearrange", "reduce", "repeat"]
