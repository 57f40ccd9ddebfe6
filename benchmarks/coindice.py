"""Tabular intervals as one batch against the released way, each transition by itself and damped steps, one core, one run.

    python benchmarks/coindice.py [--record]

Both solve FrozenLake logs (50 trajectories of 100 steps) with divergence kl. The peer gets its one-hot matrices for nothing,
builds them once a bound, and runs until it agrees with the batch to 1e-8.
"""

import argparse
import platform
import sys
import time
from pathlib import Path

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import numpy as np
import pandas as pd

from reprise.kits.offpolicy import policies, simulate, tables
from reprise.papers.coindice import damped, tabular
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")
DATASETS, TRAJECTORIES, STEPS, GAMMA = 500, 50, 100, 0.99
LEVELS = np.array([0.9, 0.95])
PEER_ITERATIONS = 200


def main() -> int:
    """Measure, print, perhaps record; exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    lake = tables.frozenlake()
    best = policies.greedy(lake, GAMMA)
    target, behaviour = policies.mix(best, 0.1), policies.mix(best, 0.3)
    log = simulate.rollout(lake, behaviour, DATASETS * TRAJECTORIES, STEPS, np.random.default_rng(0))
    s, a, r, after = (x.reshape(DATASETS, TRAJECTORIES, STEPS) for x in (log.s, log.a, log.r, log.s_next))

    seconds = []
    for _ in range(3):
        start = time.process_time()
        cells = tabular.compress(s, a, after, r, 16, 4)
        counted = time.process_time()
        batch = tabular.bounds(cells, target, GAMMA, LEVELS, tol=1e-10)
        seconds.append((time.process_time() - start, time.process_time() - counted))
    whole, solving = (min(column) for column in zip(*seconds, strict=True))
    bounds, intervals, n = 2 * DATASETS * len(LEVELS), DATASETS * len(LEVELS), TRAJECTORIES * STEPS

    each = tabular.Cells(*(x[0].reshape(-1) for x in (s, a, after, r)), np.repeat(s[0, :, 0], STEPS), np.ones((1, n)), np.bincount(s[0, :, 0], minlength=16)[None].astype(float))
    start = time.process_time()
    found = damped.bounds(each, target, GAMMA, LEVELS, iterations=PEER_ITERATIONS, bisections=60)
    # `damped.bounds` solves for each bound by itself, and for the estimate, which is not counted
    peer = (time.process_time() - start) * 2 / (2 * len(LEVELS) + 1)
    apart = max(np.abs(found.lower - batch.lower[0]).max(), np.abs(found.upper - batch.upper[0]).max())

    goals = [
        ("an interval, transition by transition, against one of the batch: at least 500 times the CPU time, counting of transitions included", f"{peer * intervals / whole:.0f}", peer * intervals / whole >= 500),
        ("the same without counting", f"{peer * intervals / solving:.0f}", peer * intervals / solving >= 500),
        ("both agree to 1e-8", f"{apart:.1g}", apart <= 1e-8),
        (f"{bounds} tabular bounds in about a second of CPU", f"{solving:.1f} s, {whole:.1f} s with counting of {DATASETS * n / 1e6:.1f} million transitions", solving <= 1.5),
    ]
    judged = pd.DataFrame([(goal, seen, "met" if met else "missed") for goal, seen, met in goals], columns=["goal", "measured", "verdict"])
    print(judged.to_string(index=False))
    if args.record:
        parts = [
            "# Intervals as one batch, against the released way",
            f"Made by `python benchmarks/coindice.py --record` on: {machine()}; Python {platform.python_version()}, numpy {np.__version__}. One thread, one run.",
            f"Each of {DATASETS} datasets has {n} transitions. The released way gives each transition its own row and takes {PEER_ITERATIONS} damped steps for a bound, as many as it needs to agree.",
            markdown_table(judged),
        ]
        RECORD.write_text("\n\n".join(parts) + "\n")
    return 0 if all(met for *_, met in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
