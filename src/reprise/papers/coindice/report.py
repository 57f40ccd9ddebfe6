"""The page: coverage against nominal and width against the size of the data, an environment at a time, as the paper draws them."""

import textwrap

import pandas as pd

from reprise.papers.coindice import interval
from reprise.report import Page
from reprise.stage import Stage

LABELS = {
    "kl": "CoinDICE (kl)", "rkl": "CoinDICE (reverse kl)", "chi2": "CoinDICE (chi-square)", "wald": "Wald",
    "restrict": "CoinDICE, seen actions only", "zero": "CoinDICE, unseen worth 0", "state_only": "CoinDICE, state-only ratio",
    "two_sample": "CoinDICE, two samples", "per_transition": "CoinDICE, paper's pairing",
    "one_shot": "CoinDICE, one training", "round_1": "CoinDICE, re-trained", "round_2": "CoinDICE, re-trained twice",
    "t_weighted_step": "t, weighted IS", "bca_weighted_step": "BCa, weighted IS", "t_step": "t, step IS", "bernstein_step": "Bernstein, step IS",
}  # fmt: skip
TITLES = {"bandit": "Bandit", "frozenlake": "FrozenLake", "taxi": "Taxi", "lqr": "LQR, quadratic features", "lqr_neural": "LQR, networks", "reacher": "Reacher, networks"}


NOTE = "Bernstein and Hoeffding take the largest possible weighted return as range; on weighted IS, whose values depend on each other, their guarantee is void."


def everything(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of one environment."""
    at, above = (rows[rows.level == level].set_index(["method", "trajectories"], drop=False) for level in (0.9, 0.95))
    return pd.DataFrame(
        {
            "method": at.method.map(lambda m: LABELS.get(m, m.replace("_", " "))),
            "trajectories": at.trajectories,
            "coverage": at.coverage,
            "binomial band": [f"{low:.3f} to {high:.3f}" for low, high in zip(at.band_low, at.band_high, strict=True)],
            "coverage at .95": above.coverage,
            "log10 width": at.log_width,
            "bias": at.bias,
            "sd of the estimate": at.sd,
        }
    )


def extras(stage: Stage) -> dict[str, tuple[pd.DataFrame, str]]:
    """{variant: (table, caption)} of what some environments show besides coverage."""
    found, results = {}, stage.path("results")
    if (file := results / "retraining.parquet").exists():
        for variant, rows in pd.read_parquet(file).groupby("variant", sort=False):
            named = rows.drop(columns="variant").assign(method=rows.method.map(LABELS)).rename(columns={"mean": "mean change", "most": "largest change", "wider": "wider by"})
            found[variant] = named, "What re-training under the weights of each side changes in the ends of the .95 intervals, in widths of those from one training."
    if (file := results / "renormalised.parquet").exists():
        for variant, rows in pd.read_parquet(file).groupby("variant", sort=False):
            named = rows.drop(columns="variant").set_axis(["trajectories", "policy better than the target by", "bias of the estimate", "its value held at .9", "at .95"], axis=1)
            found[variant] = named, "Seen actions only: the interval speaks of the target renormalised over them. Its exact value, averaged over datasets, and how often the intervals hold it."
    return found


def report(stage: Stage) -> None:
    """Two figures and a table for each environment, and what `extras` adds."""
    table, more = pd.read_parquet(stage.path("results") / "coverage.parquet"), extras(stage)
    page = Page(stage)
    for variant, rows in table.groupby("variant", sort=False):
        title = TITLES.get(variant, variant)
        drawn = rows[rows.method.isin(LABELS)]
        sizes = sorted(rows.trajectories.unique())
        page.text(f"### {title}")
        caption = f"{title}: share of {rows.datasets.iloc[0]} datasets whose interval holds the true value, against the nominal level. Grey: where 95 % of the shares lie if the nominal level is true."
        with page.figure(f"{variant}_coverage", caption, width=3 * max(len(sizes), 2), height=3.6, ncols=len(sizes), sharey=True, squeeze=False) as (_, axes):
            for ax, size in zip(axes[0], sizes, strict=True):
                at = drawn[drawn.trajectories == size]
                band = at.drop_duplicates("level").sort_values("level")
                ax.fill_between(band.level, band.band_low, band.band_high, color="0.85")
                ax.plot([0.5, 1], [0.5, 1], color="0.5", linewidth=0.8)
                for (method, line), style in zip(at.groupby("method", sort=False), page.styles, strict=False):
                    ax.plot(line.level, line.coverage, label=LABELS[method], **style)
                ax.set_title(f"{size} trajectories")
                ax.set_xlabel("nominal level")
                ax.set_ylim(0, 1.02)
            axes[0, 0].set_ylabel("coverage")
            axes[0, -1].legend(fontsize=6, loc="lower left", bbox_to_anchor=(1, 0))
        at_90 = drawn[drawn.level == 0.9]
        if len(sizes) > 1:
            with page.figure(f"{variant}_width", f"{title}: median log10 width of the .9 intervals against the number of trajectories.", width=5.6, height=3.4) as (_, ax):
                for (method, line), style in zip(at_90.groupby("method", sort=False), page.styles, strict=False):
                    ax.plot(line.trajectories, line.log_width, label=LABELS[method], **style)
                ax.set_xscale("log")
                ax.set_xticks(sizes, [str(size) for size in sizes], minor=False)
                ax.minorticks_off()
                ax.set_xlabel("trajectories")
                ax.set_ylabel("log10 width")
                ax.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
        page.table(everything(rows), f"{title}, every method at level .9. {NOTE}" if rows.method.str.startswith("bernstein").any() else f"{title}, every method at level .9.")
        if variant in more:
            page.table(*more[variant])
    example = interval.__doc__.partition("\n\n")[2].rpartition("\n\n")[0]
    page.text(
        f"### Intervals for your own log\n\n```text\n{textwrap.dedent(example)}\n```\n\n"
        "`reprise.papers.coindice.interval.interval(log, policy, gamma, level)` takes a data frame with the columns trajectory, state, action, reward, next_state "
        "(and done, where episodes end) and the policy's probabilities, a row for each state; `interval_with_features` takes features of continuous states."
    )
    page.write()
