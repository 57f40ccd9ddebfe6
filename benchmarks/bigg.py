"""Seconds of BiGG, each against a named peer in one run, alternating; one core, CPU time.

    python benchmarks/bigg.py [--record]

Training against the recursion that takes one decision at a time; sampling 64 graphs together against one by one; forward and
backward on square grids against the dense model, with fitted exponents; planning against the step it serves.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import numpy as np  # noqa: E402  the environment first
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from reprise.kits.graphs.graph import Graph  # noqa: E402
from reprise.kits.graphs.shapes import grid  # noqa: E402
from reprise.papers.bigg import cells  # noqa: E402
from reprise.papers.bigg.dense import GraphRNN, plan_dense, window_of  # noqa: E402
from reprise.papers.bigg.draws import uniforms  # noqa: E402
from reprise.papers.bigg.model import BiGG  # noqa: E402
from reprise.papers.bigg.orders import ordered  # noqa: E402
from reprise.papers.bigg.plan import Batch, Rows, plan_batch, plan_trees  # noqa: E402
from reprise.papers.bigg.recursive import Recursion  # noqa: E402
from reprise.papers.bigg.sample import sample  # noqa: E402
from reprise.papers.bigg.scaling import exponent  # noqa: E402
from reprise.report import markdown_table  # noqa: E402
from reprise.verify import machine  # noqa: E402

RECORD = Path(__file__).with_suffix(".md")
SIDES = range(3, 9)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def best(*works: Callable[[], object], repeats: int = 3) -> list[float]:
    """The best CPU seconds of each, in alternating runs after one to warm up."""
    works[0]()
    return [min(times) for times in zip(*[[seconds(work) for work in works] for _ in range(repeats)])]


def make(d: int) -> BiGG:
    """One model with fresh weights."""
    return BiGG(1, d, "light", 0, True, torch.Generator().manual_seed(0))


def backward(model: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward of a batch, planned before."""
    model.zero_grad(set_to_none=True)
    (model(batch).sum() / batch.nodes).backward()


