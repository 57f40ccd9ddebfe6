"""The page: the heat map of source against target, features before and after, ownership under attack, authorisation."""

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from reprise.papers.ntl.data import Domains
from reprise.report import Page
from reprise.stage import Stage

ATTACKS = ["none", "ftal", "rtal", "ewc", "au", "overwriting", "pruning", "cut", "hard"]


def report(stage: Stage) -> None:
    """Draw what the paper draws."""
    results = stage.path("results")
    accuracies, points = (pd.read_parquet(results / f"{name}.parquet") for name in ("accuracies", "embedding"))
    thief, attacks = (pd.read_parquet(stage.path("attack") / f"{name}.parquet") for name in ("thief", "attacks"))
    page = Page(stage)
    matrices(page, accuracies)
    ablation(page, accuracies)
    features(page, points)
    curves(page, pd.read_parquet(stage.path("models", "target") / "history.parquet"), accuracies)
    ownership(page, thief, attacks)
    augmented(page, stage)
    unseen(page, accuracies)
    authorised(page, accuracies)
    page.write()


def heat(ax, values: np.ndarray, columns: list[str], rows: list[str]) -> None:
    """Numbers on shades of gray, 0 to 100 percent; a missing pair stays empty."""
    ax.imshow(values, cmap="Greys", vmin=0, vmax=130, aspect="auto")
    ax.grid(False)
    ax.set_xticks(range(len(columns)), columns, rotation=30)
    ax.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 80 else "black")


def matrices(page: Page, accuracies: pd.DataFrame) -> None:
    """Accuracy of source against target, supervised and NTL."""
    plain = accuracies[~accuracies.patched]
    ours = plain[(plain.variant == "target")]
    sources = list(dict.fromkeys(ours.source))
    columns = list(dict.fromkeys([*sources, *ours.target]))
    sl = plain[plain.variant == "sl"].groupby(["source", "domain"]).accuracy.mean()
    ntl = ours[ours.domain == ours.target].groupby(["source", "target"]).accuracy.mean()
    kept = ours[ours.domain == ours.source].groupby("source").accuracy.mean()
    before = np.array([[sl[s, t] for t in columns] for s in sources])
    after = np.array([[kept[s] if s == t else ntl.get((s, t), np.nan) for t in columns] for s in sources])
    with page.figure("matrix", caption="Test accuracy (percent, mean over seeds) of a model trained on the source in the row, on the domain in the column. Left: supervised. Right: NTL with that target; the diagonal is the source accuracy, averaged over the source's targets.", ncols=2, width=7, height=2.8) as (_, axes):
        for ax, values, title in zip(axes, (before, after), ("supervised", "NTL, target-specified")):
            heat(ax, values, columns, sources)
            ax.set_title(title)
            ax.set_xlabel("evaluated on")
        axes[0].set_ylabel("source")


def ablation(page: Page, accuracies: pd.DataFrame) -> None:
    """What each term of the objective contributes."""
    plain = accuracies[~accuracies.patched]
    names = {"target": "both terms", "target_kl": "without the MMD", "target_mmd": "without the KL"}
    shown = {name: label for name, label in names.items() if name in set(plain.variant)}
    pairs = sorted(set.intersection(*(set(plain[plain.variant == v].groupby(["source", "target"]).groups) for v in shown)))
    with page.figure("ablation", caption="Target and source accuracy (test, mean and standard deviation over seeds) with the whole objective and without one of its terms.", ncols=2, width=7, height=2.8, sharey=True) as (_, axes):
        for ax, role in zip(axes, ("target", "source")):
            for i, (variant, label) in enumerate([("sl", "supervised"), *shown.items()]):
                each = [plain[(plain.variant == variant) & (plain.source == s) & (plain.target == ("" if variant == "sl" else t)) & (plain.domain == (t if role == "target" else s))].accuracy for s, t in pairs]
                ax.bar(np.arange(len(pairs)) + 0.2 * i - 0.3, [e.mean() for e in each], 0.2, yerr=[e.std(ddof=0) for e in each], label=label, color=str(0.2 + 0.22 * i), edgecolor="black", capsize=2)
            ax.set_xticks(range(len(pairs)), [f"{s} / {t}" for s, t in pairs])
            ax.set_xlabel("source / target")
            ax.set_title(f"{role} domain")
        axes[0].set_ylabel("test accuracy, percent")
        axes[0].legend(fontsize=7)


