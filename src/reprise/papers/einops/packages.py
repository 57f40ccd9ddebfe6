"""The implementations that are compared, behind one call: ours, the official package, raw code."""

from collections.abc import Callable
from typing import Any

import einops
import einops.array_api
import numpy as np
import torch

from reprise.kits import notation
from reprise.papers.einops.corpus import Pattern, raw
from reprise.papers.einops.strict import Array

LIBRARIES: dict[str, Callable[[np.ndarray], Any]] = {"numpy": np.asarray, "torch": torch.from_numpy, "array_api": Array}


def convert(x: Any, library: str) -> Any:
    """A numpy array, or a list of them, in a library."""
    if isinstance(x, list):
        return [convert(element, library) for element in x]
    return LIBRARIES[library](np.ascontiguousarray(x).reshape(np.shape(x)))  # reshape: ascontiguousarray makes 0-d arrays 1-d


def values(x: Any) -> np.ndarray:
    """Back to numpy."""
    return notation.asnumpy(x) if hasattr(x, "shape") and not isinstance(x, np.generic) else np.asarray(x)


def implementation(name: str, pattern: Pattern, library: str) -> Callable[..., Any] | None:
    """`call(x, **lengths)` for one pattern; None for raw code that does not exist."""
    if name == "raw":
        return raw(pattern, library) if pattern.code and library != "array_api" else None
    package = notation if name == "ours" else einops.array_api if library == "array_api" else einops
    verb = getattr(package, pattern.verb)
    extra = (pattern.reduction,) if pattern.verb == "reduce" else ()
    return lambda x, **lengths: verb(x, pattern.pattern, *extra, **lengths)
