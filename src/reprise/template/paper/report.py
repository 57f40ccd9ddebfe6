"""The page: the loss by iteration."""

import pandas as pd

from reprise.report import Page
from reprise.stage import Stage


def report(stage: Stage) -> None:
    """Draw the median loss of each variant."""
    history = pd.read_parquet(stage.path("results") / "history.parquet")
    page = Page(stage)
    with page.figure("loss", caption="Median loss over the problems: the heavy ball's slope is steeper.") as (_, ax):
        for (variant, rows), style in zip(history.groupby("variant"), page.styles):
            ax.semilogy(rows.groupby("step").value.median(), label=variant, markevery=20, **style)
        ax.set_xlabel("iteration")
        ax.set_ylabel("f(x)")
        ax.legend()
    page.write()
