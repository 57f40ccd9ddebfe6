"""How fast the stacked, count-weighted step is, and the closed forms, each against its peer in one run.

    python benchmarks/dice.py [--record]

The stack against its members one at a time, and against the step of the paper's code (2048 drawn transitions, all actions of the
next state, one configuration); the closed forms against dense solves, and the whole profile of 16 configurations. CPU time of
one thread, the peers in turn. `--record` writes the ratios, with the processor they were measured on, to benchmarks/dice.md;
times of one's own never enter the repository.
"""

import argparse
import os
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from reprise import determinism
from reprise.report import markdown_table
from reprise.verify import machine

RECORD = Path(__file__).with_suffix(".md")

CONFIGURATIONS = ["dual_dice", "gen_dice", "gradient_dice", "mql", "mwl", "primal_r1", "best_r0", "best_r1"]
SEEDS, STEPS, ROUNDS = 3, 10, 3
WIDTHS = (16, 32, 48)  # the last is GridWalk's at the small scale
DUAL = ("dual_dice", "gen_dice", "gradient_dice", "best_r0", "best_r1")  # read out rho_zeta


def build(names, seeds, width, alone=None):
    """Two functions: `train(steps)` takes joint steps, `gradients()` gives those at the weights as they are."""
    from reprise.kits.offpolicy import simulate
    from reprise.kits.offpolicy.networks import OptimisticAdam
    from reprise.papers.dice.environments import setting
    from reprise.papers.dice.neural import networks, pairs
    from reprise.papers.dice.objective import ESTIMATORS, lagrangian, stack

    chosen = setting("gridwalk", 10)
    data = simulate.rollout(chosen.env, chosen.behaviour, 100 * SEEDS, 100, np.random.default_rng(0))
    if alone is not None:
        data = data[100 * alone : 100 * (alone + 1)]
    source = pairs(chosen, data, seeds, [lambda r: r] * len(names))
    switches = stack([ESTIMATORS[n] for n in names] * seeds)
    q, zeta = networks(len(source.x_IR), [width, width], SEEDS, len(names), torch.Generator().manual_seed(0))
    if alone is not None:
        q, zeta = ({k: w[[alone]].clone() for k, w in net.items()} for net in (q, zeta))
    lam = torch.zeros(seeds * len(names))
    weights = {f"q.{k}": w for k, w in q.items()} | {f"zeta.{k}": w for k, w in zeta.items()} | {"lam": lam}
    for w in weights.values():
        w.requires_grad_()
    adam = OptimisticAdam(weights)

    def gradients():
        value = lagrangian(source.terms(q, zeta, switches), lam, switches, 0.95).sum()
        return dict(zip(weights, torch.autograd.grad(value, list(weights.values()))))

    def train(steps):
        for _ in range(steps):
            adam.step({k: -g if k.startswith("zeta") else g for k, g in gradients().items()}, 3e-3)

    return train, gradients


def as_published(width):
    """One configuration as the official code trains it: torch modules, torch.optim.Adam, rows drawn at random."""
    from reprise.kits.offpolicy import simulate
    from reprise.papers.dice.environments import setting

    chosen = setting("gridwalk", 10)
    data = simulate.rollout(chosen.env, chosen.behaviour, 100, 100, np.random.default_rng(0))
    x = torch.tensor(chosen.features_SF, dtype=torch.float32)
    s, a, after, r = (torch.tensor(v.ravel()) for v in (data.s, data.a, data.s_next, data.r.astype(np.float32)))
    start, policy, one_hot = torch.tensor(data.start), torch.tensor(chosen.target, dtype=torch.float32), torch.eye(4)

    def mlp():
        return torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

    nu, zeta, lam = mlp(), mlp(), torch.zeros(1, requires_grad=True)
    down, up = torch.optim.Adam([*nu.parameters(), lam], lr=1e-4), torch.optim.Adam(zeta.parameters(), lr=1e-4, maximize=True)

    def expected(states):
        rows = torch.cat([x[states].repeat_interleave(4, 0), one_hot.repeat(len(states), 1)], -1)
        return (nu(rows).view(-1, 4) * policy[states]).sum(-1)

    def train(steps):
        for _ in range(steps):
            i, j = torch.randint(len(s), (2048,)), torch.randint(len(start), (2048,))
            pair = torch.cat([x[s[i]], one_hot[a[i]]], -1)
            ratio = zeta(pair)[:, 0].square()
            loss = 0.05 * expected(start[j]).mean() + lam + (ratio * (r[i] + 0.95 * expected(after[i]) - nu(pair)[:, 0] - lam) - ratio.square() / 2).mean()
            down.zero_grad(), up.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_([*nu.parameters(), *zeta.parameters(), lam], 1.0)
            down.step(), up.step()

    return train


