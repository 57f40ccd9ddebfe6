"""What numpy, torch and an Array-API namespace call reshape, reduce, permute and expand.

A backend lowers a call of `planning` to functions of (tensor, constant); `chain` makes one function of the tensor of
them. No framework is imported that the tensor has not imported already.
"""

import inspect
import operator
import sys
from collections.abc import Callable, Sequence
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from reprise.kits.notation.caching import Unplain, at_compile_time
from reprise.kits.notation.errors import Fault, NotationTypeError
from reprise.kits.notation.planning import EXPAND, PERMUTE, RESHAPE, Call

REDUCTIONS = ("min", "max", "sum", "mean", "prod", "any", "all")
Step = tuple[Callable[[Any, Any], Any], Any]


def _not_yet() -> bool:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "compiler"):  # not imported, or only in part
        return False
    watch(torch)
    return torch.compiler.is_dynamo_compiling()


# Whether torch.compile is tracing the caller right now; nothing can be before torch is imported.
tracing: Callable[[], bool] = _not_yet


def chain(steps: Sequence[Step]) -> Callable[[Any], Any]:
    """One function that applies `steps` in turn, each bound to its constant."""
    count = len(steps)
    if count == 0:
        return lambda x: x
    f, a = steps[0]
    if count == 1:
        return lambda x: f(x, a)
    g, b = steps[1]
    if count == 2:
        return lambda x: g(f(x, a), b)
    h, c = steps[2]
    if count == 3:
        return lambda x: h(g(f(x, a), b), c)
    rest = chain(steps[3:])
    return lambda x: rest(h(g(f(x, a), b), c))


def no_mean(dtype: Any) -> Fault:
    """The fault of a mean over whole numbers, which would have to leave their type."""
    return Fault(f"the mean of {dtype} values is not of that type: convert them to a floating or complex type first", kind=NotationTypeError)


