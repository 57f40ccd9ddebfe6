"""How fast the stacked, count-weighted step is: against its members one at a time, and against the step of the paper's code
(2048 drawn transitions, all actions of the next state, one configuration). And the closed forms against dense solves.

CPU time of one thread, the peers in turn within one run; milliseconds per joint step and per member.
"""

import os
import sys
import time

import numpy as np
import torch

from reprise import determinism

CONFIGURATIONS = ["dual_dice", "gen_dice", "gradient_dice", "mql", "mwl", "primal_r1", "best_r0", "best_r1"]
SEEDS, HIDDEN, STEPS, ROUNDS = 3, 32, 20, 5


def build(names, seeds, data_seeds=None):
    """A function that takes `steps` joint steps, and the weights it trains."""
    from reprise.kits.offpolicy import simulate
    from reprise.kits.offpolicy.networks import OptimisticAdam
    from reprise.papers.dice.environments import setting
    from reprise.papers.dice.neural import networks, pairs
    from reprise.papers.dice.objective import ESTIMATORS, lagrangian, stack

    chosen = setting("gridwalk", 10)
    data = simulate.rollout(chosen.env, chosen.behaviour, 100 * SEEDS, 100, np.random.default_rng(0))
    if data_seeds is not None:
        data = data[100 * data_seeds : 100 * (data_seeds + 1)]
    source = pairs(chosen, data, seeds, [lambda r: r] * len(names))
    switches = stack([ESTIMATORS[n] for n in names] * seeds)
    q, zeta = networks(len(source.x_IR), [HIDDEN, HIDDEN], SEEDS, len(names), torch.Generator().manual_seed(0))
    if data_seeds is not None:
        q, zeta = ({k: w[[data_seeds]].clone() for k, w in net.items()} for net in (q, zeta))
    lam = torch.zeros(seeds * len(names))
    weights = {f"q.{k}": w for k, w in q.items()} | {f"zeta.{k}": w for k, w in zeta.items()} | {"lam": lam}
    for w in weights.values():
        w.requires_grad_()
    adam = OptimisticAdam(weights)

    def train(steps):
        for _ in range(steps):
            terms = source.terms(q, zeta, switches)
            gradients = torch.autograd.grad(lagrangian(terms, lam, switches, 0.95).sum(), list(weights.values()))
            adam.step({k: -g if k.startswith("zeta") else g for k, g in zip(weights, gradients)}, 3e-3)

    return train, weights


def as_published():
    """One configuration as the official code trains it: torch modules, torch.optim.Adam, rows drawn at random."""
    from reprise.kits.offpolicy import simulate
    from reprise.papers.dice.environments import setting

    chosen = setting("gridwalk", 10)
    data = simulate.rollout(chosen.env, chosen.behaviour, 100, 100, np.random.default_rng(0))
    x = torch.tensor(chosen.features_SF, dtype=torch.float32)
    s, a, after, r = (torch.tensor(v.ravel()) for v in (data.s, data.a, data.s_next, data.r.astype(np.float32)))
    start, policy, one_hot = torch.tensor(data.start), torch.tensor(chosen.target, dtype=torch.float32), torch.eye(4)

    def mlp():
        return torch.nn.Sequential(torch.nn.Linear(6, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))

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