def clock(train, steps):
    """CPU seconds of `steps` steps."""
    begun = time.process_time()
    train(steps)
    return time.process_time() - begun


def networks(width: int) -> list[tuple]:
    """The stacked step against its peers: (what, ratio or difference, goal, met)."""
    members = SEEDS * len(CONFIGURATIONS)
    stacked, together = build(CONFIGURATIONS, SEEDS, width)
    alone = [build([name], 1, width, k) for k in range(SEEDS) for name in CONFIGURATIONS]
    published = as_published(width)
    whole, worst = together(), 0.0
    for e, (_, gradients) in enumerate(alone):
        own = gradients()
        most = max(float(g.abs().max()) for g in own.values())
        worst = max(worst, *(float((whole[k][e] - g[0]).abs().max()) / most for k, g in own.items()))
    stacked(STEPS)
    for train, _ in alone:
        train(STEPS)
    ms = {"stacked": [], "alone": [], "published": []}
    for _ in range(ROUNDS):  # in turn, so that a busy machine hits all three
        ms["stacked"].append(1e3 * clock(stacked, STEPS) / STEPS / members)
        ms["alone"].append(1e3 * sum(clock(train, STEPS) for train, _ in alone) / STEPS / members)
        ms["published"].append(1e3 * clock(published, STEPS) / STEPS)
    ms = {k: float(np.median(v)) for k, v in ms.items()}
    print(f"CPU milliseconds per member and step, GridWalk, two hidden layers of {width}:", {k: round(v, 3) for k, v in ms.items()})
    gain, faster = ms["alone"] / ms["stacked"], ms["published"] / ms["stacked"]
    return [
        (f"width {width}: {members} members one at a time, over the same in one stack, per member", gain, "at least 5", gain >= 5),
        (f"width {width}: the published step (2048 drawn rows), over a member's share of the stack's", faster, "at least 20", faster >= 20),
        (f"width {width}: largest difference between a gradient in the stack and alone, over the largest", worst, "below 1e-5", worst < 1e-5),
    ]


