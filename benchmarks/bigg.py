"""Seconds of BiGG, each against a named peer in one run, alternating; one core, CPU time.

    python benchmarks/bigg.py [--largest 9216]

Training against the recursion that takes one decision at a time; sampling 64 graphs together against one by one;
forward and backward on square grids against the dense model, with fitted exponents; planning against the step it serves.
"""

import argparse
import sys
import time

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import numpy as np  # noqa: E402  the environment first
import torch  # noqa: E402

from reprise.kits.graphs.graph import Graph  # noqa: E402
from reprise.kits.graphs.shapes import grid  # noqa: E402
from reprise.papers.bigg.dense import GraphRNN, plan_dense, window_of  # noqa: E402
from reprise.papers.bigg.model import BiGG  # noqa: E402
from reprise.papers.bigg.orders import ordered  # noqa: E402
from reprise.papers.bigg.plan import Rows, plan_batch, plan_trees  # noqa: E402
from reprise.papers.bigg.recursive import Recursion  # noqa: E402
from reprise.papers.bigg.draws import uniforms
from reprise.papers.bigg.sample import sample  # noqa: E402
from reprise.papers.bigg.scaling import exponent  # noqa: E402


def seconds(work) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def versus(ours, theirs, repeats: int = 3) -> tuple[float, float]:
    """The best of several alternating runs of each."""
    ours()  # warm
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return tuple(min(side) for side in zip(*pairs))


def make(d: int) -> BiGG:
    """One model with fresh weights."""
    return BiGG(1, d, "light", 0, True, torch.Generator().manual_seed(0))


def backward(model: torch.nn.Module, batch) -> None:
    """Forward and backward of a batch, planned before."""
    model.zero_grad(set_to_none=True)
    (model(batch).sum() / batch.nodes).backward()


def training(side: int = 14) -> None:
    """Sixteen 196-node grids, each in a random breadth-first order, vectorised with planning, against one of them by recursion; per graph."""
    rows = [Rows.of_graph(ordered(grid(side, side), "bfs", np.random.default_rng(k))) for k in range(16)]
    trees = [plan_trees(r) for r in rows]
    for d in (64, 128):
        model = make(d)

        def recursion():
            model.zero_grad(set_to_none=True)  # noqa: B023
            Recursion(model).observe(rows[0]).backward()  # noqa: B023

        ours, theirs = versus(lambda: backward(model, plan_batch(trees)), recursion)  # noqa: B023
        plan = min(seconds(lambda: plan_batch(trees)) for _ in range(5))
        print(f"d = {d}: {1e3 * ours / 16:.1f} ms vectorised, {1e3 * theirs:.0f} ms by recursion per graph: {16 * theirs / ours:.0f} times as fast; planning is {plan / ours:.1%} of the step")


def trained(d: int, steps: int, graphs: list[Graph]) -> BiGG:
    """A model that has seen enough grids for samples of a realistic size."""
    model, rng = make(d), np.random.default_rng(0)
    trees = [plan_trees(Rows.of_graph(g)) for g in graphs]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for _ in range(steps):
        backward(model, plan_batch([trees[k] for k in rng.choice(len(trees), 8, replace=False)]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5)
        optimiser.step()
    return model.requires_grad_(False)


def sampling(d: int = 64, together: int = 64, alone: int = 8) -> None:
    """64 grid-like graphs together against one decision at a time, the first eight of them, with the same uniform numbers; per edge."""
    model = trained(d, 150, [ordered(grid(a, b), "bfs") for a in range(3, 9) for b in range(3, 9)])
    sizes = [int(n) for n in np.random.default_rng(1).choice([a * b for a in range(3, 9) for b in range(3, 9)], together)]
    edges = {}

    def batched():
        rows = sample(model, [np.arange(n) for n in sizes], uniforms(torch.Generator().manual_seed(0), together)).rows
        edges["together"] = sum(len(r.edges_E2) for r in rows)
        edges["the first"] = sum(len(r.edges_E2) for r in rows[:alone])

    def one_by_one():
        stream = uniforms(torch.Generator().manual_seed(0), together)
        with torch.no_grad():
            found = sum(len(Recursion(model).sample(n, np.arange(n), lambda g=g: stream(np.array([g]))[0])) for g, n in enumerate(sizes[:alone]))
        assert found == edges["the first"]  # the same graphs

    ours, theirs = versus(batched, one_by_one, repeats=2)
    per_edge = 1e3 * ours / edges["together"], 1e3 * theirs / edges["the first"]
    print(f"d = {d}: {per_edge[0]:.2f} ms per edge together, {per_edge[1]:.2f} ms one by one: {per_edge[1] / per_edge[0]:.0f} times as fast; {1e3 * ours / together:.0f} ms per graph")


def scaling(largest: int, dense_largest: int = 1024, d: int = 32) -> None:
    """Forward and backward on square grids. Small ones go in batches of about 1024 nodes, as in training: else the overhead
    of a call would flatter the exponents. The dense model runs over all pairs, and within the bandwidth of the order."""
    table: dict[str, list[tuple[int, float]]] = {"BiGG": [], "dense": [], "dense, windowed": []}
    for side in (8, 16, 32, 64, 96):
        n = side * side
        if n > largest:
            break
        copies, graph = max(1, 1024 // n), ordered(grid(side, side), "bfs")
        trees = [plan_trees(Rows.of_graph(graph))] * copies
        batch, model = plan_batch(trees), make(d)
        work = {"BiGG": lambda: backward(model, batch)}  # noqa: B023
        if n <= dense_largest:
            for name, window in (("dense", n - 1), ("dense, windowed", window_of([graph]))):
                dense, dense_batch = GraphRNN(1, d, d, window, torch.Generator().manual_seed(0)), plan_dense([graph] * copies, window)
                work[name] = lambda dense=dense, dense_batch=dense_batch: backward(dense, dense_batch)
        work["BiGG"]()  # warm
        runs = [{name: seconds(run) for name, run in work.items()} for _ in range(2)]
        best = {name: min(run[name] for run in runs) / copies for name in work}
        for name, value in best.items():
            table[name].append((graph.n + graph.m, value))
        planning = min(seconds(lambda: plan_batch(trees)) for _ in range(3)) / copies / best["BiGG"]  # noqa: B023
        print(f"n = {n}: " + ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in best.items()) + f"; {1e6 * best['BiGG'] / graph.m:.0f} us per edge, {batch.stages} stages, planning {planning:.1%} of the step", flush=True)
    print("exponents in n + m: " + ", ".join(f"{name} {exponent(*zip(*points)):.2f}" for name, points in table.items() if len(points) > 1))
    rows = Rows.of_graph(ordered(grid(100, 100), "bfs"))
    batch, model = plan_batch([plan_trees(rows)]), make(d)
    backward(model, batch)
    print(f"n = 10000: {min(seconds(lambda: backward(model, batch)) for _ in range(3)):.2f} s forward and backward; the trees are planned once, in {seconds(lambda: plan_trees(rows)):.2f} s")


def main() -> None:
    """Run all and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=9216, help="nodes of the largest grid in the fit")
    args = parser.parse_args()
    determinism.configure_torch()
    for name, work in (("training", training), ("sampling", sampling), ("scaling", lambda: scaling(args.largest))):
        print(name, flush=True)
        work()


if __name__ == "__main__":
    main()
