"""Tabular intervals as one batch against the released way, each transition by itself and damped steps, one core, one run.

Both solve FrozenLake logs (50 trajectories of 100 steps) with divergence kl. The peer gets its one-hot matrices for nothing,
builds them once a bound, and runs until it agrees with the batch to 1e-8.
"""

import sys
import time

from reprise import determinism

if __name__ == "__main__":
    determinism.enter(sys.argv[1] if len(sys.argv) > 1 else "portable", sys.argv)

import numpy as np

from reprise.kits.offpolicy import policies, simulate, tables
from reprise.papers.coindice import damped, tabular

DATASETS, TRAJECTORIES, STEPS, GAMMA = 500, 50, 100, 0.99
LEVELS = np.array([0.9, 0.95])
PEER_DATASETS, PEER_ITERATIONS = 1, 200


def main() -> None:
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
    intervals = DATASETS * len(LEVELS)

    n = TRAJECTORIES * STEPS
    start = time.process_time()
    apart = 0.0
    for b in range(PEER_DATASETS):
        each = tabular.Cells(*(x[b].reshape(-1) for x in (s, a, after, r)), np.repeat(s[b, :, 0], STEPS), np.ones((1, n)), np.bincount(s[b, :, 0], minlength=16)[None].astype(float))
        found = damped.bounds(each, target, GAMMA, LEVELS, iterations=PEER_ITERATIONS, bisections=60)
        apart = max(apart, np.abs(found.lower - batch.lower[b]).max(), np.abs(found.upper - batch.upper[b]).max())
    # each bound is a solution of its own; the estimate, which `damped.bounds` also gives, is a fifth one here
    peer = (time.process_time() - start) / PEER_DATASETS * (2 * len(LEVELS)) / (2 * len(LEVELS) + 1) / len(LEVELS)

    print(f"{DATASETS} datasets of {n} transitions, {2 * intervals} bounds: {solving:.2f} s CPU to solve, {whole:.2f} s with counting of transitions")
    print(f"an interval: {1e3 * whole / intervals:.2f} ms; transition by transition, {PEER_ITERATIONS} damped iterations a bound: {peer:.2f} s")
    print(f"ratio {peer * intervals / whole:.0f} with counting, {peer * intervals / solving:.0f} without (goal >= 500); bounds differ by at most {apart:.1g} (goal <= 1e-8)")


if __name__ == "__main__":
    main()
