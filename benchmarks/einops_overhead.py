"""What the notation costs on top of the raw operations: ours against the package einops, in one run.

    python benchmarks/einops_overhead.py [--quick] [--only TEXT] [--record]

Every row times raw code, the official package and ours on the same tensor, one after the other in alternating order: CPU
time of one thread, best of many repeats. Overhead is a call's time minus that of raw code. `--record` writes the ratios,
with the processor they were measured on, to benchmarks/einops_overhead.md; times of one's own never enter the repository.
"""

import argparse
import gc
import platform
import sys
import threading
import time
import timeit
import tracemalloc
from pathlib import Path
from typing import Any

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("fast", sys.argv)  # one thread, also in the libraries behind numpy

import einops
import einops.layers.torch
import numpy as np
import pandas as pd
import torch

from reprise.kits import notation
from reprise.kits.notation import caching, verbs
from reprise.kits.notation.layers import torch as layers
from reprise.papers.einops.model import OPERATIONS, Network
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")
SMALL, LARGE = (2, 4, 4, 3), (8, 64, 64, 16)


# operation, the call in either package, raw numpy, raw torch
ROWS = [
    ("identity", "rearrange(x, 'b h w c -> b h w c')", "x", "x"),
    ("transpose", "rearrange(x, 'b h w c -> b c h w')", "x.transpose(0, 3, 1, 2)", "x.permute(0, 3, 1, 2)"),
    ("transpose, ellipsis", "rearrange(x, '... h w -> ... w h')", "x.transpose(0, 1, 3, 2)", "x.transpose(-1, -2)"),
    ("flatten", "rearrange(x, 'b h w c -> b (h w c)')", "x.reshape(2, -1)", "x.reshape(2, -1)"),
    ("flatten, ellipsis", "rearrange(x, 'b ... -> b (...)')", "x.reshape(2, -1)", "x.reshape(2, -1)"),
    ("transpose and flatten", "rearrange(x, 'b h w c -> b c (h w)')", "x.transpose(0, 3, 1, 2).reshape(2, 3, 16)", "x.permute(0, 3, 1, 2).reshape(2, 3, 16)"),
    ("insert a unit axis", "rearrange(x, 'b h w c -> b 1 h w c')", "x[:, None]", "x.unsqueeze(1)"),
    ("split", "rearrange(x, 'b h (w k) c -> b h w k c', k=2)", "x.reshape(2, 4, 2, 2, 3)", "x.reshape(2, 4, 2, 2, 3)"),
    (
        "space to depth",
        "rearrange(x, 'b (h i) (w j) c -> b h w (c i j)', i=2, j=2)",
        "x.reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 2, 12)",
        "x.reshape(2, 2, 2, 2, 2, 3).permute(0, 1, 3, 5, 2, 4).reshape(2, 2, 2, 12)",
    ),
    (
        "patches",
        "rearrange(x, 'b (h i) (w j) c -> b (h w) (i j c)', i=2, j=2)",
        "x.reshape(2, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 12)",
        "x.reshape(2, 2, 2, 2, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 12)",
    ),
    ("list to batch", "rearrange(listed, 'b h w c -> b h w c')", "xp.stack(listed)", "xp.stack(listed)"),
    ("sum of all", "reduce(x, 'b h w c ->', 'sum')", "x.sum()", "x.sum()"),
    ("mean over h w", "reduce(x, 'b h w c -> b c', 'mean')", "x.mean((1, 2))", "x.mean((1, 2))"),
    ("max over h w, units stay", "reduce(x, 'b h w c -> b 1 1 c', 'max')", "x.max((1, 2), keepdims=True)", "x.amax((1, 2), keepdim=True)"),
    ("sum and transpose", "reduce(x, 'b h w c -> c b', 'sum')", "x.sum((1, 2)).T", "x.sum((1, 2)).T"),
    ("max-pool 2x2", "reduce(x, 'b (h i) (w j) c -> b h w c', 'max', i=2, j=2)", "x.reshape(2, 2, 2, 2, 2, 3).max((2, 4))", "x.reshape(2, 2, 2, 2, 2, 3).amax((2, 4))"),
    ("mean-pool 2x2, numbers", "reduce(x, 'b (h 2) (w 2) c -> b h w c', 'mean')", "x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))", "x.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))"),
    ("prod over h w", "reduce(x, 'b h w c -> b c', 'prod')", "x.prod((1, 2))", "x.prod(1).prod(1)"),
    ("repeat, new last axis", "repeat(x, 'b h w c -> b h w c r', r=5)", "x[..., None].repeat(5, -1)", "x.unsqueeze(4).expand(2, 4, 4, 3, 5)"),
    ("repeat, new first axis", "repeat(x, 'b h w c -> r b h w c', r=5)", "x[None].repeat(5, 0)", "x.expand(5, 2, 4, 4, 3)"),
    ("upsample 2x2", "repeat(x, 'b h w c -> b (h i) (w j) c', i=2, j=2)", "x.repeat(2, 1).repeat(2, 2)", "x[:, :, None, :, None].expand(2, 4, 2, 4, 2, 3).reshape(2, 8, 8, 3)"),
    ("einsum, matrix product", "einsum(m, n, 'i k, k j -> i j')", "xp.einsum('ik,kj->ij', m, n)", "xp.einsum('ik,kj->ij', m, n)"),
    ("einsum, attention", "einsum(q, k, 'b h i d, b h j d -> b h i j')", "xp.einsum('bhid,bhjd->bhij', q, k)", "xp.einsum('bhid,bhjd->bhij', q, k)"),
    ("pack 3", "pack(parts, 'b h w *')", "xp.concatenate([parts[0], parts[1][..., None], parts[2]], -1)", "xp.cat([parts[0], parts[1][..., None], parts[2]], -1)"),
    ("unpack 3", "unpack(packed, shapes, 'b h w *')", "[packed[..., 0:3], packed[..., 3], packed[..., 4:6]]", "[packed[..., 0:3], packed[..., 3], packed[..., 4:6]]"),
]
LAYERS = [
    ("space to depth", "Rearrange", ("b (h i) (w j) c -> b h w (c i j)",), {"i": 2, "j": 2}, ROWS[8][3]),
    ("flatten", "Rearrange", ("b h w c -> b (h w c)",), {}, ROWS[3][3]),
    ("max-pool 2x2", "Reduce", ("b (h i) (w j) c -> b h w c", "max"), {"i": 2, "j": 2}, ROWS[15][3]),
    ("mean over h w", "Reduce", ("b h w c -> b c", "mean"), {}, ROWS[12][3]),
]
VERBS = ["rearrange", "reduce", "repeat", "einsum", "pack", "unpack"]


