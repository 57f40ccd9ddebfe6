"""The page: frontiers, paired gains, the capacity study, the second application."""

import pandas as pd

from reprise.papers.smalltowers.frontier import non_dominated
from reprise.report import Page
from reprise.stage import Stage

COLUMNS = ["test_accuracy_left", "test_accuracy_right"]


def report(stage: Stage) -> None:
    """Draw what the paper draws."""
    results = stage.path("results")
    points, study, movies = (pd.read_parquet(results / f"{name}.parquet") for name in ("points", "study", "movielens"))
    page = Page(stage)
    with page.figure("frontier", caption="Test accuracies of both tasks, mean over seeds: lines join the non-dominated points of a frontier, single marks are methods that find their own weights.", width=7, height=4) as (_, ax):
        for (variant, rows), style in zip(points.groupby("variant", sort=False), page.styles):
            front = non_dominated(rows.groupby("alpha")[COLUMNS].mean().to_numpy())
            ax.plot(front[:, 0], front[:, 1], label=variant, **style)
        ax.set_xlabel("accuracy, left digit")
        ax.set_ylabel("accuracy, right digit")
        ax.legend(ncol=2)
    with page.figure("alpha", caption="Accuracy by task weight: the auxiliary tower mainly rescues the task that counts little.", ncols=2, width=7, sharey=True) as (_, axes):
        for ax, column in zip(axes, COLUMNS):
            for variant, style in zip(("mtl", "aux_neck", "aux_same", "pta2"), page.styles):
                rows = points[points.variant == variant].groupby("alpha")[column]
                ax.errorbar(rows.mean().index, rows.mean(), rows.sem(), label=variant, capsize=2, **style)
            ax.set_xlabel("weight of the right task")
            ax.set_title(column.rpartition("_")[2])
        axes[0].set_ylabel("test accuracy")
        axes[0].legend()
    if len(study):
        with page.figure("capacity", caption="Hypervolume of the test frontier by depth of the towers and by width of the bottom: mean and standard error over seeds.", ncols=2, width=7, sharey=True) as (_, axes):
            own = {"tower_layers": 4, "bottom_width": 50}
            for ax, key in zip(axes, own):
                for variant, style in zip(study.variant.unique(), page.styles):
                    rows = study[(study.variant == variant) & (study["size"].str.startswith(key) | (study["size"] == "own"))]
                    value = rows["size"].map(lambda s, key=key: own[key] if s == "own" else int(s.rpartition("_")[2]))
                    grouped = rows.groupby(value).test
                    ax.errorbar(grouped.mean().index, grouped.mean(), grouped.sem(), label=variant, capsize=2, **style)
                ax.set_xlabel(key.replace("_", " "))
            axes[0].set_ylabel("hypervolume")
            axes[0].legend()
    page.table(movies.groupby("method")[["watch", "rating"]].agg(["mean", "sem"]).pipe(flat), "Second application, simulated feedback: cross-entropy of watching and squared error of ratings on test, mean over task weights and seeds (lower is better).")
    page.write()


def flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Column levels joined, the index as a column."""
    frame.columns = [" ".join(column).replace("sem", "s.e.").strip() for column in frame.columns]
    return frame.reset_index().fillna(0.0)
