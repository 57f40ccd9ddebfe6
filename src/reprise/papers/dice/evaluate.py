"""Errors of every estimator in every environment, and the numbers that the claims speak of."""

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from reprise.kits.offpolicy import estimators, policies, simulate, tables
from reprise.papers.dice.data import load
from reprise.papers.dice.environments import Setting, probabilities, setting
from reprise.papers.dice.objective import ESTIMATORS
from reprise.papers.dice.train import Member
from reprise.stage import Stage

BEST = ("best_r0", "best_r1")
NAMED = ("dual_dice", "gen_dice", "gradient_dice")
UNREGULARISED = {"mql": "primal", "mwl": "dual"}  # each with the read-out that its authors use


def evaluate(stage: Stage) -> None:
    """One row per environment, seed, configuration and read-out; metrics are means over seeds."""
    metrics = bias_table(pd.read_parquet(stage.path("exact") / "bias.parquet"))
    estimates = pd.read_parquet(stage.path("finite") / "estimates.parquet")
    metrics |= finite_data(estimates, rmse_table(estimates).to_dict("records"))
    errors = pd.concat([of_environment(stage, variant) for variant in stage.variants], ignore_index=True)
    errors.to_parquet(stage.out / "errors.parquet", index=False)
    for (variant, label, readout), group in errors.groupby(["variant", "label", "readout"], sort=True):
        if readout in ("mean_zeta", "moment"):
            continue
        key = f"{variant}.{label}.{readout}"
        metrics |= {
            f"{key}.error": group.error.abs().mean(),
            f"{key}.bias": group.error.mean(),
            f"{key}.sd": group.error.std(ddof=1) if len(group) > 1 else 0.0,
        }
    for variant in stage.variants:
        metrics |= orderings(variant, errors[errors.variant == variant]) | invariance(stage, variant)
    stage.metrics(metrics)


def bias_table(rows: pd.DataFrame) -> dict[str, float]:
    """The extremes of the bias table, over problems, strengths and configurations."""
    size, dual = rows.bias.abs(), rows[(rows.regularised == "dual") & (rows.readout != "primal")]
    return {
        "exact.cells": len(rows),
        "exact.unbiased.max": size[rows.unbiased].max(),
        "exact.biased.min": size[~rows.unbiased].min(),
        "exact.dual_regularised.max": dual.bias.abs().max(),
        "exact.residual.max": rows.residual.max(),
    }


def rmse_table(estimates: pd.DataFrame) -> pd.DataFrame:
    """Root mean squared error over data sets: problem, estimator, n, rmse."""
    squared = estimates.assign(squared=(estimates.estimate - estimates.rho) ** 2)
    table = squared.groupby(["problem", "estimator", "n"], sort=True).squared.mean().reset_index()
    return table.assign(rmse=np.sqrt(table.squared)).drop(columns="squared")


def finite_data(estimates: pd.DataFrame, rmse: list[dict]) -> dict[str, float]:
    """RMSE of each estimator at each size, its slope in log N, and how far the DICE estimators are from the plug-in value."""
    metrics = {f"finite.{r['problem']}.{r['estimator']}.n{r['n']}.rmse": r["rmse"] for r in rmse}
    for problem, rows in estimates.groupby("problem"):
        wide = rows[rows.covered].pivot(index=["n", "dataset"], columns="estimator", values="estimate")
        apart = wide[[name for name in ESTIMATORS if name in wide]].sub(wide.plug_in, axis=0).abs()
        metrics |= {f"finite.{problem}.apart.max": apart.to_numpy().max(), f"finite.{problem}.covered": rows.covered.mean()}
        for name in sorted(rows.estimator.unique()):
            points = [(np.log(r["n"]), np.log(r["rmse"])) for r in rmse if r["problem"] == problem and r["estimator"] == name]
            metrics[f"finite.{problem}.{name}.slope"] = np.polyfit(*zip(*points), 1)[0]
    return metrics