class Backend:
    """Functions (tensor, constant) -> tensor for each kind of call. This base works by the methods of a numpy array subclass."""

    reshape = staticmethod(lambda x, shape: x.reshape(shape))
    permute = staticmethod(lambda x, axes: x.transpose(axes))

    def lower(self, call: Call, reduction: str | None = None) -> list[Step]:
        """The steps of one call; `reduction` is that of the verb, if it has one."""
        kind, argument = call
        if kind is RESHAPE:
            return [(self.reshape if reduction is None else self.reshape_reduced(argument), argument)]
        if kind is PERMUTE:
            return [(self.permute, argument)]
        return self.expand(*argument) if kind is EXPAND else self.reduce(reduction, *argument)

    def reshape_reduced(self, shape: tuple[int, ...]) -> Callable[[Any, Any], Any]:
        """`reshape` to `shape`, where a reduction may come before it."""
        return self.reshape

    def chain(self, calls: Sequence[Call], reduction: str | None = None) -> Callable[[Any], Any]:
        """One function of the tensor for all calls."""
        steps: list[Step] = []
        for call in calls:
            steps += self.lower(call, reduction)
        return chain(steps)

    def expand(self, ones: tuple[int, ...], full: tuple[int, ...], leads: bool) -> list[Step]:
        """To shape `full`, by a reshape to `ones`, which has 1 for each new axis; `leads` if those come first, and broadcasting finds them."""
        return [(self.reshape, ones), (lambda x, full: np.broadcast_to(x, full, subok=True).copy(), full)]

    def reduce(self, name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> list[Step]:
        """Reduce `axes` of a tensor of `shape`."""
        if name == "mean":
            return [(_array_mean, axes)]
        return [(lambda x, axes: getattr(x, name)(axis=axes), axes)]

    concatenate = staticmethod(np.concatenate)

    stack = staticmethod(np.stack)

    einsum = staticmethod(np.einsum)  # (subscripts in single letters, *tensors)

    matmul = staticmethod(np.matmul)

    def swap(self, x: Any) -> Any:
        """The last two axes exchanged."""
        return x.swapaxes(-1, -2)

    def cutter(self, places: list[tuple[int, int, int | None]]) -> tuple[Callable[[Any, Any], Any], list[Any]]:
        """A function (x, place), and each (axis, start, length) as a place: those entries, or the one at `start` without its axis."""
        # the dots: without them an array of one axis would give a scalar, and the array API wants every axis mentioned
        return operator.getitem, [
            (*[slice(None)] * axis, start if length is None else slice(start, start + length), ...) for axis, start, length in places
        ]

    def asnumpy(self, x: Any) -> np.ndarray:
        """The values as a numpy array."""
        return np.asarray(x)


def _array_mean(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if x.dtype.kind not in "fc":
        raise no_mean(x.dtype)
    return x.mean(axis=axes)


class Numpy(Backend):
    """Plain arrays: no detour through Python methods, nor through the search for classes that overload numpy's functions."""

    reshape = staticmethod(np.ndarray.reshape)
    permute = staticmethod(np.ndarray.transpose)
    concatenate = staticmethod(inspect.unwrap(np.concatenate))
    einsum = staticmethod(inspect.unwrap(np.einsum))
    reducers = {
        "min": np.minimum.reduce, "max": np.maximum.reduce, "sum": np.add.reduce, "prod": np.multiply.reduce,
        "any": np.logical_or.reduce, "all": np.logical_and.reduce,
    }  # fmt: skip

    def reshape_reduced(self, shape: tuple[int, ...]) -> Callable[[Any, Any], Any]:
        """A reduction of every axis leaves a scalar, which is no array and has to become one."""
        return _single if prod(shape) == 1 else self.reshape

    def stack(self, tensors: list[np.ndarray]) -> np.ndarray:
        """What np.stack does after checking once more, in Python, that the shapes are equal."""
        return self.concatenate([tensor[None] for tensor in tensors])

    def expand(self, ones: tuple[int, ...], full: tuple[int, ...], leads: bool) -> list[Step]:
        """A new array, by one copy of whole runs of entries for each new axis, outer ones first: quicker than one broadcast, whose runs are short."""
        new = [(size, axis) for axis, (one, size) in enumerate(zip(ones, full)) if one != size] or [(1, 0)]  # of size 1, a copy all the same
        steps: list[Step] = []
        for size, axis in new:
            steps += [(self.reshape, (prod(full[:axis]), prod(ones[axis:]))), (_repeated, size)]
        return [*steps, (self.reshape, full)]

    def reduce(self, name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> list[Step]:
        """The ufunc's own reduction."""
        if name == "mean":
            return [(_numpy_mean, (axes, prod([shape[axis] for axis in axes])))]
        return [(self.reducers[name], axes)]


def _single(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(x).reshape(shape)


def _repeated(x: np.ndarray, count: int) -> np.ndarray:
    return x.repeat(count, 0)


def _numpy_mean(x: np.ndarray, how: tuple) -> np.ndarray:
    axes, count = how
    dtype = x.dtype.char
    if dtype in "fdFD" and count:
        return np.add.reduce(x, axes) / count
    return _array_mean(x, axes)  # half precision sums in single precision there; nothing to average warns there


class Torch(Backend):
    """Tensors of torch, which is imported by now; by functions, since a method takes its time to unpack a tuple."""

    def __init__(self, torch: ModuleType):
        self.torch = torch
        self.reshape, self.permute, self.matmul, self.concatenate, self.stack = torch.reshape, torch.permute, torch.matmul, torch.cat, torch.stack
        self.einsum = torch.einsum
        self.reducers = {"min": torch.amin, "max": torch.amax, "sum": torch.sum, "any": torch.any, "all": torch.all, "mean": self._mean}

    def expand(self, ones: tuple[int, ...], full: tuple[int, ...], leads: bool) -> list[Step]:
        """A view: its repeated entries share memory."""
        return [(_expanded, full)] if leads else [(self.reshape, ones), (_expanded, full)]

    def reduce(self, name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> list[Step]:
        """One call, except for products, which torch takes over one axis at a time: neighbours are merged first."""
        if name != "prod":
            return [(self.reducers[name], axes)]
        steps: list[Step] = []
        if axes[-1] - axes[0] == len(axes) - 1 > 0:
            steps = [(self.reshape, (*shape[: axes[0]], prod([shape[axis] for axis in axes]), *shape[axes[-1] + 1 :]))]
            axes = axes[:1]
        return steps + [(self.torch.prod, axis) for axis in reversed(axes)]

    def _mean(self, x: Any, axes: tuple[int, ...]) -> Any:
        try:
            return self.torch.mean(x, axes)
        except RuntimeError:
            if x.dtype.is_floating_point or x.dtype.is_complex:
                raise
            raise no_mean(x.dtype) from None

    def cutter(self, places: list[tuple[int, int, int | None]]) -> tuple[Callable[[Any, Any], Any], list[Any]]:
        return _narrowed, places

    def asnumpy(self, x: Any) -> np.ndarray:
        return x.detach().cpu().numpy()


def _expanded(x: Any, full: tuple[int, ...]) -> Any:
    return x.expand(*full)


def _narrowed(x: Any, place: tuple[int, int, int | None]) -> Any:
    axis, start, length = place
    return x.select(axis, start) if length is None else x.narrow(axis, start, length)


class ArrayApi(Backend):
    """Any library that follows the Python array API standard."""

    def __init__(self, xp: ModuleType):
        self.xp = xp
        self.reshape, self.permute, self.matmul, self._broadcast = xp.reshape, xp.permute_dims, xp.matmul, xp.broadcast_to

    def expand(self, ones: tuple[int, ...], full: tuple[int, ...], leads: bool) -> list[Step]:
        return [(self._broadcast, full)] if leads else [(self.reshape, ones), (self._broadcast, full)]

    def reduce(self, name: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> list[Step]:
        reducer = getattr(self.xp, name)
        if name != "mean":
            return [(lambda x, axes: reducer(x, axis=axes), axes)]

        def mean(x: Any, axes: tuple[int, ...]) -> Any:
            if not self.xp.isdtype(x.dtype, ("real floating", "complex floating")):
                raise no_mean(x.dtype)
            return reducer(x, axis=axes)

        return [(mean, axes)]

    def stack(self, tensors: list[Any]) -> Any:
        return self.xp.stack(tensors)

    def concatenate(self, tensors: list[Any], axis: int) -> Any:
        return self.xp.concat(tensors, axis=axis)

    def einsum(self, subscripts: str, *tensors: Any) -> Any:
        """The standard has no einsum: every operand is aligned to all letters, multiplied, then summed."""
        if hasattr(self.xp, "einsum"):
            return self.xp.einsum(subscripts, *tensors)
        operands, out = subscripts.split("->")
        letters = out + "".join(sorted(set(operands) - set(out) - {","}))
        product = None
        for own, x in zip(operands.split(","), tensors):
            own, x = self._without_repeats(own, x)
            size = dict(zip(own, x.shape))
            order = tuple(sorted(range(len(own)), key=lambda axis: letters.index(own[axis])))
            x = self.xp.reshape(self.xp.permute_dims(x, order), tuple([size.get(letter, 1) for letter in letters]))
            product = x if product is None else product * x
        summed = tuple(range(len(out), len(letters)))
        return self.xp.sum(product, axis=summed, dtype=product.dtype) if summed else product

    def _without_repeats(self, own: str, x: Any) -> tuple[str, Any]:
        """The diagonal over axes of one letter: every (n + 1)-th entry of the n * n."""
        for letter in sorted(set(own)):
            while own.count(letter) > 1:
                i, j = own.index(letter), own.rindex(letter)
                rest = [axis for axis in range(len(own)) if axis not in (i, j)]
                n = x.shape[i]
                x = self.xp.reshape(self.xp.permute_dims(x, (*rest, i, j)), (*[x.shape[axis] for axis in rest], n * n))
                x = x[..., :: n + 1]
                own = "".join([own[axis] for axis in rest]) + letter
        return own, x

    def swap(self, x: Any) -> Any:
        return self.xp.matrix_transpose(x)

    def asnumpy(self, x: Any) -> np.ndarray:
        return np.from_dlpack(x) if hasattr(x, "__dlpack__") else np.asarray(x)


_BACKENDS: dict[type, Backend] = {np.ndarray: Numpy()}


def backend_of(tensor: Any) -> Backend:
    """The backend of a tensor, by its class.

    Raises:
        Fault: it is no tensor of numpy, torch or an array-API library.
    """
    if tracing():
        return _BACKENDS[sys.modules["torch"].Tensor]
    found = _BACKENDS.get(type(tensor))
    if found is None:
        found = _BACKENDS[type(tensor)] = _recognise(tensor)
    return found


def backend_of_class(cls: type) -> Backend:
    """The backend of a class that `backend_of` has seen. Raises Unplain if it has not."""
    found = _BACKENDS.get(cls)
    if found is None:
        raise Unplain("")
    return found


def _recognise(tensor: Any) -> Backend:
    if isinstance(tensor, np.ndarray):
        return Backend()
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        watch(torch)
        return _BACKENDS[torch.Tensor]
    if hasattr(tensor, "__array_namespace__") and not isinstance(tensor, np.generic):
        return ArrayApi(tensor.__array_namespace__())
    hint = ": a list of tensors can be stacked, a tuple cannot" if isinstance(tensor, tuple) else ""
    raise Fault(f"{type(tensor).__module__}.{type(tensor).__qualname__} is no tensor of numpy, torch or an array-API library{hint}", kind=NotationTypeError)


@at_compile_time
def watch(torch: ModuleType) -> None:
    """Enter torch's backend, and begin to ask torch whether it is tracing."""
    global tracing
    _BACKENDS.setdefault(torch.Tensor, Torch(torch))
    tracing = torch.compiler.is_dynamo_compiling


if "torch" in sys.modules:
    watch(sys.modules["torch"])


def apply_callable(x: Any, function: Callable[[Any, tuple[int, ...]], Any], axes: tuple[int, ...], left: tuple[int, ...]) -> Any:
    """`function(x, axes)`. Raises Fault unless it leaves shape `left`."""
    result = function(x, axes)
    if tuple(getattr(result, "shape", left)) != left:
        raise Fault(f"the reduction {getattr(function, '__name__', function)!r} of axes {axes} of shape {tuple(x.shape)} gave shape {tuple(result.shape)}, not {left}")
    return result
