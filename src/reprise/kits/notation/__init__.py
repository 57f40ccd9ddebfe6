"""The notation of einops: `rearrange(x, "b (h w) c -> b h w c", h=4)` says what happens to every axis, and checks it.

    from reprise.kits.notation import rearrange, reduce, repeat, einsum, pack, unpack

Names and signatures are those of the package `einops`, so that changing the import is enough; the layers are in
`reprise.kits.notation.layers.torch`. Stricter than the original: see `NotationError`. Tensors may be of numpy, torch or
any library that follows the Python array API standard; torch is never imported for you.

- `parsing`: the grammar.                    - `planning`: lengths, simplification, at most five calls.
- `backends`: those calls per library.       - `caching`: one bounded cache of plans.
- `verbs`: rearrange, reduce, repeat.        - `contraction`: einsum.
- `packing`: pack, unpack.                   - `shapes`: parse_shape, check_shape.
"""

from reprise.kits.notation.caching import clear_caches
from reprise.kits.notation.contraction import einsum
from reprise.kits.notation.errors import NotationError, NotationTypeError
from reprise.kits.notation.packing import pack, unpack
from reprise.kits.notation.shapes import check_shape, parse_shape
from reprise.kits.notation.verbs import asnumpy, rearrange, reduce, repeat

EinopsError = NotationError  # the original's name

__all__ = [
    "EinopsError",
    "NotationError",
    "NotationTypeError",
    "asnumpy",
    "check_shape",
    "clear_caches",
    "einsum",
    "pack",
    "parse_shape",
    "rearrange",
    "reduce",
    "repeat",
    "unpack",
]
