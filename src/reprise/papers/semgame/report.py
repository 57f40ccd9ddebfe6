"""The page: rates on the circle, the suite, the other designs, and real data where they were fetched."""

import numpy as np
import pandas as pd

from reprise.report import Page
from reprise.stage import Stage

SHOWN = ("sem", "deepgmm", "kiv", "tsls", "direct")  # methods whose curves are drawn


def report(stage: Stage) -> None:
    """Draw what the theorems say and what the estimates look like."""
    results = stage.path("results")
    circle, functions, scores, curves, linear = (pd.read_parquet(results / f"{name}.parquet") for name in ("circle", "functions", "scores", "curves", "linear"))
    page = Page(stage)
    if len(circle):
        rates(page, circle)
        fits(page, functions)
        consistency(page, circle)
    known = scores[scores.mse.notna()]
    if len(known):
        suite = known[known.method.eq("theory")].design.unique()  # the theory's networks play the suite alone
        same = "All methods see the same data; every choice is made on dev data."
        page.table(spread(known[known.design.isin(suite)], "mse"), f"The suite: mean squared error against the structural function, in units of the outcome's variance, mean ± standard deviation over seeds. {same}")
        page.table(spread(known[~known.design.isin(suite)], "mse"), "The other designs, likewise.")
        page.table(spread(known[known.design.str.startswith("demand")], "log10_mse"), "The demand design in the literature's measure: log10 of the mean squared error in the data's units, on the fixed lattice of prices, times and types.")
        panels(page, curves[curves.design.isin(known.design)], "simulated", "Estimates on the simulated designs, mean over seeds: the structural function, and how each method sees it along its first input.")
    if len(linear):
        real = curves[curves.design.isin(linear.problem)]
        page.table(linear, "Real data, whole samples: the coefficient of the endogenous variable by least squares and two-stage least squares, and the F statistic of the excluded instruments (below 10: weak).", digits=4)
        page.table(spread(scores[scores.design.isin(linear.problem)], "slope"), "Real data: average slope of the estimated curve between the 2.5 and 97.5 % quantiles, mean ± standard deviation over random splits, to be read beside the linear coefficients.")
        panels(page, real, "real", "Estimates on real data, mean over random splits (no truth is known): outcome against the endogenous variable, controls at their means.")
    page.table(spread(scores[scores.moment_t.notna()], "moment_t"), "Moment check on held-out data: the largest |t| of E[(m(f; X) - Y) psi(Z)] over a polynomial sieve of the instruments. About 2 to 3 is what the truth itself would give.")
    page.write()


def rates(page: Page, circle: pd.DataFrame) -> None:
    """Primal error by horizon."""
    with page.figure("rates", caption="Primal error of the averaged function on the circle, exact, mean and standard error over seeds. Wide networks fall faster than the guaranteed T^-1/2; a narrow network and a small ball have a floor. fixed_m128 has the theorem's constant step, one run for each of its horizons.", width=7, height=4) as (_, ax):
        for (arm, rows), style in zip(circle[np.isclose(circle.alpha, circle.alpha.mode()[0])].groupby("arm", sort=False), page.styles):
            grouped = rows.groupby("T").error
            ax.errorbar(grouped.mean().index, grouped.mean(), grouped.sem(), label=arm, capsize=2, **style)
        horizon = np.array(sorted(circle["T"].unique()), float)
        ax.plot(horizon, 0.02 * np.sqrt(horizon[0] / horizon), color="0.6", linewidth=1, label="slope -1/2")
        ax.set(xscale="log", yscale="log", xlabel="steps T", ylabel="primal error E")
        ax.legend(ncol=2)


def fits(page: Page, functions: pd.DataFrame) -> None:
    """Fitted functions over the truth."""
    with page.figure("circle", caption="The averaged functions at the last horizon over the truth: least squares converges to the wrong function, the game does not; in a ball that is too small it cannot get there.", width=7) as (_, ax):
        wanted = ["truth", "least_squares", *[a for a in functions.arm.unique() if a not in ("truth", "least_squares") and not a.startswith("alpha")]]
        for arm, style in zip(wanted, page.styles):
            rows = functions[functions.arm == arm]
            ax.plot(rows.x, rows.f, label=arm, markevery=16, linewidth=2.5 if arm == "truth" else 1.2, **style)
        ax.set(xlabel="x (radians)", ylabel="f(x)")
        ax.legend(ncol=2)


def consistency(page: Page, circle: pd.DataFrame) -> None:
    """Errors at the last horizon, arm by arm, and what the consistency theorem makes of alpha."""
    last = circle[circle["T"] == circle["T"].max()]
    table = last.groupby("arm", sort=False).agg(m=("width", "first"), alpha=("alpha", "first"), E=("error", "mean"), E_se=("error", "sem"), squared=("squared_error", "mean"), squared_se=("squared_error", "sem")).reset_index()
    table["E/alpha"] = table.E / table.alpha
    page.table(
        table.astype({"m": int}).rename(columns={"E": "primal error E", "E_se": "s.e.", "squared": "squared error", "squared_se": "s.e. "}),
        "All arms at the last horizon. The squared error is at most of the order of a bias that falls with alpha plus E/alpha, so alpha has to shrink more slowly than the primal error.",
    )


def spread(scores: pd.DataFrame, key: str) -> pd.DataFrame:
    """Methods in rows, designs in columns, `mean ± sd` in the cells."""
    grouped = scores.groupby(["method", "design"], sort=False)[key]
    text = grouped.agg(lambda v: f"{v.mean():.3g} ± {v.std():.1g}")
    return text.unstack("design").reindex(columns=scores.design.unique()).reset_index().fillna("–")


def panels(page: Page, curves: pd.DataFrame, name: str, caption: str) -> None:
    """One panel a design."""
    designs = list(curves.design.unique())
    rows = -(-len(designs) // 3)
    if not designs:
        return
    with page.figure(name, caption=caption, width=9, height=2.6 * rows, nrows=rows, ncols=3, squeeze=False) as (fig, axes):
        for ax, design in zip(axes.flat, designs):
            here = curves[curves.design == design]
            truth = here.groupby("line").truth.mean()
            if truth.notna().all():
                ax.plot(truth, color="0.5", linewidth=3, label="truth")
            for method, style in zip(SHOWN, page.styles):
                ax.plot(here[here.method == method].groupby("line").f.mean(), label=method, markevery=12, linewidth=1, **style)
            ax.set(title=design, xlabel="first input (its own units)", ylabel="outcome")
        for ax in list(axes.flat)[len(designs) :]:
            ax.set_axis_off()
        fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncol=6)
