"""One bounded cache for the plans of all calls.

A plan is a function of tensors, made for the classes and shapes of its arguments and for the lengths given with them. The
cache tells types apart: 2.0, True and numpy's 2 equal the integer 2, but are another key, so that none of them finds its
plan. Only a plan that passed every check is entered, hence an answer never depends on what was asked before. 2000
patterns in turn fit, and memory stays below 5 MB.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from reprise.kits.notation.errors import Fault

PLANS, PATTERNS = 2048, 256
Function = TypeVar("Function", bound=Callable[..., Any])


class Unplain(Fault):
    """An argument that has to be made plain before it may be part of a key: a length that is no int, a class not seen before."""


UNUSUAL = (Fault, TypeError, AttributeError)  # for the callers of `plan`: does not fit or is not plain; has no hash; has no shape
_caches: list[Any] = []


@lru_cache(PLANS, typed=True)
def plan(make: Callable[..., Callable[..., Any]], /, *arguments: Any, **lengths: int) -> Callable[..., Any]:
    """`make(*arguments, **lengths)`, from the cache if it was made before, whatever the order of the lengths.

    Raises:
        Fault: the arguments do not fit together; `Unplain` if there is a length other than an int from 0 on.
        TypeError: an argument has no hash, such as a size that is a symbol of a tracer.
    """
    for length in lengths.values():
        if type(length) is not int or length < 0:
            raise Unplain("")
    if len(lengths) > 1 and [*lengths] != sorted(lengths):
        return plan(make, *arguments, **dict(sorted(lengths.items())))
    return make(*arguments, **lengths)


class Latest:
    """What calls that repeat themselves were last given, and their plans: a look that is quicker than `plan`.

    A hit is a lookup in `entries`, and comparisons by the caller.
    """

    def __init__(self, most: int):
        self.most = most
        self.entries: dict[Any, Any] = {}
        self.cache_clear = self.entries.clear
        _caches.append(self)

    def enter(self, key: Any, entry: Any) -> None:
        """Remember `entry`, at the cost of all others if there are too many."""
        if len(self.entries) >= self.most:
            self.entries.clear()
        self.entries[key] = entry


def cached(function: Function) -> Function:
    """A small cache for what a pattern says on its own; torch.compile runs the function while it compiles, instead of tracing it."""
    inner = lru_cache(PATTERNS)(function)
    _caches.append(inner)

    def outer(*arguments: Any) -> Any:
        if not isinstance(arguments[0], str):
            raise Fault(f"a pattern is a string, not {type(arguments[0]).__name__}")
        return inner(*arguments)

    outer.__doc__ = function.__doc__
    return at_compile_time(outer)


def at_compile_time(function: Function) -> Function:
    """Have torch.compile call `function` while it compiles: what `torch.compiler.assume_constant_result` does, without importing torch."""
    function._dynamo_marked_constant = True
    return function


def clear_caches() -> None:
    """Forget every plan; the next call of each pattern parses it anew."""
    for cache in (plan, *_caches):
        cache.cache_clear()
