"""A namespace with the array API standard and nothing else: what a library sees that is neither numpy nor torch.

`Array` wraps a numpy array and has no methods but those of the standard, so code that leans on numpy's own fails on it.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np


class Array:
    """An array of the standard: a shape, a data type, indexing, multiplication; everything else is a function of `xp`."""

    def __init__(self, values: np.ndarray):
        self._values = np.asarray(values)

    shape = property(lambda self: self._values.shape)
    ndim = property(lambda self: self._values.ndim)
    dtype = property(lambda self: self._values.dtype)

    def __array_namespace__(self, api_version: str | None = None) -> SimpleNamespace:
        return xp

    def __getitem__(self, key: Any) -> "Array":
        key = key if isinstance(key, tuple) else (key,)
        if len(key) < self.ndim and ... not in key:
            raise IndexError("the standard wants an index for every axis, or an ellipsis")
        return Array(self._values[key])

    def __mul__(self, other: "Array") -> "Array":
        return Array(self._values * other._values)

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


def _reducer(function):
    def reduce(x: Array, /, *, axis=None, keepdims: bool = False, **options: Any) -> Array:
        return Array(function(x._values, axis=axis, keepdims=keepdims, **options))

    return reduce


xp = SimpleNamespace(
    asarray=Array,
    reshape=lambda x, /, shape: Array(np.reshape(x._values, shape)),
    permute_dims=lambda x, /, axes: Array(np.permute_dims(x._values, axes)),
    expand_dims=lambda x, /, *, axis=0: Array(np.expand_dims(x._values, axis)),
    broadcast_to=lambda x, /, shape: Array(np.broadcast_to(x._values, shape)),
    matrix_transpose=lambda x, /: Array(np.matrix_transpose(x._values)),
    matmul=lambda a, b, /: Array(np.matmul(a._values, b._values)),
    stack=lambda arrays, /, *, axis=0: Array(np.stack([a._values for a in arrays], axis)),
    concat=lambda arrays, /, *, axis=0: Array(np.concatenate([a._values for a in arrays], axis)),
    tile=lambda x, repetitions, /: Array(np.tile(x._values, repetitions)),
    isdtype=np.isdtype,
    **{name: _reducer(getattr(np, name)) for name in ("min", "max", "sum", "mean", "prod", "any", "all")},
)
