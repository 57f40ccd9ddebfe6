"""MMD by the Gram matrix against the difference tensor, and a step of NTL against a supervised one, in one run.

    python benchmarks/ntl.py [--record]

CPU time of one thread, best of several, in alternating order. `--record` writes the ratios, with the processor they were
measured on, to benchmarks/ntl.md; times of one's own never enter the repository. Exit code 1 if a goal is missed.
"""

import argparse
import platform
import sys
import time
from functools import partial
from pathlib import Path

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import pandas as pd
import torch

from reprise.papers.ntl.fit import supervised
from reprise.papers.ntl.loss import Objective, mmd
from reprise.papers.ntl.model import VGG, Architecture
from reprise.papers.ntl.train import step
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")


def difference_tensor(s_nD: torch.Tensor, a_mD: torch.Tensor) -> torch.Tensor:
    """The same value from all differences t_i - t_j at once, (N, N, D), one exponential for each kernel: the peer."""
    n, t = len(s_nD), torch.cat([s_nD, a_mD])
    distance = (t[None] - t[:, None]).square().sum(2)
    w = distance.detach().sum() / (len(t) ** 2 - len(t))
    k = sum(torch.exp(-distance / (w / 4 * 2**r)) for r in range(5))
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def best(calls: list, repeats: int) -> list[float]:
    """The least CPU seconds of each call; they take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, own in zip(calls, times):
            start = time.process_time()
            call()
            own.append(time.process_time() - start)
    return [min(own) for own in times]


def distances() -> list[tuple[str, str, bool]]:
    """Forward and backward at the paper's sizes of split-layer features, 32 + 32 of them."""
    rows, g = [], torch.Generator().manual_seed(0)
    for size, name in ((16384, "digits"), (32768, "CIFAR-10")):
        s, a = (torch.randn(32, size, generator=g, requires_grad=True) for _ in range(2))
        ours, peer = mmd(s, a), difference_tensor(s, a)
        slopes = [torch.autograd.grad(value, s)[0] for value in (ours, peer)]
        apart, slope = abs(ours - peer).item(), ((slopes[0] - slopes[1]).norm() / slopes[1].norm()).item()
        fast, slow = best([lambda f=f, s=s, a=a: torch.autograd.grad(f(s, a), (s, a)) for f in (mmd, difference_tensor)], 3)
        rows.append((f"MMD, {name} (64 x {size}), forward and backward: at least 20 times the difference tensor", f"{slow / fast:.0f} times", slow / fast >= 20))
        rows.append((f"MMD, {name}: equal to 1e-5, gradient too", f"{apart:.0e}, gradient {slope:.0e} (relative)", max(apart, slope) <= 1e-5))
    return rows


def steps() -> list[tuple[str, str, bool]]:
    """A step of training, optimiser included, 32 images a domain: NTL has two batches, supervised learning one."""
    rows, g = [], torch.Generator().manual_seed(0)
    objective = Objective(alpha=0.1, beta=1, alpha_dis=0.1, beta_dis=1)
    for net, side, width, repeats in (("mini", 16, 128, 40), ("vgg11", 32, 256, 4)):
        model = VGG(Architecture(name=net, width=width), side, g)
        adam = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
        source, auxiliary = ((torch.randint(256, (32, side, side, 3), generator=g, dtype=torch.uint8), torch.randint(10, (32,), generator=g)) for _ in range(2))

        def descend(loss, other, model=model, adam=adam, source=source):
            adam.zero_grad()
            loss(model, source, other, g)["loss"].backward()
            adam.step()

        sl, ntl = best([partial(descend, supervised, None), partial(descend, partial(step, objective=objective), auxiliary)], repeats)
        rows.append((f"step of {net} at {side} px: NTL at most 2.3 times supervised", f"{ntl / sl:.2f} times", ntl / sl <= 2.3))
    return rows


def main() -> int:
    """Measure, print, perhaps record; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    determinism.configure_torch()
    rows = [*distances(), *steps()]
    frame = pd.DataFrame([(goal, seen, "met" if met else "missed") for goal, seen, met in rows], columns=["goal", "measured", "verdict"])
    print(frame.to_string(index=False))
    if args.record:
        made_on = f"{machine()}; Python {platform.python_version()}, torch {torch.__version__}"
        text = f"Made by `python benchmarks/ntl.py --record` on: {made_on}. Profile portable, one thread, CPU time, best of several in turns; ratios only."
        RECORD.write_text("\n\n".join(["# Non-transferable learning: the MMD and a step of training", text, markdown_table(frame)]) + "\n")
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