def best(programs: list[tuple[str, dict]], repeats: int, budget: float = 0.003) -> list[float]:
    """The best CPU time in ns of each (statement, its names); the order alternates so that none is always first."""
    timers = [timeit.Timer(statement, timer=time.process_time, globals=names) for statement, names in programs]
    loops = max(5, int(budget / (min(timer.timeit(20) for timer in timers) / 20 + 1e-9)))
    times: list[list[float]] = [[] for _ in timers]
    for repeat in range(repeats):
        for i in range(len(timers)) if repeat % 2 else reversed(range(len(timers))):
            times[i].append(timers[i].timeit(loops) / loops)
    return [min(t) * 1e9 for t in times]


def inputs(xp: Any, shape: tuple[int, ...], scale: int) -> dict[str, Any]:
    """What the statements of ROWS name, for numpy or torch."""
    rng = np.random.default_rng(0)
    make = (lambda *shape: torch.from_numpy(rng.random(shape, "f"))) if xp is torch else (lambda *shape: rng.random(shape, "f"))
    x = make(*shape)
    parts = [x, x[..., 0], x[..., :2]]
    packed, shapes = einops.pack(parts, "b h w *")
    names = {"x": x, "xp": xp, "listed": [x[0], x[1]], "parts": parts, "packed": packed, "shapes": [tuple(shape) for shape in shapes]}
    m = scale * 8
    return names | {"m": make(m, m - 3), "n": make(m - 3, m + 2), "q": make(2, 3, m, 8), "k": make(2, 3, m + 2, 8)}


