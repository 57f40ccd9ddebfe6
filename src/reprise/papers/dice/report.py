"""The page: the bias table with measured numbers, errors against data size, convergence, optimisers, errors per environment."""

import numpy as np
import pandas as pd

from reprise.papers.dice.evaluate import BEST, UNREGULARISED, rmse_table
from reprise.report import Page
from reprise.stage import Stage

TITLES = {
    "dual_dice": "DualDICE", "gen_dice": "GenDICE", "gradient_dice": "GradientDICE", "mql": "MQL", "mwl": "MWL", "primal_r1": "primal, R = 1",
    "best_r0": "BestDICE, R = 0", "best_r1": "BestDICE, R = 1", "plug_in": "plug-in model", "fqe": "fitted Q", "behaviour": "behaviour",
    "is_step": "IS, step", "is_weighted_step": "IS, weighted step", "is_weighted_trajectory": "IS, weighted trajectory", "is_trajectory": "IS, trajectory",
}  # fmt: skip


def report(stage: Stage) -> None:
    """Draw and write."""
    page = Page(stage)
    bias(page, pd.read_parquet(stage.path("exact") / "bias.parquet"))
    finite(page, pd.read_parquet(stage.path("finite") / "estimates.parquet"))
    errors = pd.read_parquet(stage.path("results") / "errors.parquet")
    convergence(page, stage, errors)
    optimisers(page, stage, errors)
    environments(page, errors)
    rewards(page, errors)
    page.write()


def bias(page: Page, rows: pd.DataFrame) -> None:
    """The table of theorem 2 with the largest |bias| where it should vanish, the smallest where it should not."""

    def cell(group: pd.DataFrame) -> str:
        size = group.bias.abs()
        return f"unbiased, at most {size.max():.0e}" if group.unbiased.all() else f"biased, at least {size.min():.2g}"

    keys = ["regularised", "alpha_r", "positive"]
    table = [
        dict(zip(("regularised side", "alpha_R", "zeta >= 0"), key))
        | {readout: cell(group[group.readout == readout]) for readout in ("primal", "dual", "lagrangian")}
        for key, group in rows.groupby(keys, sort=True)
    ]
    names = {"primal": "rho_Q", "dual": "rho_zeta", "lagrangian": "rho_{Q, zeta}"}
    problems, alphas = rows.problem.nunique(), ", ".join(f"{a:g}" for a in sorted(rows.alpha.unique()))
    page.table(
        pd.DataFrame(table).rename(columns=names),
        caption=f"Biases of the exact saddle points over {problems} problems, alpha in {{{alphas}}}, with and without lambda",
    )


def finite(page: Page, estimates: pd.DataFrame) -> None:
    """RMSE against the number of trajectories: curves of those that differ, a table of all with the slope of log RMSE in log N."""
    shown = ["plug_in", "fqe", "primal_r1_selfnorm", "is_weighted_step", "is_step", "is_weighted_trajectory", "behaviour"]
    table = rmse_table(estimates)
    caption = (
        "Tables, finite data: all six named estimators coincide with the plug-in model, the floor; what else differs, differs by its bias or its variance."
    )
    with page.figure("finite", caption, width=8, ncols=2) as (_, axes):
        for ax, (problem, rows) in zip(axes, table.groupby("problem")):
            for name, style in zip(shown, page.styles):
                line = rows[rows.estimator == name]
                label = {"plug_in": "plug-in = all named DICE", "primal_r1_selfnorm": "primal, R = 1: dual read-out, self-normalised"}.get(
                    name, TITLES.get(name)
                )
                ax.loglog(line.n, line.rmse, label=label, **style)
            ax.set_title(problem)
            ax.set_xlabel("trajectories")
            ax.set_ylabel("RMSE of rho")
        axes[0].legend(fontsize=6)
    wide = table.pivot(index=["problem", "estimator"], columns="n", values="rmse")
    slope = [np.polyfit(np.log(list(wide)), np.log(row), 1)[0] for row in wide.to_numpy()]
    text = wide.map("{:.3g}".format).rename(columns="N = {}".format).assign(slope=[f"{s:.2f}" for s in slope])
    page.table(text.reset_index(), caption=f"RMSE over {estimates.dataset.nunique()} data sets of N trajectories, and its slope in log N")