def features(page: Page, points: pd.DataFrame) -> None:
    """Principal components of the split layer."""
    with page.figure("features", caption="Features of the split layer, first two principal components, one seed: NTL tears source and target apart.", ncols=2, width=7, height=2.8) as (_, axes):
        for ax, (method, rows) in zip(axes, points.groupby("method", sort=False)):
            for (domain, own), style in zip(rows.groupby("domain", sort=False), page.styles):
                ax.plot(own["first"], own["second"], label=domain, alpha=0.6, **{**style, "linestyle": "none"})
            ax.set_title(method)
            ax.set_xlabel("first component")
            ax.legend()
        axes[0].set_ylabel("second component")


def curves(page: Page, history: pd.DataFrame, accuracies: pd.DataFrame) -> None:
    """Validation accuracy by epoch."""
    members = accuracies[accuracies.variant == "target"].drop_duplicates(["source", "target", "seed"]).reset_index(drop=True)
    with page.figure("curves", caption="Validation accuracy while NTL trains, mean over seeds: the source stays, the target falls.", ncols=2, width=7, height=2.8, sharey=True) as (_, axes):
        for ax, metric, title in zip(axes, ("accuracy_source", "accuracy_auxiliary"), ("source", "target")):
            for (pair, own), style in zip(members.groupby(["source", "target"], sort=False), page.styles):
                rows = history[(history.metric == metric) & history.member.isin(own.index)].groupby("step").value.mean()
                ax.plot(rows.index + 1, 100 * rows, label=" / ".join(pair), **style)
            ax.set_title(title)
            ax.set_xlabel("epoch")
        axes[0].set_ylabel("validation accuracy, percent")
        axes[1].legend()


def ownership(page: Page, thief: pd.DataFrame, attacks: pd.DataFrame) -> None:
    """Before and after the attacks, each at the thief's best setting; the sweep; pruning alone."""
    present = [a for a in ATTACKS if a in set(thief.attack)]
    with page.figure("attacks", caption="Ownership under attack, each attack at the setting that removes most on validation images while clean accuracy stays within the tolerance: mean and standard deviation over seeds. NTL holds while patched accuracy stays near chance; the watermark holds while it answers its trigger. `cut` is pruning without fine-tuning, `hard` fine-tuning by long steps of SGD.", ncols=2, width=7, height=3, sharey=True) as (_, axes):
        for ax, variant, column, label in zip(axes, ("ownership", "watermark"), ("patched", "answers"), ("patched accuracy", "answer to the trigger")):
            rows = thief[thief.variant == variant].groupby("attack")[["clean", column]].agg(["mean", "std"]).reindex(present) * 100
            for i, (name, text, shade) in enumerate((("clean", "clean accuracy", "0.85"), (column, label, "0.35"))):
                ax.bar(np.arange(len(present)) + 0.4 * i - 0.2, rows[name, "mean"], 0.4, yerr=rows[name, "std"].fillna(0), label=text, color=shade, edgecolor="black", capsize=2)
            ax.set_xticks(range(len(present)), present, rotation=40)
            ax.set_title({"ownership": "NTL", "watermark": "conventional watermark"}[variant])
            ax.set_ylim(0, 122)
            ax.legend(loc="upper center", ncols=2, fontsize=7)
        axes[0].set_ylabel("percent")
    with page.figure("sweep", caption="All settings of the sweep: learning rates of the fine-tuning attacks, and the share of weights cut without fine-tuning. Validation images, mean over seeds.", ncols=3, width=7.5, height=3) as (_, axes):
        for ax, variant, column in zip(axes[:2], ("ownership", "watermark"), ("patched", "answers")):
            for name, style in zip([a for a in present if a not in ("none", "cut", "hard")], page.styles):
                rows = attacks[(attacks.variant == variant) & (attacks.attack == name)].groupby("setting")[column].mean()
                ax.plot(rows.index, 100 * rows, label=name, **style)
            ax.set_xscale("log")
            ax.minorticks_off()
            ax.set_xticks(rows.index, [f"{rate:g}" for rate in rows.index])
            ax.set_xlabel("learning rate")
            ax.set_ylim(-5, 105)
            ax.set_ylabel({"patched": "NTL: patched accuracy, percent", "answers": "watermark: answers, percent"}[column])
        axes[0].legend(fontsize=6)
        cut = attacks[attacks.attack == "cut"]
        for (variant, column, text), style in zip((("ownership", "clean", "NTL clean"), ("ownership", "patched", "NTL patched"), ("watermark", "clean", "watermark clean"), ("watermark", "answers", "watermark answers")), page.styles):
            rows = cut[cut.variant == variant].groupby("setting")[column].mean()
            axes[2].plot(rows.index, 100 * rows, label=text, **style)
        axes[2].set_xlabel("share of weights cut")
        axes[2].set_ylabel("percent")
        axes[2].legend(fontsize=6)
    table = thief.groupby(["variant", "attack"])[["setting", "clean", "patched", "answers"]].mean().reset_index()
    table[["clean", "patched", "answers"]] *= 100
    page.table(table, "Each attack at the thief's best setting, and a model trained from scratch on the thief's images, mean over seeds (setting: learning rate, or share cut), percent.")