def cached(repeats: int, only: str) -> pd.DataFrame:
    """One row for each operation and library, layers included, on the small tensor: raw, official and ours in ns."""
    table = []
    for library, xp in (("numpy", np), ("torch", torch)):
        names = inputs(xp, SMALL, 1)
        of = [names, *[names | {verb: getattr(package, verb) for verb in VERBS} for package in (einops, notation)]]
        for operation, call, raw_numpy, raw_torch in [row for row in ROWS if only in row[0]]:
            programs = [(raw_numpy if xp is np else raw_torch, of[0]), (call, of[1]), (call, of[2])]
            table.append((library, operation, *best(programs, repeats)))
    x = torch.rand(SMALL)
    for operation, kind, arguments, lengths, raw in [row for row in LAYERS if only in row[0]]:
        made = [getattr(package, kind)(*arguments, **lengths) for package in (einops.layers.torch, layers)]
        table.append(("torch layer", operation, *best([(raw, {"x": x}), *[("layer(x)", {"x": x, "layer": layer}) for layer in made]], repeats)))
    frame = pd.DataFrame(table, columns=["library", "operation", "raw", "official", "ours"])
    frame["overhead_ratio"] = (frame.ours - frame.raw) / (frame.official - frame.raw).clip(lower=1)
    frame["time_ratio"] = frame.ours / frame.official
    return frame


def large(repeats: int) -> pd.DataFrame:
    """The same calls where moving the data takes the time: official and ours in ns."""
    table = []
    for library, xp in (("numpy", np), ("torch", torch)):
        names = inputs(xp, LARGE, 16)
        of = [names | {verb: getattr(package, verb) for verb in VERBS} for package in (einops, notation)]
        table += [(library, operation, *best([(call, of[0]), (call, of[1])], repeats)) for operation, call, *_ in ROWS]
    frame = pd.DataFrame(table, columns=["library", "operation", "official", "ours"])
    frame["time_ratio"] = frame.ours / frame.official
    return frame


def uncached(repeats: int) -> pd.DataFrame:
    """A first call of a pattern (everything is parsed and planned), and the first call for a shape: official and ours in ns."""
    from einops import einops as official

    cases = [("transpose", "b h w c -> b c h w", {}), ("flatten", "b h w c -> b (h w c)", {}), ("space to depth", "b (h i) (w j) c -> b h w (c i j)", {"i": 2, "j": 2})]

    def forget_patterns() -> None:
        official._prepare_transformation_recipe.cache_clear()
        official._reconstruct_from_shape.cache_clear()

    def forget_plans() -> None:
        for cache in (caching.plan, verbs._latest, verbs._by_shape):
            cache.cache_clear()

    ways = {"pattern": [forget_patterns, notation.clear_caches], "shape": [official._reconstruct_from_shape.cache_clear, forget_plans]}
    table = []
    for library, x in (("numpy", np.random.default_rng(0).random(SMALL, "f")), ("torch", torch.rand(SMALL))):
        for name, pattern, lengths in cases:
            for what, forget in ways.items():
                programs = []
                for package, way in zip((einops, notation), forget, strict=True):
                    names = {"x": x, "rearrange": package.rearrange, "pattern": pattern, "lengths": lengths, "forget": way}
                    programs += [("forget()", names), ("forget(); rearrange(x, pattern, **lengths)", names)]
                a, b, c, d = best(programs, repeats)
                table.append((library, f"{name}, new {what}", b - a, d - c, (d - c) / (b - a)))
    return pd.DataFrame(table, columns=["library", "call", "official", "ours", "time_ratio"])