def closed_forms() -> list[tuple]:
    """The batched closed forms against dense solves, and the profile of all configurations: as `networks`."""
    from reprise.kits.offpolicy import policies, simulate, tables
    from reprise.papers.dice.closed_form import Problem, readouts, saddle
    from reprise.papers.dice.environments import setting
    from reprise.papers.dice.objective import ESTIMATORS, Switches

    def problem(chosen, gamma, B):
        data = simulate.rollout(chosen.env, chosen.behaviour, 100 * B, 100, np.random.default_rng(0))
        count, start = simulate.counts(data, chosen.env, B)
        seen = count.sum(-1)
        model = tables.empirical(count, chosen.env.R_SAS, start)
        return Problem(model, policies.restrict(chosen.target, seen), seen / seen.sum((1, 2), keepdims=True), gamma)

    B, gamma = 100, 0.95
    lake, mdp = problem(setting("frozenlake"), gamma, B), problem(setting("random", 10, np.random.default_rng(0)), gamma, B)

    def ours():
        return np.stack([readouts(lake, saddle(lake, ESTIMATORS[name]))["dual"] for name in DUAL])

    def dense():
        """One data set and estimator at a time, all stationarity conditions as one linear system over Q, D zeta and lambda."""
        found, m = np.zeros((len(DUAL), B)), lake.d_SA[0].size
        for i, name in enumerate(DUAL):
            w = ESTIMATORS[name]
            for b in range(B):
                P = (lake.table.P_SAS[b][..., None] * lake.policy_SA[b]).reshape(m, m)
                A, d, one = gamma * P - np.eye(m), np.maximum(lake.d_SA[b].ravel(), 1e-12), np.ones(m)
                lam = w.normalised and w.alpha_q > 0
                system = np.zeros((2 * m + 1, 2 * m + 1))
                system[:m, :m], system[:m, m:-1] = w.alpha_q * np.diag(d), A.T
                system[m:-1, :m], system[m:-1, m:-1], system[m:-1, -1] = A, -w.alpha_zeta * np.diag(1 / d), -one
                system[-1, m:-1], system[-1, -1] = one * lam, 1.0 - lam
                solved = np.linalg.solve(system, np.concatenate([-(1 - gamma) * lake.mu_SA[b].ravel(), -w.alpha_r * lake.table.R_SA[b].ravel(), [float(lam)]]))
                found[i, b] = solved[m:-1] @ lake.table.R_SA[b].ravel()
        return found

    def profile():
        """16 configurations on every data set: batched, except for the quadratic programme of zeta >= 0."""
        alone = [Problem(tables.Table(mdp.table.P_SAS[b], mdp.table.R_SAS, mdp.table.mu0_S[b]), mdp.policy_SA[b], mdp.d_SA[b], gamma) for b in range(B)]
        for dual, alpha_r, positive, normalised in product((False, True), (1, 0), (False, True), (False, True)):
            switches = Switches(1.0 - dual, float(dual), alpha_r, positive, normalised)
            for one in alone if not dual and alpha_r and positive else [mdp]:
                readouts(one, saddle(one, switches))

    seconds, found = {"ours": [], "dense": [], "profile": []}, {}
    for _ in range(3):
        for name, solve in (("ours", ours), ("dense", dense), ("profile", profile)):
            begun = time.process_time()
            found[name] = solve()
            seconds[name].append(time.process_time() - begun)
    seconds = {k: float(np.median(v)) for k, v in seconds.items()}
    print(f"CPU seconds for {B} data sets:", {k: round(v, 3) for k, v in seconds.items()})
    off = float(np.abs(found["ours"] - found["dense"]).max())
    return [
        ("dense systems over pairs in a loop, over closed forms over states in a batch, FrozenLake, 5 estimators", seconds["dense"] / seconds["ours"], "no goal", None),
        ("largest difference of an estimate between the two", off, "below 1e-8", off < 1e-8),
        (f"16 configurations x {B} data sets, random MDP, as a share of 5 s", seconds["profile"] / 5, "at most 1", seconds["profile"] <= 5),
    ]


def main() -> None:
    """Measure, print, perhaps record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help=f"write the ratios to {RECORD.name}")
    args = parser.parse_args()
    rows = [(what, float(f"{value:.3g}"), goal, {True: "met", False: "missed", None: ""}[met]) for what, value, goal, met in sum(map(networks, WIDTHS), []) + closed_forms()]
    table = markdown_table(pd.DataFrame(rows, columns=["what", "measured", "goal", "verdict"]), 3)
    print(table)
    if args.record:
        made = f"Made by `python benchmarks/dice.py --record` on: {machine()}; torch {torch.__version__}, numpy {np.__version__}."
        about = (
            "One thread, CPU time, medians of peers in turn. GridWalk on whole data, networks of two hidden layers: what a single member "
            "costs is mostly calls, what a member of the stack costs is arithmetic, which grows with the width."
        )
        RECORD.write_text(f"# Stacked training and closed forms of the DICE family\n\n{made} {about}\n\n{table}\n")


if __name__ == "__main__":
    determinism.enter(os.environ.get("REPRISE_PROFILE", "portable"), sys.argv)
    determinism.configure_torch()
    main()
