"""Which mistakes does each implementation notice? (section 4: reliability)

For every pattern of a real network, the mistakes that people make: an input whose axes are swapped, merged, missing or too
many, lengths that are wrong in each of the usual ways. The slow interpreter says whether the mutant still means something:
then the right result is wanted (a swap of axes that fits the pattern can be noticed by nobody), else an error.

Some mistakes are about lengths that raw code has no place for; it is not asked about those.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from reprise.papers.einops.corpus import Pattern
from reprise.papers.einops.interpreter import Meaningless, interpret, read_side, spread


class Mutant(NamedTuple):
    """A call with a mistake in it: the kind of mistake, the input and the lengths."""

    kind: str
    x: Any
    lengths: Mapping[str, Any]

    def of_raw(self, pattern: Pattern) -> bool:
        """Whether raw code, which has the pattern's own lengths and no others, can make this mistake."""
        return set(self.lengths) == set(pattern.lengths)


def mutants(pattern: Pattern, x: np.ndarray) -> Iterator[Mutant]:
    """All mistakes with one pattern, whose right input is `x`."""
    lengths = pattern.lengths
    for axis in range(x.ndim - 1):
        yield Mutant("swap two axes", np.swapaxes(x, axis, axis + 1), lengths)
    for axis in range(x.ndim):
        yield Mutant("drop an axis", np.take(x, 0, axis), lengths)
    yield Mutant("add a unit axis", x[None], lengths)
    yield Mutant("add a unit axis", x[..., None], lengths)
    for axis in range(x.ndim - 1):
        yield Mutant("merge two axes", x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), lengths)
    for axis in range(x.ndim):
        yield Mutant("one entry too many", np.concatenate([x, np.take(x, [0], axis)], axis), lengths)
    for name, length in lengths.items():
        for wrong in (length - 1, length + 1):
            yield Mutant("length off by one", x, {**lengths, name: wrong})
        yield Mutant("twice the length, plus one", x, {**lengths, name: 2 * length + 1})
        yield Mutant("length off by one, as a numpy integer", x, {**lengths, name: np.int64(length + 1)})
        yield Mutant("negative length", x, {**lengths, name: -length})
        yield Mutant("length of -1, as in a reshape", x, {**lengths, name: -1})
        yield Mutant("length of zero", x, {**lengths, name: 0})
        yield Mutant("length under another name", x, {**{n: v for n, v in lengths.items() if n != name}, name + "_": length})
    for name, size in _plain_axes(pattern).items():  # no two values alike: a cache must not let one mutant speak for another
        yield Mutant("wrong length of an axis of its own", x, {**lengths, name: size + 1})
        yield Mutant("wrong length of an axis of its own, as a numpy integer", x, {**lengths, name: np.int64(size + 2)})
        yield Mutant("fraction as the length of an axis of its own", x, {**lengths, name: size + 0.5})
    yield Mutant("a length of nothing", x, {**lengths, "nothing": 2})
    yield Mutant("a list instead of a tensor", [x], lengths)


def _plain_axes(pattern: Pattern) -> dict[str, int]:
    """The named input axes that are a dimension by themselves, and their sizes."""
    side = read_side(pattern.pattern.split("->")[0])
    dimensions = spread(side, len(pattern.shape) - len(side) + (None in side))
    return {axes[0]: size for axes, size in zip(dimensions, pattern.shape) if len(axes) == 1 and axes[0].isidentifier() and axes[0] not in pattern.lengths}


def wanted(pattern: Pattern, mutant: Mutant) -> np.ndarray | None:
    """The right result of a mutant, None if the right behaviour is an error."""
    x = np.stack(mutant.x) if isinstance(mutant.x, list) else mutant.x
    try:
        return interpret(pattern.verb, x, pattern.pattern, mutant.lengths, pattern.reduction)
    except Meaningless:
        return None


def outcome(call: Callable[..., Any], mutant: Mutant, x: Any, right: np.ndarray | None) -> str:
    """`error`, `right` or `wrong`: what `call(x, **lengths)` did, `x` being the mutant's input in the library at hand."""
    try:
        result = np.asarray(call(x, **mutant.lengths))
    except Exception:  # whatever stops the program counts as noticed
        return "error"
    if right is None or result.shape != right.shape or not np.allclose(result, right, rtol=1e-12, atol=0):
        return "wrong"
    return "right"