def in_turn(patterns: int, repeats: int) -> dict[str, float]:
    """Many patterns used in turn: ns a call, ours with one pattern, ours and the official package with all of them."""
    x = np.random.default_rng(0).random(SMALL, "f")
    texts = [f"b{i} h w c -> b{i} c h w" for i in range(patterns)]
    notation.clear_caches()
    go_round = "for text in texts: rearrange(x, text)"
    ours, one = best([(go_round, {"texts": t, "x": x, "rearrange": notation.rearrange}) for t in (texts, texts[:1] * patterns)], repeats)
    official = best([(go_round, {"texts": texts, "x": x, "rearrange": einops.rearrange})], 1)[0]
    return {"one_pattern": one / patterns, "in_turn": ours / patterns, "in_turn_official": official / patterns}


def memory() -> dict[str, float]:
    """Megabytes that the caches hold after far more plans than they keep, of all kinds, and at their peak."""
    notation.clear_caches()
    x, matrix = np.zeros(SMALL, "f"), np.zeros((2, 2))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    for i in range(6000):
        notation.rearrange(x, f"b (h p{i}) (w q{i}) c -> b h w (c p{i} q{i})", **{f"p{i}": 2, f"q{i}": 2})
        if i % 3 == 0:
            notation.reduce(x, f"b (h p{i}) w c -> b h w c", "max", **{f"p{i}": 2})
            notation.einsum(matrix, matrix, f"a{i} b, b c -> a{i} c")
            notation.unpack(*notation.pack([matrix, matrix], f"a{i} *"), f"a{i} *")
    gc.collect()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    entries = caching.plan.cache_info().currsize
    notation.clear_caches()
    return {"held_mb": (held - before) / 1e6, "peak_mb": (peak - before) / 1e6, "plans": entries}