def augmented(page: Page, stage: Stage) -> None:
    """A source's images, the GAN's bent ones, and the baseline's."""
    folder = stage.path("augment")
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("gan", "transforms")}
    source = next(iter(files["gan"])).partition("/")[0]
    rows = [Domains(stage)[source, "train"][0][:24], *(f[f"{source}/x"][:24] for f in files.values())]
    with page.figure("augmented", caption="Source images; images of the bent GANs, all distances and directions; plain transformations, the baseline.", width=7, height=1.2) as (_, ax):
        ax.imshow(np.concatenate([torch.cat(list(row.cpu()), 1).numpy() for row in rows]), interpolation="nearest", aspect="equal")
        ax.set_axis_off()
    reached = pd.read_parquet(folder / "reached.parquet").groupby(["judged", "distance"]).mmd.agg(["mean", "min", "max"]).reset_index()
    page.table(reached.rename(columns={"distance": "distance asked for", "mean": "MMD reached (mean)"}), "What the bent generators reach in the last step, over directions.")


def unseen(page: Page, accuracies: pd.DataFrame) -> None:
    """Source-only: no image of the other domains was seen."""
    plain = accuracies[~accuracies.patched]
    shown = {"sl": "supervised", "source_only": "NTL, GAN", "transforms": "NTL, transformations"}
    for source in plain[plain.variant == "source_only"].source.unique():
        table = plain[(plain.source == source) & plain.variant.isin(shown) & (plain.target == "")].groupby(["variant", "domain"]).accuracy.agg(["mean", "std"]).fillna(0)
        frame = pd.DataFrame([{"method": label, **{d: f"{table.loc[(v, d), 'mean']:.1f} ± {table.loc[(v, d), 'std']:.1f}" for d in plain.domain.unique()}} for v, label in shown.items() if v in table.index])
        page.table(frame, f"Source-only, source `{source}`: test accuracy by domain, mean and standard deviation over seeds, percent.")


def authorised(page: Page, accuracies: pd.DataFrame) -> None:
    """Accuracy by domain, plain and patched."""
    source = accuracies[accuracies.variant == "authorisation"].source.iloc[0]
    domains = list(dict.fromkeys(accuracies.domain))
    with page.figure("authorisation", caption=f"Applicability authorisation, source {source}: only the patched source is to be served. Test accuracy, percent, mean over seeds.", ncols=2, width=7, height=2.2) as (_, axes):
        for ax, variant, title in zip(axes, ("sl", "authorisation"), ("supervised", "authorised by the patch")):
            own = accuracies[(accuracies.variant == variant) & (accuracies.source == source)].groupby(["patched", "domain"]).accuracy.mean()
            heat(ax, np.array([[own[stamp, d] for d in domains] for stamp in (False, True)]), domains, ["plain", "patched"])
            ax.set_title(title)
