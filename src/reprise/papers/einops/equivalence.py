"""One pattern, the same values everywhere: ours, the official package and raw code on three kinds of arrays."""

from collections.abc import Callable, Iterator
from typing import Any

import einops
import numpy as np

from reprise.kits import notation
from reprise.papers.einops.corpus import Pattern, reference
from reprise.papers.einops.interpreter import Meaningless, interpret
from reprise.papers.einops.packages import LIBRARIES, convert, implementation, values

IMPLEMENTATIONS = ("ours", "official", "raw")


TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "int64": 0.0}


def compare(pattern: Pattern, rng: np.random.Generator) -> Iterator[tuple[str, str, str, bool]]:
    """(implementation, library, data type, whether shape, type and values are those of the interpreter).

    Where the interpreter finds no meaning, such as a mean of whole numbers, equal means an error; of raw code, which
    knows no such rules, nothing is wanted then.
    """
    for dtype, rtol in TOLERANCE.items():
        x = reference(pattern, rng).astype(dtype)
        try:
            right = interpret(pattern.verb, x, pattern.pattern, pattern.lengths, pattern.reduction)
        except Meaningless:
            right = None
        for library in LIBRARIES:
            for name in IMPLEMENTATIONS:
                call = implementation(name, pattern, library)
                if call is not None and not (right is None and name == "raw"):
                    yield name, library, dtype, _agrees(lambda: values(call(convert(x, library), **pattern.lengths)), right, rtol)


def _agrees(call: Callable[[], np.ndarray], right: np.ndarray | None, rtol: float) -> bool:
    try:
        result = call()
    except (RuntimeError, NotImplementedError):
        return right is None
    return right is not None and result.shape == right.shape and result.dtype == right.dtype and np.allclose(result, right, rtol=rtol, atol=0)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


# What the official package lets pass, answers with an error of another library, or answers differently the second time.
# name, the call, and what is right: an exception, or a condition on the result
DEFECTS: list[tuple[str, Callable[[Any], Any], Callable[[Any], bool] | None]] = [
    ("numpy integer that does not match", lambda e: e.rearrange(_zeros(6), "a -> a", a=np.int64(5)), None),
    ("numpy integer that does not divide", lambda e: e.rearrange(_zeros(7), "(a b) -> a b", a=np.int64(2)), None),
    ("wrong length after the same one as a numpy integer", lambda e: (_quietly(lambda: e.rearrange(_zeros(9), "a -> a", a=np.int64(8))), e.rearrange(_zeros(9), "a -> a", a=8)), None),
    ("fractional length", lambda e: e.rearrange(_zeros(6), "a -> a", a=3.5), None),
    ("float that equals a length used before", lambda e: (e.rearrange(_zeros(6), "(a b) -> a b", a=3), e.rearrange(_zeros(6), "(a b) -> a b", a=3.0)), None),
    ("length True", lambda e: e.rearrange(_zeros(6), "(a b) -> a b", a=True), None),
    ("length of text", lambda e: e.rearrange(_zeros(6), "a -> a", a="6"), None),
    ("negative length of a new axis", lambda e: e.repeat(convert(_zeros(3), "torch"), "a -> a b", b=-1), None),
    ("zero beside an unknown length", lambda e: e.rearrange(_zeros(0), "(a b) -> a b", a=0), None),
    ("no arrow", lambda e: e.rearrange(_zeros(2, 3), "a b"), None),
    ("two arrows", lambda e: e.rearrange(_zeros(2, 3), "a b -> b a -> a b"), None),
    ("a pattern that is no text", lambda e: e.rearrange(_zeros(2, 3), 5), None),
    ("pieces that overlap", lambda e: e.unpack(np.arange(5), [[2], [-1], [4]], "*"), None),
    ("no pieces", lambda e: e.unpack(np.arange(5), [], "*"), None),
    ("no tensors to pack", lambda e: e.pack([], "*"), None),
    ("pack of sizes that differ", lambda e: e.pack([_zeros(2, 3), _zeros(4, 5)], "a *"), None),
    ("list of shapes that differ", lambda e: e.rearrange([_zeros(2), _zeros(3)], "n a -> a n"), None),
    ("einsum with a size of 1 against 4", lambda e: e.einsum(_zeros(2, 1), _zeros(4, 3), "i k, k j -> i j"), None),
    ("einsum with sizes 3 and 4", lambda e: e.einsum(_zeros(2, 3), _zeros(4, 3), "i k, k j -> i j"), None),
    ("einsum with a tensor too few", lambda e: e.einsum(_zeros(2, 3), "i k, k j -> i j"), None),
    ("parse_shape with axes in parentheses", lambda e: e.parse_shape(_zeros(2, 3), "(...)"), None),
    ("mean of complex values", lambda e: e.reduce(np.array([1j, 3j]), "a -> ", "mean"), lambda result: complex(result) == 2j),
    ("einsum with groups", lambda e: e.einsum(np.ones((2, 6)), np.ones((3, 4)), "i (a k), k j -> i (a j)", a=2), lambda result: result.shape == (2, 8)),
    ("an axis called pattern", lambda e: e.rearrange(_zeros(6), "(pattern b) -> b pattern", pattern=2), lambda result: result.shape == (3, 2)),
]


def _quietly(call: Callable[[], Any]) -> None:
    try:
        call()
    except RuntimeError:
        pass


def defects() -> Iterator[tuple[str, str, bool]]:
    """(case, implementation, whether it behaves rightly): where an error is right, one of the notation's own class."""
    for name, call, right in DEFECTS:
        for who, package in (("ours", notation), ("official", einops)):
            try:
                result = call(package)
                good = right is not None and right(result)
            except package.EinopsError:
                good = right is None
            except Exception:
                good = False
            yield name, who, good
