"""The page: who notices which mistake, who answers alike, and three networks that learn the same."""

import pandas as pd

from reprise.papers.einops.equivalence import IMPLEMENTATIONS
from reprise.report import Page
from reprise.stage import Stage

HATCHES = {"ours": "", "official": "//", "raw": ".."}


def report(stage: Stage) -> None:
    """Draw the figures and write the page."""
    results = stage.path("results")
    mutation = pd.read_parquet(results / "mutation.parquet")
    page = Page(stage)
    senseless = mutation[~mutation.sensible]
    shares = senseless.assign(noticed=senseless.outcome == "error").groupby(["kind", "implementation"]).noticed.mean().unstack()[list(IMPLEMENTATIONS)]
    with page.figure("mutation", "Share of senseless calls that end in an error, by kind of mistake (numpy and torch together). Longer is better; raw code has no bar where it has no place for the mistake.", height=5.2) as (_, ax):
        for offset, (name, style) in enumerate(zip(IMPLEMENTATIONS, page.styles)):
            ax.barh([i + (1 - offset) * 0.27 for i in range(len(shares))], shares[name], 0.25, label=name, color=style["color"], hatch=HATCHES[name], edgecolor="white")
        ax.set_yticks(range(len(shares)), shares.index)
        ax.set_xlabel("share noticed")
        ax.set_ylabel("mistake")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    counts = mutation.groupby(["library", "implementation", "sensible", "outcome"]).size().unstack(fill_value=0).reset_index()
    page.table(counts, "Mutants by outcome. Sensible ones still fit their pattern, such as an image turned on its side: nobody can notice, and the right result is wanted.")
    silent = senseless[(senseless.outcome == "wrong") & (senseless.implementation == "official")].groupby(["kind", "library"]).size().rename("mutants").reset_index()
    page.table(silent, "Senseless calls to which the official package gives an answer.")
    defects = pd.read_parquet(results / "defects.parquet").pivot(index="case", columns="implementation", values="right").reset_index()
    page.table(defects[["case", "official", "ours"]], "Single cases: whether the right value comes back, or an error of the notation's own class where the call makes no sense.")
    learning = pd.read_parquet(results / "learning.parquet")
    with page.figure("learning", "Loss while training, seed 0: the three networks are one, written in three ways.", height=3) as (_, ax):
        first = learning[learning.seed == 0]
        for name, style in zip(IMPLEMENTATIONS, page.styles):
            ax.semilogy(first.step, first[name], label=name, markevery=(5 * IMPLEMENTATIONS.index(name), 20), **style)
        ax.set_xlabel("step")
        ax.set_ylabel("cross-entropy")
        ax.legend()
    agree = pd.read_parquet(results / "equivalence.parquet").groupby(["implementation", "library"]).equal.agg(cases="size", agree="mean").reset_index()
    page.table(agree, "Share of patterns with the shape, type and values of the element-by-element interpreter.")
    page.text(
        "Times are not part of this page, since they cannot be regenerated. `python benchmarks/einops_overhead.py` measures the overhead of both packages"
        " over raw code in one run; the last record, `benchmarks/einops_overhead.md`, names the machine it was made on."
    )
    page.write()
