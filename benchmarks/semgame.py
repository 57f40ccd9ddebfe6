"""The stacks and grids of semgame against the ordinary way to write them, one core; the sides alternate in this process.

    python benchmarks/semgame.py [--record]

- theory mode: six seeds as one tensor with gradients by hand, against a loop over seeds with autograd (same start, same data);
- suite: 40 games in one stack, against each game alone with nn.Sequential (same start, same data) and against a stack of one;
- KIV: both grids from one eigendecomposition each, against one solve for each value, as in its authors' code.

Results must agree before a ratio counts. `--record` writes the ratios, with the processor, to benchmarks/semgame.md.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import numpy as np
import pandas as pd
import torch

from reprise.papers.semgame import circle, kiv
from reprise.papers.semgame.designs import Toy
from reprise.papers.semgame.game import Average, TwoLayer, play
from reprise.papers.semgame.neural import Mlp, OptimisticAdam, gradients, sem
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")
SEEDS, BATCH, STEPS, EVERY = 6, 8, 400, 10
MEMBERS, HIDDEN, GAME_BATCH, GAME_STEPS = 40, 64, 128, 20
HALF = 1000  # as on the suite
REPEATS = 3


def compare(*sides: Callable) -> list[tuple[float, object]]:
    """The least CPU seconds of each side over alternating repeats, and its result."""
    found = [(float("inf"), None)] * len(sides)
    for _ in range(REPEATS):
        for i, side in enumerate(sides):
            start = time.process_time()
            result = side()
            found[i] = (min(found[i][0], time.process_time() - start), result)
    return found


def theory(widths: tuple[int, ...]) -> float:
    """The ratio for arms of these widths m, which we play in one loop."""
    half = {(p, m): torch.randn(SEEDS, m // 2, 3, generator=torch.Generator().manual_seed(m + i)) / 3**0.5 for i, p in enumerate("fu") for m in widths}
    draws = circle.draw(circle.Circle(s=0.6, kappa=2.0, noise=0.3), (STEPS, SEEDS, BATCH), np.random.default_rng(0))
    x, z = (torch.tensor(circle.features(a), dtype=torch.float32).transpose(-1, -2).contiguous() for a in (draws.x, draws.z))
    y = torch.tensor(draws.y, dtype=torch.float32)
    grid = torch.tensor(circle.features(circle.X_G).T, dtype=torch.float32)
    alpha, eta, ball = 0.05, [5 / (t + 1) ** 0.5 for t in range(STEPS)], 20.0

    def stacked() -> torch.Tensor:
        f, u = (TwoLayer(widths, [ball] * len(widths), [[half[p, m][s] for m in widths] for s in range(SEEDS)]) for p in "fu")
        average, c_K, alpha_A = Average((SEEDS, len(widths), circle.GRID)), torch.ones(1), torch.full((len(widths),), alpha)
        for t in range(STEPS):
            if t % EVERY == 0:
                average.add(f(grid.expand(SEEDS, 3, -1)))
            play(f, u, x[t][:, :, None], y[t], z[t], c_K, alpha_A, torch.full((len(widths),), eta[t]))
        return average.mean.transpose(0, 1)

    def alone(m: int, s: int) -> torch.Tensor:
        b = torch.cat([torch.ones(m // 2), -torch.ones(m // 2)]) / m**0.5
        starts = [half[p, m][s].repeat(2, 1) for p in "fu"]
        weights, total = [w.clone().requires_grad_() for w in starts], torch.zeros(circle.GRID, dtype=torch.float64)
        for t in range(STEPS):
            if t % EVERY == 0:
                with torch.no_grad():
                    total += b @ (weights[0] @ grid).relu()
            f, u = (b @ (w @ a[t, s]).relu() for w, a in zip(weights, (x, z)))
            phi = ((f - y[t, s]) * u - u.square() / 2 + alpha * f.square() / 2).mean()
            phi.backward()
            with torch.no_grad():
                for w, start, sign in zip(weights, starts, (-1, 1)):
                    w += sign * eta[t] * w.grad
                    w.copy_(start + (w - start) * min(1.0, ball / max((w - start).norm().item(), 1e-30)))
                    w.grad = None
        return total / (STEPS // EVERY)

    def one_by_one() -> torch.Tensor:
        return torch.stack([torch.stack([alone(m, s) for s in range(SEEDS)]) for m in widths])

    (fast, ours), (slow, theirs) = compare(stacked, one_by_one)
    apart = (ours - theirs).abs().max().item()
    assert apart < 1e-3, apart
    print(f"theory mode, {SEEDS} seeds, m = {widths}, {STEPS} steps: stack {fast:.2f} s, loop over seeds with autograd {slow:.2f} s CPU; functions differ by at most {apart:.1g}")
    return slow / fast


def suite() -> tuple[float, float]:
    """The ratios of a game alone, as a stack of one and by nn.Sequential, to its share of the stack."""
    g = torch.Generator().manual_seed(0)
    x, y, z = torch.randn(GAME_STEPS, MEMBERS, 1, 1, GAME_BATCH, generator=g), torch.randn(GAME_STEPS, MEMBERS, GAME_BATCH, generator=g), torch.randn(GAME_STEPS, MEMBERS, 2, GAME_BATCH, generator=g)
    alpha, c_K = 1e-3, torch.ones(1)

    def stacked(members: range) -> torch.Tensor:
        rows = slice(members.start, members.stop)
        f, u = (Mlp([inputs, HIDDEN, HIDDEN, 1], [torch.Generator().manual_seed(1000 * inputs + i) for i in members]) for inputs in (1, 2))
        column = lambda value: torch.full((len(members), 1), value)  # noqa: E731
        moves = [OptimisticAdam(p.theta_MP, column(lr), column(0.5), column(0.9)) for p, lr in ((f, 1e-3), (u, 5e-3))]
        for t in range(GAME_STEPS):
            g_f, g_u, _ = gradients(sem, f, u, x[t, rows], y[t, rows], z[t, rows], c_K, alpha)
            moves[0].step(g_f, t + 1, 1.0)
            moves[1].step(g_u.neg_(), t + 1, 1.0)
        return f(x[0, rows, :, 0])

    def module(inputs: int, member: int) -> torch.nn.Module:
        net = torch.nn.Sequential(torch.nn.Linear(inputs, HIDDEN), torch.nn.LeakyReLU(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.LeakyReLU(), torch.nn.Linear(HIDDEN, 1))
        start = Mlp([inputs, HIDDEN, HIDDEN, 1], [torch.Generator().manual_seed(1000 * inputs + member)])
        torch.nn.utils.vector_to_parameters(start.theta_MP[0], net.parameters())
        return net

    def one_by_one() -> torch.Tensor:
        results = []
        for i in range(MEMBERS):
            nets = [module(1, i), module(2, i)]
            state = [[(torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)) for p in net.parameters()] for net in nets]
            for t in range(GAME_STEPS):
                f, u = nets[0](x[t, i, :, 0].T)[:, 0], nets[1](z[t, i].T)[:, 0]
                loss = sem(f - y[t, i], u, f, alpha)
                for net in nets:
                    net.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for net, moments, lr, sign in zip(nets, state, (1e-3, 5e-3), (1, -1)):
                        for p, (m, v, before) in zip(net.parameters(), moments):
                            grad = (sign * p.grad).clamp(-1, 1)
                            m.lerp_(grad, 0.5)
                            v.lerp_(grad.square(), 0.1)
                            d = lr * (m / (1 - 0.5 ** (t + 1))) / (determinism.exact_sqrt(v / (1 - 0.9 ** (t + 1))) + 1e-8)
                            p.sub_(2 * d - before)
                            before.copy_(d)
            results.append(nets[0](x[0, i, :, 0].T)[:, 0].detach())
        return torch.stack(results)

    (fast, ours), (alone, _), (slow, theirs) = compare(lambda: stacked(range(MEMBERS)), lambda: [stacked(range(i, i + 1)) for i in range(MEMBERS)], one_by_one)
    apart = (ours - theirs).abs().median().item()  # the median: Adam's first steps turn the rounding of a gradient near 0 into a step
    assert apart < 1e-3, apart
    print(f"suite, {MEMBERS} games of {HIDDEN}-{HIDDEN}, batch {GAME_BATCH}: stack {fast:.2f} s, stacks of one {alone:.2f} s, nn.Sequential one by one {slow:.2f} s CPU; functions differ by {apart:.1g} in the median")
    return alone / fast, slow / fast


def grids(values: int) -> float:
    """The ratio for so many values of each ridge between 10^-2 and 10^-10."""
    ridges = np.logspace(-2, -10, values)
    toy = Toy(kind="toy", g="sin", instruments="two", seeds=2, n=HALF, dev=HALF, test=HALF)
    first, second = ((s.x, s.y, s.z) for s in (toy.draw(HALF, np.random.default_rng(i), "train") for i in (0, 1)))
    points = np.linspace(-3, 3, 60)[:, None]

    def one_solve_each() -> np.ndarray:
        (x, y, z), (x2, y2, z2) = ((a[:, 0] if a.ndim == 3 else a for a in part) for part in (first, second))
        n, m, scale_x, scale_z = len(y), len(y2), kiv.median_scale(x), kiv.median_scale(z)
        kxx, kxx2, kzz, kzz2 = kiv.rbf(x, x, scale_x), kiv.rbf(x, x2, scale_x), kiv.rbf(z, z, scale_z), kiv.rbf(z, z2, scale_z)
        gammas = [np.linalg.solve(kzz + n * ridge * np.eye(n), kzz2) for ridge in ridges]
        gamma = gammas[int(np.argmin([np.trace(g.T @ kxx @ g - 2 * kxx2.T @ g) for g in gammas]))]
        w = kxx @ gamma
        betas = [np.linalg.solve(w @ w.T + m * ridge * kxx, w @ y2) for ridge in ridges]
        beta = betas[int(np.argmin([np.square(y - kxx @ b).mean() for b in betas]))]
        return kiv.rbf(points, x, scale_x) @ beta

    (fast, ours), (slow, theirs) = compare(lambda: kiv.fit(first, second, np.ones(1), ridges)(points), one_solve_each)
    apart = np.abs(ours - theirs).max()
    assert apart < 1e-2, apart
    print(f"KIV, halves of {HALF}, {values} values of each ridge: one eigendecomposition each {fast:.2f} s, one solve a value {slow:.2f} s CPU; predictions differ by at most {apart:.1g}")
    return slow / fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    determinism.configure_torch()
    rows = [(f"theory mode, {SEEDS} seeds, m = {', '.join(map(str, m))}: a loop over widths and seeds with autograd", theory(m), 5) for m in ((32,), (128,), (512,), (8, 32, 128, 512))]
    rows += [(f"suite, {MEMBERS} games: {side}", ratio, 2.5) for side, ratio in zip(("a stack of one each", "nn.Sequential one by one"), suite())]
    rows += [(f"KIV, {2 * HALF} examples, {values} values of each ridge{whose}: a solve for each", grids(values), goal) for values, whose, goal in ((50, ", the authors' grid", 5), (9, "", None))]
    verdict = {True: "met", False: "missed", None: ""}
    table = pd.DataFrame([(what, f"{ratio:.1f}", f"{goal:g}" if goal else "–", verdict[goal and ratio >= goal]) for what, ratio, goal in rows], columns=["what the ordinary way costs", "times ours", "goal", "verdict"])
    print(table.to_string(index=False))
    if args.record:
        versions = f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
        told = f"Made by `python benchmarks/semgame.py --record` on: {machine()}; {versions}. One thread, CPU time, best of {REPEATS} in alternating order; equal results are asserted."
        RECORD.write_text(f"# Stacks and grids of semgame against the ordinary way\n\n{told}\n\n{markdown_table(table)}\n")


if __name__ == "__main__":
    main()