def networks_table():
    members = SEEDS * len(CONFIGURATIONS)
    stacked, together = build(CONFIGURATIONS, SEEDS)
    alone = [build([name], 1, k) for k in range(SEEDS) for name in CONFIGURATIONS]
    published = as_published()
    stacked(STEPS)
    for train, _ in alone:
        train(STEPS)
    worst = max(float((together[k][e] - weights[k][0]).detach().abs().max()) for e, (_, weights) in enumerate(alone) for k in together)
    times = {"stacked": [], "alone": [], "published": []}
    for _ in range(ROUNDS):  # in turn, so that a busy machine hits all three
        times["stacked"].append(clock(stacked, STEPS) / STEPS / members)
        times["alone"].append(sum(clock(train, STEPS) for train, _ in alone) / STEPS / members)
        times["published"].append(clock(published, STEPS) / STEPS)
    ms = {k: 1e3 * float(np.median(v)) for k, v in times.items()}
    print(f"CPU milliseconds per member and step, GridWalk, two hidden layers of {HIDDEN}, one thread, median of {ROUNDS} rounds of {STEPS} steps")
    print(f"  {members} members in one stack        {ms['stacked']:8.3f}")
    print(f"  the same members one at a time   {ms['alone']:8.3f}   {ms['alone'] / ms['stacked']:5.1f} times the stack")
    print(f"  as published (2048 drawn rows)   {ms['published']:8.3f}   {ms['published'] / ms['stacked']:5.1f} times the stack")
    print(f"  largest difference of a weight, stacked and alone, after {STEPS} steps: {worst:.1e} (rounding of one product, whose blocks depend on its size)")


def closed_forms_table():
    from reprise.kits.offpolicy import policies, simulate, tables
    from reprise.papers.dice.closed_form import Problem, readouts, saddle
    from reprise.papers.dice.environments import setting
    from reprise.papers.dice.objective import ESTIMATORS

    lake, B, gamma = setting("frozenlake"), 100, 0.95
    data = simulate.rollout(lake.env, lake.behaviour, 100 * B, 100, np.random.default_rng(0))
    count, start = simulate.counts(data, lake.env, B)
    model, seen = tables.empirical(count, lake.env.R_SAS, start), count.sum(-1)
    problem = Problem(model, policies.restrict(lake.target, seen), seen / seen.sum((1, 2), keepdims=True), gamma)

    def ours():
        return np.stack([readouts(problem, saddle(problem, ESTIMATORS[n]))["dual"] for n in ("dual_dice", "gen_dice", "gradient_dice", "best_r0", "best_r1")])

    def dense():
        """One data set and estimator at a time, all stationarity conditions as one linear system over Q, D zeta and lambda."""
        found = np.zeros((5, B))
        for i, name in enumerate(("dual_dice", "gen_dice", "gradient_dice", "best_r0", "best_r1")):
            w = ESTIMATORS[name]
            for b in range(B):
                P = (model.P_SAS[b][..., None] * problem.policy_SA[b]).reshape(64, 64)
                A, d, one = gamma * P - np.eye(64), np.maximum(problem.d_SA[b].ravel(), 1e-12), np.ones(64)
                lam = w.normalised and w.alpha_q > 0
                system = np.zeros((129, 129))
                system[:64, :64], system[:64, 64:128] = w.alpha_q * np.diag(d), A.T
                system[64:128, :64], system[64:128, 64:128], system[64:128, 128] = A, -w.alpha_zeta * np.diag(1 / d), -one
                system[128, 64:128], system[128, 128] = one * lam, 1.0 - lam
                mu = (model.mu0_S[b][:, None] * problem.policy_SA[b]).ravel()
                solved = np.linalg.solve(system, np.concatenate([-(1 - gamma) * mu, -w.alpha_r * model.R_SA[b].ravel(), [float(lam)]]))
                found[i, b] = solved[64:128] @ model.R_SA[b].ravel()
        return found

    times, found = {"ours": [], "dense": []}, {}
    for _ in range(3):
        for name, solve in (("ours", ours), ("dense", dense)):
            begun = time.process_time()
            found[name] = solve()
            times[name].append(time.process_time() - begun)
    ms = {k: 1e3 * float(np.median(v)) / (5 * B) for k, v in times.items()}
    print(f"CPU milliseconds per estimate, FrozenLake, 5 estimators x {B} data sets")
    print(f"  closed forms over states, batched    {ms['ours']:8.4f}")
    print(f"  dense system over pairs, in a loop   {ms['dense']:8.4f}   {ms['dense'] / ms['ours']:5.1f} times")
    print(f"  largest difference: {np.abs(found['ours'] - found['dense']).max():.1e}")


if __name__ == "__main__":
    determinism.enter(os.environ.get("REPRISE_PROFILE", "portable"), sys.argv)
    determinism.configure_torch()
    networks_table()
    closed_forms_table()
