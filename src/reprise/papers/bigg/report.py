"""The page: quality beside Erdos-Renyi and the floor, samples to look at, over-fitting, and counted costs."""

import networkx as nx
import numpy as np
import pandas as pd

from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.statistics import STATISTICS
from reprise.papers.bigg.scaling import exponent
from reprise.report import Page
from reprise.stage import Stage

NAMES = {"bigg": "BiGG", "bits": "BiGG, B > 0", "no_history": "no row history", "dense": "dense (GraphRNN)", "unrelated": "rows at random", "er": "Erdos-Renyi", "floor": "train graphs"}
LEAST = 1e-5  # where an exact zero is drawn on a logarithmic axis


def report(stage: Stage) -> None:
    """Figures and tables from the results alone."""
    page = Page(stage)
    if (stage.path("results") / "scores.parquet").exists():
        scores = pd.read_parquet(stage.path("results") / "scores.parquet")
        _quality(page, scores)
        _samples(page, pd.read_parquet(stage.path("results") / "samples.parquet"))
        _likelihood(page, scores)
    if (stage.path("results") / "formulas.parquet").exists():
        _formulas(page, pd.read_parquet(stage.path("results") / "formulas.parquet"))
    _costs(page, pd.read_parquet(stage.path("results") / "costs.parquet"))
    page.write()


def _quality(page: Page, scores: pd.DataFrame) -> None:
    sets = list(dict.fromkeys(scores["set"]))
    with page.figure(
        "mmd",
        caption="Squared MMD of samples to test graphs, mean over members with their range; the dotted line is the distance of the training graphs themselves. Zeros stand at the lower edge.",
        width=4 * len(sets),
        ncols=len(sets),
        squeeze=False,
        sharey=True,
    ) as (_, axes):
        for ax, name in zip(axes[0], sets):
            own = scores[scores["set"] == name]
            variants = [v for v in NAMES if v in set(own.variant) and v != "floor"]
            for k, (variant, style) in enumerate(zip(variants, page.styles)):
                values = own[own.variant == variant][list(STATISTICS)].clip(lower=LEAST)
                x = np.arange(len(STATISTICS)) + 0.14 * (k - (len(variants) - 1) / 2)
                mean = values.mean().to_numpy()
                spread = np.abs(np.stack([values.min().to_numpy(), values.max().to_numpy()]) - mean)
                ax.errorbar(x, mean, spread, linestyle="none", marker=style["marker"], color=style["color"], label=NAMES[variant])
            floor = own[own.variant == "floor"][list(STATISTICS)].clip(lower=LEAST).mean()
            for k, value in enumerate(floor):
                ax.plot([k - 0.4, k + 0.4], [value, value], ":", color="black", label="train against test" if k == 0 else None)
            ax.set_yscale("log")
            ax.set_xticks(range(len(STATISTICS)), list(STATISTICS))
            ax.set_xlabel("statistic")
            ax.set_title(name)
        axes[0][0].set_ylabel("squared MMD")
        axes[0][0].legend(fontsize=7)
    columns = [c for c in [*STATISTICS, "valid", "connected", "unique", "novel", "valid_unique_novel", "isolated"] if c in scores]
    table = scores.assign(method=scores.variant.map(NAMES)).groupby(["set", "method"], sort=False)[columns]
    mean, spread = table.mean(), table.std()
    text = mean.copy().astype(object)
    for column in columns:
        text[column] = [("–" if np.isnan(m) else f"{m:.2g}" + ("" if np.isnan(s) else f" ± {s:.1g}")) for m, s in zip(mean[column], spread[column])]
    page.table(text.reset_index(), caption="Squared MMD to the test graphs, and shares of the sampled graphs (mean ± standard deviation over members)")


def _samples(page: Page, samples: pd.DataFrame) -> None:
    shown = samples[samples.variant == "bigg"]
    sets = list(dict.fromkeys(shown["set"]))
    with page.figure("samples", caption="The first graphs that the first member of BiGG drew for each data set, none left out.", width=9, height=1.6 * len(sets), nrows=len(sets), ncols=6, squeeze=False) as (_, axes):
        for row, name in zip(axes, sets):
            own = shown[(shown["set"] == name) & (shown.member == 0)]
            for ax, (_, graph) in zip(row, own.iterrows()):
                g = Graph.of(graph.n, np.stack([graph.u, graph.v], axis=1)).networkx()
                place = nx.kamada_kawai_layout(g) if graph.connected and graph.n <= 100 else nx.circular_layout(g)
                segments = np.array([[np.round(place[u], 3), np.round(place[v], 3)] for u, v in g.edges()])
                for a, b in segments:
                    ax.plot(*zip(a, b), color="black", linewidth=0.7)
                ax.plot(*np.round(np.array(list(place.values())), 3).T, "o", markersize=1.8, color="#0072b2")
            for ax in row:
                ax.axis("off")
            row[0].set_title(name, loc="left")


def _likelihood(page: Page, scores: pd.DataFrame) -> None:
    columns = [c for c in ("nll_train", "nll_validation", "nll_test") if c in scores]
    table = scores.dropna(subset=columns[:1]).assign(method=scores.variant.map(NAMES)).groupby(["set", "method"], sort=False)[columns].mean()
    page.table(
        table.rename(columns=lambda c: c.removeprefix("nll_")).reset_index(),
        caption="-log p per node in nats, in each method's own node order. The gap between training and test graphs is large: with this few graphs the models know them by heart, although their samples look right",
    )


def _formulas(page: Page, formulas: pd.DataFrame) -> None:
    page.table(formulas.drop(columns=["member", "formula"]).groupby(["set", "variant"], sort=False).mean().reset_index(), caption="Formulas: means of the statistics over formulas and members")


def _costs(page: Page, costs: pd.DataFrame) -> None:
    size = costs.n + costs.m
    panels = [
        ("operations", 1, [("BiGG", "work"), ("all pairs of nodes", "pairs"), ("pairs within the bandwidth", "windowed_pairs")]),
        ("sequential steps", 1, [("BiGG", "stages"), ("dense (GraphRNN)", "dense_stages")]),
        ("kept for the backward pass (MiB)", 2**20, [("whole graph", "bytes_whole"), ("blocks of rows", "bytes_blocks")]),
    ]
    caption = "Square grids in breadth-first order, counted. Left: applications of a cell or head to a state, against the pairs of nodes that a dense model decides on. Middle: steps that must follow one another. Right: bytes of activations, whole and in blocks of about sqrt(n) rows. In brackets the exponent in n + m."
    with page.figure("costs", caption=caption, width=10, ncols=3) as (_, axes):
        for ax, (label, unit, lines) in zip(axes, panels):
            for (name, column), style in zip(lines, page.styles):
                ax.loglog(size, costs[column] / unit, label=f"{name} ({exponent(size, costs[column]):.2f})", **style)
            ax.set_xlabel("n + m")
            ax.set_ylabel(label)
            ax.legend(fontsize=7)
    page.table(costs, caption="Counts for square grids (no clock; seconds are measured by benchmarks/bigg.py)", digits=6)