def convergence(page: Page, stage: Stage, errors: pd.DataFrame) -> None:
    """The three read-outs by step, mean over seeds, in the first environment."""
    variant = stage.variants[0]
    history = pd.read_parquet(stage.path("models", variant) / "history.parquet")
    members = pd.read_parquet(stage.path("models", variant) / "members.parquet")
    history = history.assign(label=members.label.to_numpy()[history.member % len(members)])
    rho = truth(errors, variant)
    caption = f"{variant}: the read-outs of each estimator by step, mean over seeds (rho dotted). The dual read-out of regularised games settles on rho; the primal one of dual-regularised games settles where theory says, below by the ratio's second moment."
    shown = [name for name in ("dual_dice", "gen_dice", "gradient_dice", "mwl", "best_r0", "best_r1") if name in set(members.label)]
    with page.figure(
        "convergence", caption, width=8, height=2.6 * ((len(shown) + 2) // 3), nrows=(len(shown) + 2) // 3, ncols=3, squeeze=False, sharex=True
    ) as (_, axes):
        for ax, name in zip(axes.flat, shown):
            lines = history[history.label == name].groupby(["metric", "step"]).value.mean()
            for readout, style in zip(("dual", "primal", "lagrangian"), page.styles):
                ax.plot(lines[readout].index, lines[readout].to_numpy(), label=readout, **style | {"marker": ""})
            ax.axhline(rho, color="black", linestyle=":", linewidth=0.8)
            ax.set_ylim(rho - 6, rho + 3)
            ax.set_title(TITLES[name])
            ax.set_xlabel("step")
            ax.set_ylabel("estimate of rho")
        axes.flat[0].legend(fontsize=7)


def optimisers(page: Page, stage: Stage, errors: pd.DataFrame) -> None:
    """Estimates by step with and without regularisation, a panel for each variant whose stack holds both."""
    variants = [v for v, rows in errors.groupby("variant", sort=False) if {*UNREGULARISED, *BEST} <= set(rows.label)]
    if not variants:
        return
    caption = (
        "The same data under different optimisers: estimate (MQL: primal read-out, else dual) by step, a line a seed, rho dotted. "
        "Whether the unregularised games settle depends on the optimiser; BestDICE settles under each."
    )
    with page.figure("optimisers", caption, width=8, ncols=len(variants), squeeze=False, sharey=True) as (_, axes):
        for ax, variant in zip(axes.flat, variants):
            folder = stage.path("models", variant)
            members, history = pd.read_parquet(folder / "members.parquet"), pd.read_parquet(folder / "history.parquet")
            for name, style in zip((*UNREGULARISED, *BEST), page.styles):
                i = int(members.index[members.label == name][0])
                own = history[(history.metric == UNREGULARISED.get(name, "dual")) & (history.member % len(members) == i)]
                for k, (_, line) in enumerate(own.groupby("member")):
                    ax.plot(line.step, line.value, label=TITLES[name] if k == 0 else None, **style | {"marker": ""}, linewidth=0.8)
            ax.axhline(truth(errors, variant), color="black", linestyle=":", linewidth=0.8)
            ax.set_yscale("symlog", linthresh=1)
            ax.set_title(variant)
            ax.set_xlabel("step")
        axes[0, 0].set_ylabel("estimate of rho")
        axes[0, 0].legend(fontsize=6)


def truth(errors: pd.DataFrame, variant: str) -> float:
    """rho of the untransformed reward."""
    return errors[(errors.variant == variant) & (errors.label == "behaviour")].rho.iloc[0]


def environments(page: Page, errors: pd.DataFrame) -> None:
    """|error| of each estimator's own read-out, one panel per environment, a dot per seed."""
    own = errors[errors.readout == errors.estimator.map({"mql": "primal", "fqe": "primal", "plug_in": "primal"}).fillna("dual")]
    own = own[own.label.isin(TITLES) & (own.label != "primal_r1")]
    order = [name for name in TITLES if name in set(own.label)][::-1]
    variants = list(dict.fromkeys(own.variant))
    caption = "Error of each estimator's own read-out (MQL and fitted Q: primal; else dual), one dot a seed, a bar for their mean; towards the left is better."
    with page.figure("errors", caption, width=2.4 + 1.6 * len(variants), height=3.6, ncols=len(variants), squeeze=False, sharey=True) as (_, axes):
        for ax, variant in zip(axes.flat, variants):
            for y, name in enumerate(order):
                size = own[(own.variant == variant) & (own.label == name)].error.abs().clip(lower=1e-4)
                if len(size):
                    ax.semilogx(size, np.full(len(size), y), "o", color="#0072b2", alpha=0.6)
                    ax.semilogx([size.mean()], [y], "|", color="black", markersize=10)
            ax.set_title(variant)
            ax.set_xlabel("|error| of rho")
        axes.flat[0].set_yticks(range(len(order)), [TITLES[name] for name in order])
    page.table(sizes(errors[errors.label.isin(TITLES)]), caption="Mean |error| of every read-out ± its standard deviation over seeds")


def sizes(errors: pd.DataFrame) -> pd.DataFrame:
    """One row per environment and configuration, one column per read-out."""
    shown = errors[errors.readout.isin(["primal", "dual", "dual_selfnorm", "lagrangian"])]
    grouped = shown.assign(size=shown.error.abs()).groupby(["variant", "label", "readout"], sort=False)["size"]
    text = grouped.mean().map("{:.3g}".format) + " ± " + grouped.std(ddof=0).map("{:.1g}".format)
    table = text.unstack("readout").fillna("–").reset_index()
    names = {
        "variant": "environment",
        "label": "configuration",
        "primal": "rho_Q",
        "dual": "rho_zeta",
        "dual_selfnorm": "rho_zeta, self-normalised",
        "lagrangian": "rho_{Q, zeta}",
    }
    return table[[key for key in names if key in table]].rename(columns=names)


def rewards(page: Page, errors: pd.DataFrame) -> None:
    """What a transformed reward, another strength or another exponent does to the paper's best configurations."""
    changed = errors[~errors.label.isin(TITLES)]
    if len(changed):
        page.table(sizes(changed), caption="The same under other rewards, strengths and exponents; errors are in units of the changed reward")
