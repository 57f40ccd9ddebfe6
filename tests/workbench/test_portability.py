"""The golden bits on other processors: this one without AVX-512 down to the C library, and two under emulation."""

import os
import shutil
import subprocess
import sys

import pytest

from reprise import determinism, paths, verify

WITHOUT_AVX512 = "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in ("AVX512F", "AVX512VL", "AVX512BW", "AVX512DQ", "AVX512CD", "AVX512ER", "AVX512PF"))


def why_different(*before: str, **env: str) -> str:
    environment = determinism.environment("portable") | {"PYTHONPATH": str(paths.ROOT / "src")} | env
    done = subprocess.run([*before, sys.executable, "-m", "reprise.cli", "why-different"], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_here():
    assert "all operations have the golden bits" in why_different()


def test_without_avx512():
    assert "all operations have the golden bits" in why_different(GLIBC_TUNABLES=WITHOUT_AVX512)


def test_a_deviation_is_named(monkeypatch):
    exact = verify.operations()
    monkeypatch.setattr(verify, "operations", lambda: {**exact, "softmax": "0" * 16, "linear": "1" * 16})
    assert verify.why_different() == ["softmax", "linear"]


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["Haswell", "EPYC-Milan"])
def test_emulated(processor):
    if not shutil.which("qemu-x86_64"):
        pytest.skip("qemu-user is not installed")
    assert "all operations have the golden bits" in why_different("qemu-x86_64", "-cpu", processor)


def test_the_profile_is_what_makes_them_equal():
    """Without the caps this processor gives other bits, unless it has no wider instructions than AVX2."""
    if " avx512f " not in open("/proc/cpuinfo").read():
        pytest.skip("this processor has no AVX-512")
    code = "from reprise import verify; print(verify.why_different())"
    env = {k: v for k, v in os.environ.items() if k not in determinism.CAPS} | {"PYTHONPATH": str(paths.ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "matmul" in done.stdout and "softmax" in done.stdout
