"""torch's matrix products on the CPU through NumPy's OpenBLAS, for the portable profile.

MKL rounds alike on Intel and AMD only in its COMPATIBLE branch, which uses no wide instruction and is two to four times
slower than it could be. OpenBLAS, told to take its Haswell kernels, rounds alike on every processor with AVX2 and is as
fast as AVX2 can be. So `mm`, `bmm`, `addmm` and `baddbmm`, which `matmul`, `linear`, `einsum` and their gradients come
down to, are replaced below autograd and vmap: no caller notices. `benchmarks/profiles.py` measures what it brings.
"""

import warnings
from functools import cache

import numpy as np
import torch


HALF = (torch.bfloat16, torch.float16)  # NumPy lacks the one and has no product for the other: both go through float32


def _array(t: torch.Tensor) -> np.ndarray:
    """`t` as an array that BLAS can read as it lies: one of the last two strides is 1, the other no broadcast."""
    t = t.detach()
    if t.dtype in HALF:
        t = t.float()
    elif t.is_complex():
        t = t.resolve_conj()
    if not t.is_contiguous():
        rows, columns = t.stride()[-2:]
        if not (columns == 1 and rows >= t.shape[-1] or rows == 1 and columns >= t.shape[-2]):
            t = t.contiguous()
    return t.numpy()


@np.errstate(all="ignore")  # torch says nothing of overflow; a loss that is not finite is the training loop's to name
def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b: (I, J) (J, K) -> (I, K), or the same with a leading batch axis."""
    out = torch.from_numpy(np.matmul(_array(a), _array(b)))
    return out if out.dtype == a.dtype else out.to(a.dtype)


@np.errstate(all="ignore")
def _product_plus(c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1) -> torch.Tensor:
    """beta c + alpha a b, c broadcast to the shape of a b."""
    out = torch.from_numpy(np.matmul(_array(a), _array(b)))
    if alpha != 1:
        out *= alpha
    if beta != 0:  # where beta is 0, c may hold anything
        out.add_(c, alpha=beta)
    return out if out.dtype == a.dtype else out.to(a.dtype)


@cache
def through_openblas() -> torch.library.Library:
    """Replace the CPU kernels of the four products for the rest of this process."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        for name in ("mm", "bmm"):
            library.impl(name, _product, "CPU")
        for name in ("addmm", "baddbmm"):
            library.impl(name, _product_plus, "CPU")
    return library