def soak(calls_in_all: int, threads: int = 8) -> dict[str, int]:
    """`threads` threads with patterns of their own and shared ones: wrong results, and how many plans there ever were."""
    wrong = [0] * threads
    sizes: list[int] = []

    def work(n: int) -> None:
        rng = np.random.default_rng(n)
        arrays = [rng.random(shape) for shape in [(2, 3 + n % 4, 4), (3, 2, 2 * n + 4)]]
        jobs = [(array, f"a b (c{k} d) -> (a d) c{k} b") for array in arrays for k in range(400)]
        wanted = {id(a): a.reshape(*a.shape[:2], -1, 2).transpose(0, 3, 2, 1).reshape(a.shape[0] * 2, -1, a.shape[1]) for a in arrays}
        for i in range(calls_in_all // threads):
            array, pattern = jobs[(i * 7 + n) % len(jobs)]
            want, got = wanted[id(array)], notation.rearrange(array, pattern, d=2)
            if got.shape != want.shape or got[-1, -1, -1] != want[-1, -1, -1] or got[1, 0, -1] != want[1, 0, -1]:
                wrong[n] += 1
            if n == 0 and i % 1000 == 0:
                sizes.append(caching.plan.cache_info().currsize)

    notation.clear_caches()
    team = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    return {"calls": calls_in_all, "threads": threads, "wrong": sum(wrong), "most_plans": max(sizes), "bound": caching.PLANS}


def model_step(repeats: int) -> dict[str, float]:
    """A training step of the paper's network, official and ours over raw."""
    programs = []
    x = torch.rand(16, 8, 8)
    for operations in OPERATIONS.values():
        network = Network(operations, side=8, patch=2, features=32, hidden=64, heads=4, blocks=2).start(torch.Generator().manual_seed(0))
        programs.append(("network(x).logsumexp(-1).sum().backward()", {"network": network, "x": x}))
    raw, *others = best(programs, repeats)
    return {name: time / raw for name, time in zip(list(OPERATIONS)[1:], others, strict=True)}


def main() -> int:
    """Measure, print, perhaps record; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and a shorter soak")
    parser.add_argument("--only", metavar="TEXT", help="time the small operations with this text in their name, and nothing else")
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 7 if args.quick else 25
    small = cached(repeats, args.only or "")
    show = {"index": False, "float_format": lambda v: f"{v:.2f}" if abs(v) < 20 else f"{v:.0f}"}
    print(small.to_string(**show), flush=True)
    if args.only:
        return 0
    moved, first = large(repeats), uncached(repeats)
    print(moved.to_string(**show), first.to_string(**show), sep="\n", flush=True)
    turns, held, steps = in_turn(2000, 7), memory(), model_step(repeats)
    soaked = soak(100_000 if args.quick else 1_000_000)
    of = dict(list(small.groupby("library")))
    within = {"numpy": 1 / 3, "torch": 1 / 2, "torch layer": 1 / 5}
    share = {library: (of[library].overhead_ratio <= most).mean() for library, most in within.items()}
    by_call = {what: first.time_ratio[first.call.str.endswith(what)] for what in ("pattern", "shape")}
    slowest = max(small.time_ratio.max(), moved.time_ratio.max())
    goals = [
        ("numpy: overhead at most 1/3 of the official one on 90 % of rows", f"{share['numpy']:.0%}", share["numpy"] >= 0.9),
        ("torch: overhead at most 1/2 on 90 % of rows", f"{share['torch']:.0%}", share["torch"] >= 0.9),
        ("torch layers: overhead at most 1/5 on all", f"{share['torch layer']:.0%}", share["torch layer"] == 1),
        ("no row more than 5 % slower, small or large tensor", f"slowest {slowest:.2f}", slowest <= 1.05),
        ("first call of a pattern at most the official time", f"slowest {by_call['pattern'].max():.2f}", by_call["pattern"].max() <= 1),
        ("first call of a shape, against the official time", f"{by_call['shape'].min():.2f} to {by_call['shape'].max():.2f}", None),
        ("2000 patterns in turn at the speed of one", f"{turns['in_turn'] / turns['one_pattern']:.2f}, official {turns['in_turn_official'] / turns['one_pattern']:.0f}", turns["in_turn"] <= 2 * turns["one_pattern"]),
        ("caches below 5 MB at their peak", f"{held['peak_mb']:.1f} MB, {held['plans']} plans", held["peak_mb"] < 5),
        (f"{soaked['threads']} threads, {soaked['calls']:,} calls: no wrong result, no growth", f"{soaked['wrong']} wrong, at most {soaked['most_plans']} plans", soaked["wrong"] == 0 and soaked["most_plans"] <= soaked["bound"]),
        ("a training step of the small network, over raw code", ", ".join(f"{name} {ratio:.2f}" for name, ratio in steps.items()), steps["ours"] <= 1.05 * steps["official"]),
    ]
    verdict = {True: "met", False: "missed", None: "no goal"}
    judged = pd.DataFrame([(goal, seen, verdict[met if met is None else bool(met)]) for goal, seen, met in goals], columns=["goal", "measured", "verdict"])
    print(judged.to_string(index=False))
    if args.record:
        made_on = f"{machine()}; Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}, einops {einops.__version__}"
        parts = [
            "# Overhead of the notation, ours against the package einops",
            f"Made by `python benchmarks/einops_overhead.py --record` on: {made_on}. One thread, CPU time, best of {repeats} in alternating order; ratios only.",
            markdown_table(judged),
            "## Cached calls on a small tensor\n\nOverhead is the time minus that of raw code; negative where ours is faster than raw.",
            markdown_table(small[["library", "operation", "overhead_ratio", "time_ratio"]], 2),
            "## The same on a large tensor",
            markdown_table(moved[["library", "operation", "time_ratio"]], 3),
            "## First calls",
            markdown_table(first[["library", "call", "time_ratio"]], 2),
        ]
        RECORD.write_text("\n\n".join(parts) + "\n")
    return 1 if any(met is not None and not met for *_, met in goals) else 0


if __name__ == "__main__":
    sys.exit(main())
