"""Reproducibility that is checked: `verify` rebuilds from nothing and compares, `why_different` names what deviates."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from reprise import determinism, engine, params, paths
from reprise.errors import ReproError

GOLDEN = paths.ROOT / "tests" / "golden" / "operations.json"


@dataclass(frozen=True)
class Deviation:
    """An output that is not what the lock says."""

    stage: str
    output: str
    expected: str
    found: str
    detail: str = ""


def verify(papers: list[str], against: Path | None = None, keep: bool = False, scale: str | None = None) -> tuple[int, list[Deviation]]:
    """Clone the committed state, rebuild `papers` with an empty cache, compare each output with dvc.lock.

    Args:
        papers: all if empty.
        against: a checkout whose dvc.lock files to compare with; default: the clone's own, as committed.
        keep: leave the scratch clone in place and say where.
        scale: rebuild this one instead of those of params.yaml; a lock keeps what other scales once gave.

    Returns:
        How many outputs were compared, and those that deviate.

    Raises:
        ReproError: the rebuilding itself failed, or no lock has results at `scale`.
    """
    scratch = Path(tempfile.mkdtemp(prefix="reprise-verify-"))
    clone = scratch / "clone"
    try:
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(paths.ROOT), str(clone)], check=True)
        reference = {lock.parent.name: params.parse(lock)["stages"] for lock in (against or clone).glob("pipelines/*/dvc.lock")}
        shutil.rmtree(clone / "reports", ignore_errors=True)  # committed results must not stand in for rebuilt ones
        for lock in clone.glob("pipelines/*/dvc.lock"):
            lock.unlink()
        if scale:
            known = sorted(paper for paper, stages in reference.items() if any(name.partition("@")[2].partition("-")[0] == scale for name in stages))
            unknown_to = sorted(set(papers) - set(known))
            if unknown_to or not known:
                raise ReproError(f"no results at scale {scale!r} in the lock of {', '.join(unknown_to) or 'any paper'} to compare with (in those of: {', '.join(known) or 'none'})")
            papers = papers or known
            shared = YAML().load(clone / "params.yaml")
            shared["scales"] = [scale]
            YAML().dump(shared, clone / "params.yaml")
        env = {**os.environ, "PYTHONPATH": str(clone / "src"), "REPRISE_TRACKING": "off"}
        done = subprocess.run([sys.executable, "-m", "reprise.engine", "reproduce", *papers], cwd=clone, env=env, stdout=sys.stderr, check=False)
        nodes = engine.chosen(engine.graph(clone), papers)
        deviations, compared = [], 0
        for node in nodes:
            if not node.paper:
                continue
            entry = reference.get(node.paper, {}).get(node.name, {})
            expected = {out["path"]: out["md5"] for out in entry.get("outs", [])}
            for out, found in engine.outputs(node, clone).items():
                compared += 1
                if found != expected.get(out):
                    deviations.append(Deviation(node.address, out, expected.get(out, "not in dvc.lock"), found or "missing", _by_how_much(clone, out)))
        shutil.copytree(paths.private(clone, "times"), paths.private(paths.ROOT, "times"), dirs_exist_ok=True)  # for `reprise time`
        if done.returncode and not deviations:
            raise ReproError(f"rebuilding failed (exit code {done.returncode}); see the log above")
        return compared, deviations
    finally:
        if keep:
            print(f"scratch clone: {clone}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)


def _by_how_much(clone: Path, out: str) -> str:
    """For metrics: the largest relative difference from the committed ones, and where."""
    here, there = paths.ROOT / out, clone / out
    if not out.endswith("metrics.json") or not (here.exists() and there.exists()):
        return ""
    old, new = json.loads(here.read_text()), json.loads(there.read_text())
    differences = {key: abs(new[key] - old[key]) / max(abs(old[key]), 1e-300) for key in old.keys() & new.keys() if old[key] != new[key]}
    if not differences:
        return f"keys differ: {sorted(old.keys() ^ new.keys())}"
    worst = max(differences, key=differences.get)
    return f"{len(differences)} of {len(old)} metrics differ, most {worst}: {old[worst]:.6g} -> {new[worst]:.6g} ({100 * differences[worst]:.2g} %)"


# -- why different ---------------------------------------------------------------------------------------------------


def operations() -> dict[str, str]:
    """Hashes of a fixed list of elementary operations, in the order in which a training would meet them."""
    import hashlib

    import numpy as np
    import scipy.linalg
    import torch
    import torch.nn.functional as F

    determinism.configure_torch()
    g = torch.Generator().manual_seed(1)
    x, w, big = torch.randn(64, 48, generator=g), torch.randn(32, 48, generator=g), torch.randn(300, 300, generator=g)
    image, kernel = torch.randn(4, 3, 16, 16, generator=g), torch.randn(8, 3, 3, 3, generator=g)
    a = np.random.default_rng(1).standard_normal((40, 40))
    target = torch.arange(64) % 48

    def gradient(f, *tensors):
        leaves = [t.clone().requires_grad_() for t in tensors]
        return torch.cat([t.flatten() for t in torch.autograd.grad(f(*leaves).square().sum(), leaves)])

    def adam():
        p = w.clone().requires_grad_()
        optimiser = torch.optim.AdamW([p], lr=1e-2, fused=True)
        for _ in range(5):
            optimiser.zero_grad()
            (x @ p.T).square().mean().backward()
            optimiser.step()
        return p

    def training():
        """Ten steps of a convolutional network with attention and normalisation: what errs by one bit anywhere, errs here."""
        shapes = {"k": (8, 3, 3, 3), "q": (3, 8, 8), "g": (8,), "w": (10, 8)}
        p = {name: (torch.randn(shape, generator=g) * 0.3).requires_grad_() for name, shape in shapes.items()}
        optimiser = torch.optim.AdamW(p.values(), lr=1e-2, fused=True)
        for _ in range(10):
            h_BTD = F.gelu(F.conv2d(image, p["k"])).flatten(2).transpose(1, 2)
            q, k, v = torch.einsum("btd,ode->obte", h_BTD, p["q"])
            h_BTD = F.layer_norm(h_BTD + (q @ k.transpose(1, 2)).softmax(-1) @ v, (8,), p["g"])
            loss = F.cross_entropy(F.linear(h_BTD.mean(1), p["w"]), target[: len(image)] % 10)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return torch.cat([t.flatten() for t in p.values()])

    table = {
        "torch randn float32": lambda: x,
        "torch randn float64": lambda: torch.randn(100, generator=torch.Generator().manual_seed(2), dtype=torch.float64),
        "numpy normal": lambda: a,
        "exact_sqrt float32": lambda: determinism.exact_sqrt(x.abs()),
        "exact_sqrt float64": lambda: determinism.exact_sqrt(x.abs().double()),
        "rsqrt": lambda: x.abs().rsqrt(),
        **{name: (lambda f=getattr(torch, name): f(x)) for name in ("exp", "tanh", "sigmoid", "erf", "sin")},
        "log": lambda: x.abs().log(),
        "gelu": lambda: F.gelu(x),
        "softplus": lambda: F.softplus(x),
        "sum": lambda: big.sum(),
        "mean over rows": lambda: big.mean(0),
        "logsumexp": lambda: big.logsumexp(1),
        "softmax": lambda: big.softmax(1),
        "layer norm": lambda: F.layer_norm(x, (48,)),
        "linear": lambda: F.linear(x, w),
        "matmul": lambda: big @ big,
        "batched matmul": lambda: torch.bmm(x.reshape(4, 16, 48), w[:16].T.expand(4, 48, 16)),
        "float64 matmul": lambda: big.double() @ big.double(),
        "linear, gradient": lambda: gradient(F.linear, x, w),
        "convolution": lambda: F.conv2d(image, kernel),
        "convolution, gradient": lambda: gradient(F.conv2d, image, kernel),
        "cross-entropy, gradient": lambda: gradient(lambda t: F.cross_entropy(t, target), x),
        "attention": lambda: F.scaled_dot_product_attention(*x.reshape(3, 4, 4, 64).unbind(0)),
        "AdamW fused, 5 steps": adam,
        "numpy exp": lambda: np.exp(a),
        "numpy matmul": lambda: a @ a,
        "numpy cholesky": lambda: np.linalg.cholesky(a @ a.T + np.eye(40)),
        "numpy svd": lambda: np.linalg.svd(a)[1],
        "scipy solve": lambda: scipy.linalg.solve(a, a[0]),
        "a training of ten steps": training,
    }
    hashes = {}
    for name, operation in table.items():
        value = operation()
        value = value.detach().numpy() if torch.is_tensor(value) else np.asarray(value)
        hashes[name] = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
    return hashes


def why_different() -> list[str]:
    """The operations whose bits on this machine are not the golden ones, the first in order being the one to look at.

    Raises:
        ReproError: there are no golden hashes to compare with.
    """
    if not GOLDEN.exists():
        raise ReproError(f"{GOLDEN.relative_to(paths.ROOT)} is missing: `reprise why-different --write` makes it on a machine you trust")
    golden, here = json.loads(GOLDEN.read_text()), operations()
    return [name for name in golden if here.get(name) != golden[name]]


def machine() -> str:
    """This processor in words, with what of it matters for bits."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", info)
    widest = "AVX-512" if " avx512f " in info else "AVX2" if " avx2 " in info else "older than AVX2"
    return f"{model[1] if model else 'unknown processor'} ({widest})"