def of_environment(stage: Stage, variant: str) -> pd.DataFrame:
    """variant, label, estimator, readout, seed, estimate, rho, error: read-outs averaged over the last sixth, and baselines."""
    row, data = load(stage, variant)
    problem, gamma, seeds = setting(row["environment"], row["size"]), row["gamma"], row["seeds"]
    folder, found = stage.path("models", variant), []

    def add(label: str, estimator: str, readout: str, estimate_K: np.ndarray, rho: float = row["target"]) -> None:
        columns = {"variant": variant, "label": label, "estimator": estimator, "readout": readout, "seed": np.arange(seeds)}
        found.append(pd.DataFrame(columns | {"estimate": estimate_K, "rho": rho, "error": estimate_K - rho}))

    members = [Member(**m) for m in pd.read_parquet(folder / "members.parquet").to_dict("records")]
    tail_E = last_sixth(pd.read_parquet(folder / "history.parquet"))
    for i, member in enumerate(members):
        if problem.finite:
            changed = tables.Table(problem.env.P_SAS, member.reward(problem.env.R_SAS), problem.env.mu0_S)
            rho = float(tables.value(changed, problem.target, gamma))
        else:
            rho = float(member.reward(np.array(row["target"])))
        for readout in tail_E:
            add(member.name, member.estimator, readout, tail_E[readout].to_numpy()[i :: len(members)], rho)
    add("fqe", "fqe", "primal", last_sixth(pd.read_parquet(folder / "history_fqe.parquet")).primal.to_numpy())
    ratio_NT = probabilities(problem.target, data.s, data.a) / probabilities(problem.behaviour, data.s, data.a)
    r_KNT, ratio_KNT = (x.reshape(seeds, -1, x.shape[-1]) for x in (data.r, ratio_NT))
    for weighting in ("none", "step", "weighted_step", "weighted_trajectory"):
        label = "behaviour" if weighting == "none" else f"is_{weighting}"
        add(label, label, "dual", estimators.importance_sampling(r_KNT, ratio_KNT, gamma, weighting))
    if problem.finite:
        n = len(data.r) // seeds
        add("plug_in", "plug_in", "primal", np.array([plug_in(problem, data[k * n : (k + 1) * n], gamma) for k in range(seeds)]))
    return pd.concat(found, ignore_index=True)


def plug_in(problem: Setting, data: simulate.Trajectories, gamma: float) -> float:
    """The value in the empirical model of one data set, of the policy renormalised over the actions seen in each state."""
    count_1SAS, start_1S = simulate.counts(data, problem.env)
    model = tables.empirical(count_1SAS, problem.env.R_SAS, start_1S)
    return float(estimators.plug_in(model, policies.restrict(problem.target, count_1SAS.sum(-1)), gamma)[0])


def last_sixth(history: pd.DataFrame) -> pd.DataFrame:
    """The mean of each metric over the last sixth of the steps: a row for each of E members, a column for each metric."""
    tail = history[history.step >= history.step.max() * 5 / 6]
    return tail.pivot_table(index="member", columns="metric", values="value", aggfunc="mean")


def orderings(variant: str, errors: pd.DataFrame) -> dict[str, float]:
    """The paper's best configurations against the others and against theory; empty where a stack lacks one of them."""
    if not {*NAMED, *BEST} <= set(errors.label):
        return {}
    size = errors.assign(size=errors.error.abs()).groupby(["label", "readout"])["size"].mean()
    estimate = errors.pivot(index=["label", "seed"], columns="readout", values="estimate")
    best = {readout: np.mean([size[name, readout] for name in BEST]) for readout in ("dual", "primal", "lagrangian")}
    metrics = {
        f"{variant}.rho": errors[errors.label == "behaviour"].rho.iloc[0],
        f"{variant}.best.error": best["dual"],
        f"{variant}.best.primal": best["primal"],
        f"{variant}.best.lagrangian": best["lagrangian"],
        f"{variant}.best.over_behaviour": best["dual"] / size["behaviour", "dual"],
        f"{variant}.best.over_named": best["dual"] / min(size[name, "dual"] for name in NAMED),
        f"{variant}.primal_gap": (estimate.loc["best_r1"].primal - estimate.loc["best_r0"].primal).mean(),
    }
    for name in ("dual_dice", *BEST):  # alpha_Q = 0: rho_Q = alpha_R rho - alpha_zeta E_D[zeta^2], with the network's own zeta
        theory = ESTIMATORS[name].alpha_r * errors[errors.label == name].rho.iloc[0] - estimate.loc[name].moment
        metrics[f"{variant}.{name}.off_closed_form"] = (estimate.loc[name].primal / theory - 1).abs().max()
    if "plug_in" in set(errors.label):  # what optimisation and function approximation add to the error of the data
        plug_in_K = estimate.loc["plug_in"].primal
        metrics[f"{variant}.best.from_plug_in"] = np.mean([(estimate.loc[name].dual - plug_in_K).abs().mean() for name in BEST])
    if set(UNREGULARISED) <= set(errors.label):
        metrics[f"{variant}.unregularised.over_best"] = min(size[item] for item in UNREGULARISED.items()) / best["dual"]
    return metrics


def invariance(stage: Stage, variant: str) -> dict[str, float]:
    """How far a transformed reward moved zeta, member against member of the same seed: max |zeta - zeta'|."""
    folder = stage.path("models", variant)
    members = pd.read_parquet(folder / "members.parquet")
    ratio_ER = load_file(folder / "model.safetensors").get("ratio")
    if ratio_ER is None:
        return {}
    ratio_KMR = ratio_ER.reshape(-1, len(members), ratio_ER.shape[-1])
    metrics = {}
    for name in BEST:
        same = (members.estimator == name) & (members.alpha == 1) & (members.p == 2)
        plain = members.index[same & (members.label == name)]
        for i in members.index[same & (members.label != name)]:
            metrics[f"{variant}.{members.label[i]}.zeta_moved"] = float(np.abs(ratio_KMR[:, i] - ratio_KMR[:, plain[0]]).max())
    return metrics
