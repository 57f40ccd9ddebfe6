"""Finite data in tables (section 5, tabular part): every estimator's error against the number of trajectories."""

import numpy as np
import pandas as pd
from pydantic import Field

from reprise.kits.offpolicy import estimators, policies, simulate, tables
from reprise.papers.dice.closed_form import Problem, readouts, saddle
from reprise.papers.dice.environments import Setting, setting
from reprise.papers.dice.objective import ESTIMATORS
from reprise.params import Params
from reprise.stage import Stage

# What each estimator reports; the others of the table of known estimators read out the dual side.
REPORTS = {"mql": "primal"}


class Finite(Params):
    """Parameters of `finite`."""

    sizes: list[int] = Field(description="numbers of trajectories N")
    datasets: int = Field(gt=1, description="independent data sets of each size")
    steps: int = Field(gt=0, description="steps of a trajectory")
    states: int = Field(gt=1, description="states of the random MDP")
    gamma: float = Field(gt=0, lt=1, description="discount")
    sweeps: int = Field(gt=0, description="sweeps of fitted Q evaluation")


def finite(params: Finite, stage: Stage) -> None:
    """Estimates of every estimator on each data set; all data sets of a size are solved as one batch."""
    problems = {"frozenlake": setting("frozenlake"), "random": setting("random", params.states, stage.rng("random", "finite"))}
    rows = []
    for name, chosen in problems.items():
        rho = float(tables.value(chosen.env, chosen.target, params.gamma))
        for n in params.sizes:
            data = simulate.rollout(chosen.env, chosen.behaviour, n * params.datasets, params.steps, stage.rng("finite", name, n))
            found, covered_B = estimates(chosen, data, params.datasets, params.gamma, params.sweeps)
            for estimator, estimate_B in found.items():
                columns = {"problem": name, "n": n, "dataset": np.arange(params.datasets), "estimator": estimator, "estimate": estimate_B}
                rows.append(pd.DataFrame(columns | {"rho": rho, "covered": covered_B}))
    pd.concat(rows).to_parquet(stage.out / "estimates.parquet", index=False)


def estimates(chosen: Setting, data: simulate.Trajectories, datasets: int, gamma: float, sweeps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """({estimator: estimate_B}, covered_B). The model-based ones renormalise the policy over the actions seen in each state; a
    data set covers the policy if it never leads, in the model, to a state that the data enter but never leave."""
    count_BSAS, start_BS = simulate.counts(data, chosen.env, datasets)
    model = tables.empirical(count_BSAS, chosen.env.R_SAS, start_BS)
    seen_BSA = count_BSAS.sum(-1)
    problem = Problem(model, policies.restrict(chosen.target, seen_BSA), seen_BSA / seen_BSA.sum((1, 2), keepdims=True), gamma)
    found = {"plug_in": estimators.plug_in(model, problem.policy_SA, gamma), "fqe": estimators.fitted_q(model, problem.policy_SA, gamma, sweeps)[0]}
    for name, switches in ESTIMATORS.items():
        if name != "primal_r1":
            found[name] = readouts(problem, saddle(problem, switches))[REPORTS.get(name, "dual")]
    dual, primal = (readouts(problem, saddle(problem, ESTIMATORS[name])) for name in ("dual_dice", "primal_r1"))
    found |= {
        "dual_dice_primal": dual["primal"],
        "primal_r1_primal": primal["primal"],
        "primal_r1_dual": primal["dual"],
        "primal_r1_selfnorm": primal["dual_selfnorm"],
    }
    r_BNT = data.r.reshape(datasets, -1, data.r.shape[-1])
    ratio_BNT = (chosen.target / chosen.behaviour)[data.s, data.a].reshape(r_BNT.shape)
    for weighting in ("none", "trajectory", "step", "weighted_trajectory", "weighted_step"):
        found["behaviour" if weighting == "none" else f"is_{weighting}"] = estimators.importance_sampling(r_BNT, ratio_BNT, gamma, weighting)
    covered_B = np.abs(dual["mean_zeta"] - 1) < 1e-9
    return found, covered_B
