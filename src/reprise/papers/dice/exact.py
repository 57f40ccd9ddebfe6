"""The bias table (theorem 2), number by number: every configuration on tables whose saddle points are closed forms."""

from itertools import product

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from reprise.kits.offpolicy import tables
from reprise.papers.dice.closed_form import Problem, Saddle, readouts, saddle
from reprise.papers.dice.environments import setting
from reprise.papers.dice.objective import Switches, Terms, lagrangian, stack
from reprise.params import Params
from reprise.stage import Stage

READOUTS = ("primal", "dual", "lagrangian")


class Exact(Params):
    """Parameters of `exact`."""

    random: int = Field(gt=0, description="number of random MDPs")
    states: int = Field(gt=1, description="their states")
    grid: int = Field(gt=1, description="side of GridWalk")
    gamma: float = Field(gt=0, lt=1, description="discount")
    steps: int = Field(gt=0, description="length of the trajectories whose expected visits are d^D")
    alphas: list[float] = Field(description="strengths of the regulariser")
    reward_scale: float = Field(gt=0, description="rewards are standardised under d^D, less 1, times this: costs large enough for zeta >= 0 to bind")


def unbiased(switches: Switches, readout: str) -> bool:
    """The paper's table: which read-out is unbiased under which regularisation."""
    if switches.alpha_zeta > 0 or switches.alpha_r == 0:
        return readout in ("dual", "lagrangian")
    return not switches.positive and readout in ("primal", "lagrangian")


def exact(params: Exact, stage: Stage) -> None:
    """Three read-outs of 16 configurations for each strength, their biases, and how exactly each point is a saddle."""
    problems = {f"random_{i}": setting("random", params.states, stage.rng("random", i)) for i in range(params.random)}
    problems |= {"gridwalk": setting("gridwalk", params.grid), "frozenlake": setting("frozenlake")}
    rows = []
    for name, chosen in problems.items():
        problem = standardised(chosen.env, chosen.target, tables.visitation(chosen.env, chosen.behaviour, params.steps), params)
        rho = tables.value(problem.table, problem.policy_SA, problem.gamma)
        for alpha, dual, alpha_r, positive, normalised in product(params.alphas, (False, True), (1, 0), (False, True), (False, True)):
            switches = Switches(alpha * (not dual), alpha * dual, alpha_r, positive, normalised)
            point = saddle(problem, switches)
            found, off = readouts(problem, point), residual(problem, switches, point)
            for readout in READOUTS:
                what = {"problem": name, "alpha": alpha, "regularised": "dual" if dual else "primal", "alpha_r": alpha_r, "positive": positive}
                out = {"rho": float(rho), "bias": float(found[readout] - rho), "unbiased": unbiased(switches, readout), "residual": off}
                rows.append({**what, "normalised": normalised, "readout": readout, **out})
    table = pd.DataFrame(rows)
    table.to_parquet(stage.out / "bias.parquet", index=False)
    stage.log(f"largest unbiased {table[table.unbiased].bias.abs().max():.1e}, smallest biased {table[~table.unbiased].bias.abs().min():.1e}")


def standardised(table: tables.Table, policy_SA: np.ndarray, d_SA: np.ndarray, params: Exact) -> Problem:
    """The problem with rewards (r - mean) / sd - 1, scaled. With rewards >= 0 and no lambda the free zeta is never negative,
    and positivity would change nothing."""
    mean = (d_SA * table.R_SA).sum()
    sd = np.sqrt((d_SA * (table.R_SA - mean) ** 2).sum())
    R_SAS = params.reward_scale * ((table.R_SAS - mean) / sd - 1)
    return Problem(tables.Table(table.P_SAS, R_SAS, table.mu0_S), policy_SA, d_SA, params.gamma)


def residual(problem: Problem, switches: Switches, point: Saddle) -> float:
    """How far a point is from being a saddle of the neural code's own objective: the largest entry of its gradients in
    double precision, relative to the rewards; where zeta = 0 by the constraint, only ascent counts."""

    def leaf(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64).reshape(1, -1).requires_grad_()

    def fixed(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float64)

    q_1R, zeta_1R, lam_1 = leaf(point.Q_SA), leaf(point.zeta(problem)), torch.tensor([float(point.lam)], dtype=torch.float64, requires_grad=True)
    V_S = (q_1R.view(problem.d_SA.shape) * fixed(problem.policy_SA)).sum(-1)
    terms = Terms(
        start_E=(V_S * fixed(problem.table.mu0_S)).sum()[None],
        q_ER=q_1R,
        next_ER=(fixed(problem.table.P_SAS) @ V_S).view(1, -1),
        zeta_ER=zeta_1R,
        r_ER=fixed(problem.table.R_SA).view(1, -1),
        w_ER=fixed(problem.d_SA).view(1, -1),
    )
    value = lagrangian(terms, lam_1, stack([switches], dtype=torch.float64), problem.gamma)
    by_q, by_zeta, by_lam = torch.autograd.grad(value.sum(), [q_1R, zeta_1R, lam_1], allow_unused=True, materialize_grads=True)
    by_zeta = by_zeta / fixed(problem.d_SA).view(1, -1)  # per pair, not per unit of data
    if switches.positive:
        by_zeta = torch.where(zeta_1R > 0, by_zeta, by_zeta.clamp_min(0))
    return max(float(g.abs().max()) for g in (by_q, by_zeta, by_lam)) / max(1.0, float(np.abs(problem.table.R_SA).max()))
