"""The page: scores, where the gain comes from, how many similar words, the gate."""

import pandas as pd

from reprise.report import Page
from reprise.stage import Stage

MODULES = {"": "baseline", "ds": "+ DS", "au": "+ AU", "au_ga": "+ AU + gate", "random": "random neighbours"}
INPUTS = {"random": ["baseline", "ds", "au", "au_ga", "random_neighbours"], "static": ["static_baseline", "static_ds", "static_au", "static_au_ga", "static_random"]}
BY_M = {0: "baseline", 1: "m1", 3: "m3", 5: "m5", 10: "au_ga", 15: "m15"}


def report(stage: Stage) -> None:
    """Figures and tables from the results; a corpus or variant that was not run at this scale is left out."""
    results = stage.path("results")
    scores, facts, differences = (pd.read_parquet(results / f"{name}.parquet") for name in ("scores", "facts", "differences"))
    page = Page(stage)
    corpora = list(facts.corpus)
    page.table(facts, "The test sets, in percent: what training never showed, what the source vectors cover, and for generated text the share of similar words from the word's own class.")
    figure_modules(page, scores, corpora)
    page.table(summary(scores), "Entity-level scores on the test sets, mean ± standard deviation over the seeds, in percent.")
    if len(differences):
        page.table(differences.rename(columns={"positive": "seeds above 0", "low": "2.5 %", "high": "97.5 %"}), "Differences in F1 (points), seed by seed; the interval is a paired bootstrap over the test sentences.")
    figure_unseen(page, scores, corpora[0])
    if set(BY_M.values()) <= set(scores[scores.corpus == corpora[0]].variant):
        figure_by_m(page, scores[scores.corpus == corpora[0]])
    page.write()


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a corpus and variant, cells as `mean ± std`."""
    columns = [c for c in ("f1", "precision", "recall", "recall_unseen", "recall_seen", "surface_f1", "shared_f1", "gate_seen", "gate_unseen") if c in scores]
    grouped = scores.sort_values("corpus", key=lambda c: c.map(list(scores.corpus.unique()).index), kind="stable").groupby(["corpus", "variant"], sort=False)[columns]
    mean, std = grouped.mean(), grouped.std().fillna(0)
    cells = {c: [f"{m:.2f} ± {s:.2f}" if c.startswith("gate") else f"{m:.1f} ± {s:.1f}" for m, s in zip(mean[c], std[c])] for c in columns}
    frame = pd.DataFrame(cells, index=mean.index).reset_index()
    frame.loc[mean.gate_seen.to_numpy() == 1, ["gate_seen", "gate_unseen"]] = "–"  # no gate
    return frame.replace("nan ± 0.0", "–")


def figure_modules(page: Page, scores: pd.DataFrame, corpora: list[str]) -> None:
    """Bars of F1 by module, one panel an input."""
    with page.figure("modules", "Test F1 by module, learned and static word vectors as input; error bars: standard deviation over seeds.", width=8, ncols=2, sharey=True) as (_, axes):
        for ax, (kind, variants) in zip(axes, INPUTS.items()):
            for i, (corpus, hatch) in enumerate(zip(corpora, ["", "///", "..", "xx"])):
                f1 = scores[scores.corpus == corpus].groupby("variant").f1.agg(["mean", "std"]).reindex(variants)
                places = [k + (i - (len(corpora) - 1) / 2) * 0.8 / len(corpora) for k in range(len(variants))]
                ax.bar(places, f1["mean"], 0.8 / len(corpora), yerr=f1["std"].fillna(0), hatch=hatch, label=corpus, color=["#56b4e9", "#e69f00", "#009e73", "#cc79a7"][i], edgecolor="black", capsize=2)
            ax.set_xticks(range(len(variants)), list(MODULES.values()), rotation=25, ha="right")
            ax.set_xlabel(f"modules, {kind} input")
        axes[0].set_ylabel("entity F1 (%)")
        axes[0].legend()


def figure_unseen(page: Page, scores: pd.DataFrame, corpus: str) -> None:
    """Recall on entities with and without a token that training never showed."""
    part = scores[scores.corpus == corpus]
    variants = [v for names in INPUTS.values() for v in names if v in set(part.variant)]
    mean, std = (part.groupby("variant")[["recall_seen", "recall_unseen"]].agg(how).reindex(variants).fillna(0) for how in ("mean", "std"))
    with page.figure("unseen", f"Recall on {corpus}, of entities with and without a token that training never showed.", width=7) as (fig, ax):
        for k, (column, hatch, colour, label) in enumerate([("recall_seen", "", "#56b4e9", "all tokens seen in training"), ("recall_unseen", "///", "#e69f00", "a token unseen in training")]):
            ax.bar([i + 0.4 * k - 0.2 for i in range(len(variants))], mean[column], 0.4, yerr=std[column], hatch=hatch, color=colour, edgecolor="black", capsize=2, label=label)
        ax.set_xticks(range(len(variants)), variants, rotation=30, ha="right")
        ax.set_xlabel("variant")
        ax.set_ylabel("recall (%)")
        fig.legend(loc="outside upper center", ncols=2)


def figure_by_m(page: Page, scores: pd.DataFrame) -> None:
    """F1 against the number of similar words."""
    f1 = scores.groupby("variant").f1.agg(["mean", "std"]).reindex(list(BY_M.values()))
    with page.figure("by_m", "Test F1 against the number m of similar words (0: the baseline); error bars: standard deviation over seeds.", width=5) as (_, ax):
        ax.errorbar(list(BY_M), f1["mean"], f1["std"], capsize=3, **next(page.styles))
        ax.set_xlabel("similar words m")
        ax.set_ylabel("entity F1 (%)")
