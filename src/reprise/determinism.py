"""Same commit, same bits: the numeric environment of a process, seeds split by name, and square roots that are exact.

A profile is a set of environment variables that MKL, oneDNN, OpenBLAS and NumPy read once, when they are loaded;
so a stage that finds another environment replaces itself by a process that has the right one. `portable` caps every
library at AVX2 code paths that round alike on Intel and AMD; `fast` caps nothing, its bits hold per class of CPU.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reprise.errors import ReproError, unknown

if TYPE_CHECKING:
    import torch

COMMON = {
    "OMP_NUM_THREADS": "1",  # one thread a stage: two sum in another order, and spin against each other
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "NVIDIA_TF32_OVERRIDE": "0",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
    "SOURCE_DATE_EPOCH": "1577836800",
    "MPLBACKEND": "agg",
}
CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # the only branch that MKL honours on non-Intel processors
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
PROFILES = {"portable": COMMON | CAPS, "fast": COMMON | dict.fromkeys(CAPS)}  # None: unset


def environment(profile: str) -> dict[str, str]:
    """The environment of this process with `profile` applied."""
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    merged = {**os.environ, **PROFILES[profile]}
    return {key: value for key, value in merged.items() if value is not None}


def enter(profile: str, argv: list[str]) -> None:
    """Run this process under `profile`: return if it already does, else replace it by `python argv...` that does.

    Raises:
        ReproError: `portable` on a processor without AVX2 and FMA, where the bits would differ.
    """
    if profile == "portable" and not _has_avx2():
        raise ReproError("profile 'portable' needs an x86-64 processor with AVX2 and FMA; set this scale's profile to 'fast' in params.yaml")
    wanted = environment(profile)
    if wanted != dict(os.environ):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *argv], wanted)


def _has_avx2() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine().lower() in ("x86_64", "amd64")
    return " avx2 " in flags and " fma " in flags


def configure_torch() -> None:
    """Deterministic kernels and one thread, in a process that has loaded torch; free where it has not.

    Under `portable`, matrix products go through OpenBLAS: see `reprise.products`.
    """
    if torch := sys.modules.get("torch"):
        if os.environ.get("MKL_CBWR") == CAPS["MKL_CBWR"]:
            from reprise import products

            products.through_openblas()
        torch.set_num_threads(1)
        torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms(True), which also loads the compiler, a second of CPU
        torch.utils.deterministic.fill_uninitialized_memory = False  # for programs that read what nobody wrote; it costs a few percent
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def seed(root: int, *names: object) -> int:
    """A 63-bit seed for `names`, split from the root seed: independent streams without a shared counter."""
    text = "/".join(map(str, (root, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def exact_sqrt(x: "torch.Tensor") -> "torch.Tensor":
    """The square root with the same bits on every processor, any shape, differentiable, vmap-able.

    `torch.sqrt` goes through a vector library that is off by one ulp, differently on each processor. In single
    precision the double root, rounded, is the correct one. In double precision x * rsqrt(x) is within one ulp, and
    rsqrt is made of the processor's own correctly rounded instructions.
    """
    import torch

    if x.dtype == torch.float64:
        return x * x.clamp_min(torch.finfo(x.dtype).tiny).rsqrt()
    return x.double().sqrt().to(x.dtype)
