"""Einops: Clear and Reliable Tensor Manipulations with Einstein-like Notation (A. Rogozhnikov, ICLR 2022).

The notation itself is a library of its own, `reprise.kits.notation`; this folder holds the experiments about it.

- Section 3, the notation: three verbs, named axes, groups, ellipsis, anonymous axes -> `reprise.kits.notation`;
  what it means, said a second time as slowly as possible -> `interpreter`
- Section 3.1, the operations it covers -> `corpus`: patterns of real models with the raw code that each replaces
- Section 4, what it is worth: layout mistakes that raw code accepts are errors -> `mutation`; one pattern for all
  libraries -> `equivalence`, with `strict`, a namespace that follows the array API standard and nothing else
- Section 5, the implementation: parsing and planning are cached, so that the overhead is small
  -> `reprise.kits.notation.planning`, `.caching`; measured by `benchmarks/einops_overhead.py`, since a time is no result
  that could be regenerated
- Section 6, use in models: layers and einsum -> `model`, one network written three times; `train`, `evaluate`
"""