def plain_gates(x: torch.Tensor, signed: bool, c_s: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """`cells.gates` with torch's own tanh: more arithmetic and fewer calls."""
    d = c_s[0].shape[-1]
    a = x.sigmoid()
    first_tanh = 2 * d if signed else -d
    torch.tanh(x[..., first_tanh:], out=a[..., first_tanh:])
    i, o, *forget, u = a.view(*a.shape[:-1], len(c_s) + 3, d).unbind(-2)
    c = i * u
    for f, c_k in zip(forget, c_s):
        c.addcmul_(f, c_k)
    t = c.tanh()
    return o * t, c, a, t


# What `cells` does is made for many rows at once; the peers, which have one, are quicker with torch's own functions and get them.
for_one_row = patch.multiple(cells, elu=F.elu, gates=plain_gates)


def training(d: int, side: int = 14) -> tuple[float, float]:
    """Sixteen 196-node grids, each in a breadth-first order of its own, planning included, against one of them by recursion.

    -> how many times as fast per graph; planning's share of the step.
    """
    rows = [Rows.of_graph(ordered(grid(side, side), "bfs", np.random.default_rng(k))) for k in range(16)]
    trees, model = [plan_trees(r) for r in rows], make(d)

    @for_one_row
    def recursion() -> None:
        model.zero_grad(set_to_none=True)
        Recursion(model).observe(rows[0]).backward()

    ours, theirs, planning = best(lambda: backward(model, plan_batch(trees)), recursion, lambda: plan_batch(trees))
    return 16 * theirs / ours, planning / ours


def trained(d: int, steps: int) -> BiGG:
    """A model that has seen enough grids of 9 to 64 nodes for samples of a realistic size."""
    model, rng = make(d), np.random.default_rng(0)
    trees = [plan_trees(Rows.of_graph(ordered(grid(a, b), "bfs"))) for a in SIDES for b in SIDES]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for _ in range(steps):
        backward(model, plan_batch([trees[k] for k in rng.choice(len(trees), 8, replace=False)]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimiser.step()
    return model.requires_grad_(False)


def sampling(model: BiGG, sizes: list[int], alone: int = 8) -> tuple[float, float]:
    """All sizes together against the first few, one decision at a time, from the same uniform numbers and without autograd.

    -> how many times as fast per edge; milliseconds for each edge together.
    """
    edges = {}

    def together() -> None:
        rows = sample(model, [np.arange(n) for n in sizes], uniforms(torch.Generator().manual_seed(0), len(sizes))).rows
        edges["all"], edges["first"] = (sum(len(r.edges_E2) for r in part) for part in (rows, rows[:alone]))

    @for_one_row
    @torch.inference_mode()
    def one_by_one() -> None:
        streams = uniforms(torch.Generator().manual_seed(0), len(sizes))
        found = sum(len(Recursion(model).sample(n, np.arange(n), stream.__next__)) for n, stream in zip(sizes[:alone], streams))
        assert found == edges["first"]  # the same graphs

    ours, theirs = best(together, one_by_one, repeats=5)
    return theirs / edges["first"] / (ours / edges["all"]), 1e3 * ours / edges["all"]


def scaling(largest_dense: int, d: int = 32) -> pd.DataFrame:
    """Seconds of forward and backward on square grids, one row a grid; NaN where the dense model was not run.

    Small grids go in batches of about 1024 nodes, as in training: else the overhead of a call, the same for all sizes, would flatter
    the exponents. The dense model runs over all pairs of nodes, and over those within the bandwidth of the order.
    """
    table = []
    for side in (8, 16, 32, 45, 64, 96, 100):
        copies, graph = max(1, 1024 // side**2), ordered(grid(side, side), "bfs")
        trees = [plan_trees(Rows.of_graph(graph))] * copies
        batch, model = plan_batch(trees), make(d)
        works = {"bigg": lambda: backward(model, batch), "planning": lambda: plan_batch(trees)}  # noqa: B023
        if graph.n <= largest_dense:
            for name, window in (("dense", graph.n - 1), ("dense_windowed", window_of([graph]))):
                dense, plan = GraphRNN(1, d, d, window, torch.Generator().manual_seed(0)), plan_dense([graph] * copies, window)
                works[name] = lambda dense=dense, plan=plan: backward(dense, plan)
        times = best(*works.values(), repeats=3 if graph.n < 2000 else 2)
        table.append({"n": graph.n, "size": graph.n + graph.m, "stages": batch.stages} | {name: t / copies for name, t in zip(works, times)})
        print(table[-1], flush=True)
    return pd.DataFrame(table)


def main() -> int:
    """Measure, print, perhaps record; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the figures to {RECORD.name}")
    parser.add_argument("--dense", type=int, default=2025, help="nodes of the largest grid for the dense model; needs about 3 GB for 2025")
    args = parser.parse_args()
    determinism.configure_torch()
    goals = []
    for d in (64, 128):
        ratio, share = training(d)
        goals.append((f"training at d = {d}: at least 20 times as fast as the recursion", f"{ratio:.0f}", ratio >= 20))
        goals.append((f"planning a batch, d = {d}: below 10 % of the step", f"{share:.1%}", share < 0.1))
    model, rng = trained(64, 150), np.random.default_rng(1)
    mixed = rng.choice([a * b for a in SIDES for b in SIDES], 64).tolist()
    for what, sizes in (("9 to 64 nodes, as in grids with sides 3 to 8", mixed), ("64 nodes each", [64] * 64)):
        ratio, per_edge = sampling(model, sizes)
        goals.append((f"64 graphs sampled together, {what}: at least 15 times as fast as one by one", f"{ratio:.1f}; {per_edge:.3f} ms per edge", ratio >= 15))
    table = scaling(args.dense)
    fit = table[table.n <= 9216]
    ours = exponent(fit["size"], fit.bigg)
    goals.append(("exponent in n + m, 64 to 9216 nodes: at most 1.15", f"{ours:.2f}", ours <= 1.15))
    known = table.dropna(subset=["dense"])
    for least in (64, 256, 1024):
        part = known[known.n >= least]
        if len(part) > 1:
            theirs, windowed = (exponent(part["size"], part[name]) for name in ("dense", "dense_windowed"))
            seen = f"{theirs:.2f}; within the bandwidth {windowed:.2f}"
            goals.append((f"exponent of the dense model, {least} to {part.n.max()} nodes: at least 1.8", seen, theirs >= 1.8))
    last = table[table.n == 10000].iloc[0]
    goals.append(("forward and backward of a grid of 10000 nodes at d = 32: below 2 s", f"{last.bigg:.2f} s", last.bigg < 2))
    share = (table.planning / table.bigg).max()
    goals.append(("planning, every grid: below 10 % of the step", f"at most {share:.1%}", share < 0.1))
    judged = pd.DataFrame([(goal, seen, "met" if met else "missed") for goal, seen, met in goals], columns=["goal", "measured", "verdict"])
    shown = pd.DataFrame({"n": table.n, "n + m": table["size"], "sequential steps": table.stages, "BiGG, microseconds a node": 1e6 * table.bigg / table.n})
    for key, name in (("dense", "dense"), ("dense_windowed", "dense within the bandwidth")):
        shown[f"{name}, over BiGG"] = table[key] / table.bigg
    shown = shown.astype(object).where(shown.notna(), "–")
    print(judged.to_string(index=False), shown.to_string(index=False), sep="\n")
    if args.record:
        parts = [
            "# Speed of BiGG against the recursion and a dense model",
            f"Made by `python benchmarks/bigg.py --record` on: {machine()}; Python {platform.python_version()}, numpy {np.__version__}, "
            f"torch {torch.__version__}. One thread, CPU time, best of several alternating runs.",
            markdown_table(judged),
            "## Forward and backward on square grids\n\n" + " ".join(scaling.__doc__.split("\n\n")[1].split()),
            markdown_table(shown, 3),
        ]
        RECORD.write_text("\n\n".join(parts) + "\n")
    return 0 if judged.verdict.eq("met").all() else 1


if __name__ == "__main__":
    sys.exit(main())
