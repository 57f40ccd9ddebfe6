"""Accuracies of every model on every domain, plain and patched; drops, verification, authorisation, and what a thief achieves at best."""

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import logsumexp
from scipy.stats import binom

from reprise.papers.ntl.data import Domains, Patch, patched
from reprise.papers.ntl.fit import load
from reprise.papers.ntl.model import VGG, Architecture, predictions
from reprise.params import Params
from reprise.stage import Stage


class Evaluate(Params):
    """Parameters of `evaluate`."""

    architecture: Architecture = Field(description="the network")
    patch: Patch = Field(description="the patch")
    stamped: tuple[str, ...] = Field(description="variants that are shown patched images too, as the supervised models of their sources are")
    destroyable: float = Field(gt=0, description="a target counts in the mean drop if supervised accuracy on it is at least this many times chance")
    embedded: int = Field(gt=0, description="images per domain whose split-layer features are drawn")


def measure(model: VGG, domains: Domains, names: list[str], stamps: tuple[bool, ...], patch: Patch) -> list[dict]:
    """Test accuracy on each of the domains `names`, in percent."""
    rows = []
    for domain in names:
        x, y = domains[domain, "test"]
        for stamp in stamps:
            hit = (predictions(model, patched(x, patch) if stamp else x) == y).double().mean().item()
            rows.append({"domain": domain, "patched": stamp, "accuracy": 100 * hit})
    return rows


def accuracies(params: Evaluate, stage: Stage, domains: Domains) -> pd.DataFrame:
    """A row for each variant (`sl` among them), source, target, seed, domain and patch."""
    rows, marked = [], set()
    for variant in [*stage.variants, "sl"]:
        folder = stage.path("pretrain") if variant == "sl" else stage.path("models", variant)
        for name, model in load(folder / "model.safetensors", params.architecture, domains.side, stage.device).items():
            pair, _, seed = name.rpartition("-")
            source, _, target = pair.partition("_")
            if variant in params.stamped:
                marked.add(source)
            stamps = (False, True) if variant in params.stamped or variant == "sl" and source in marked else (False,)
            key = {"variant": variant, "source": source, "target": target, "seed": int(seed)}
            rows += [key | row for row in measure(model, domains, [source, target] if target else domains.names, stamps, params.patch)]
    return pd.DataFrame(rows)


def spread(name: str, values: pd.Series | np.ndarray) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    values = np.asarray(values, dtype=float)
    return {f"{name}.mean": values.mean(), f"{name}.sd": values.std(ddof=1) if len(values) > 1 else 0.0}


class Table:
    """Accuracies by name: `table("sl", "plain", domain="bold")` is a value for each seed."""

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame

    def __call__(self, variant: str, source: str, domain: str, target: str = "", stamp: bool = False) -> np.ndarray:
        f = self.frame
        chosen = f[(f.variant == variant) & (f.source == source) & (f.target == target) & (f.domain == domain) & (f.patched == stamp)]
        return chosen.sort_values("seed").accuracy.to_numpy()


def drops(table: Table, variant: str, source: str, others: list[str], target: str, chance: dict[str, float], destroyable: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Source drop in points, mean relative drop over `others` in percent, each by seed; and the domains left out, on which nothing is to be destroyed."""
    seeds = len(table(variant, source, source, target))
    lost = table("sl", source, source)[:seeds] - table(variant, source, source, target)
    before = {o: table("sl", source, o)[:seeds] for o in others}
    out = [o for o in others if before[o].mean() < destroyable * chance[o]]
    relative = [100 * (before[o] - table(variant, source, o, target)) / before[o] for o in others if o not in out]
    return lost, np.mean(relative, axis=0) if relative else np.zeros(seeds), out


def evaluate(params: Evaluate, stage: Stage) -> None:
    """accuracies.parquet, embedding.parquet; then the metrics, in percent."""
    domains = Domains(stage)
    frame = accuracies(params, stage, domains)
    table, metrics = Table(frame), {}
    labels = {d: domains[d, "test"][1] for d in domains.names}
    chance = {d: 100 * y.bincount().max().item() / len(y) for d, y in labels.items()}
    metrics |= {f"chance.{d}": value for d, value in chance.items()}
    for source, rows in frame[(frame.variant == "sl") & ~frame.patched].groupby("source"):
        for domain, own in rows.groupby("domain"):
            metrics |= spread(f"sl.{source}.{domain}", own.accuracy)
    drop_by_pair = {}
    for variant in stage.variants:
        pairs = frame.loc[frame.variant == variant, ["source", "target"]].drop_duplicates().itertuples(index=False)
        by_pair = {}
        for source, target in pairs:
            others = [target] if target else [d for d in domains.names if d != source]
            lost, relative, out = drops(table, variant, source, others, target, chance, params.destroyable)
            name = f"{variant}.{source}" + (f"_{target}" if target else "")
            metrics |= spread(f"{name}.source", table(variant, source, source, target)) | spread(f"{name}.source_drop", lost) | {f"{name}.left_out": len(out)}
            for other in others:
                metrics |= spread(f"{name}.{other}", table(variant, source, other, target))
            if len(out) < len(others):
                metrics |= spread(f"{name}.relative_drop", relative)
                by_pair[name] = (lost, relative)
        if by_pair:
            for i, key in enumerate(("source_drop", "relative_drop")):
                each = np.array([pair[i] for pair in by_pair.values()])  # (pairs, seeds)
                metrics |= spread(f"{variant}.{key}", each.mean(0)) | {f"{variant}.{key}.worst_pair": (each.mean(1).max() if i == 0 else each.mean(1).min())}
        drop_by_pair[variant] = {name.removeprefix(f"{variant}."): relative for name, (_, relative) in by_pair.items()}
    metrics |= ablation(drop_by_pair) | verification(table, frame, labels) | authorisation(table, frame, domains.names)
    metrics |= thief_metrics(pd.read_parquet(stage.path("attack") / "thief.parquet"))
    frame.to_parquet(stage.out / "accuracies.parquet", index=False)
    embedding(params, stage, domains).to_parquet(stage.out / "embedding.parquet", index=False)
    stage.metrics(metrics)


def ablation(drop_by_pair: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
    """Relative target drop with the whole objective and without one of its terms, over the pairs that all were trained on."""
    variants = [v for v in ("target", "target_kl", "target_mmd") if v in drop_by_pair]
    common = set.intersection(*(set(drop_by_pair[v]) for v in variants))
    metrics = {}
    for variant in variants if common else ():
        metrics |= spread(f"ablation.{variant}.relative_drop", np.mean([drop_by_pair[variant][pair] for pair in sorted(common)], axis=0))
    return metrics


def verification(table: Table, frame: pd.DataFrame, labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """Section 4.2: clean and patched accuracy, their gap, and how surprising the patched accuracy would be for a supervised model.

    The last is log10 P[X <= hits], X binomial with the supervised model's patched accuracy, of the least surprising model: our
    addition.
    """
    marked = frame[frame.variant == "ownership"]
    seeds, metrics, tails = marked.seed.nunique(), {}, []
    for variant in ("sl", "ownership"):
        each = [[table(variant, s, s, stamp=stamp)[:seeds] for stamp in (False, True)] for s in marked.source.unique()]
        clean, stamped = np.mean(each, axis=0)  # over sources
        metrics |= spread(f"verify.{variant}.clean", clean) | spread(f"verify.{variant}.patched", stamped) | spread(f"verify.{variant}.gap", clean - stamped)
    for source in marked.source.unique():
        n = len(labels[source])
        innocent, suspect = (table(variant, source, source, stamp=True)[:seeds] / 100 for variant in ("sl", "ownership"))
        tails += [logsumexp(binom.logpmf(np.arange(round(q * n) + 1), n, p)) for p, q in zip(innocent, suspect)]
    return metrics | {"verify.log10_p": max(tails) / np.log(10)}


def authorisation(table: Table, frame: pd.DataFrame, names: list[str]) -> dict[str, float]:
    """Section 4.3: accuracy on the patched source and on every other input, by source and over all of them."""
    sources = frame[frame.variant == "authorisation"].source.unique()
    metrics = {}
    for variant in ("sl", "authorisation"):
        served, refused = [], []
        for source in sources:
            inputs = {(d, stamp): table(variant, source, d, stamp=stamp) for d in names for stamp in (False, True)}
            served.append(inputs[source, True])
            refused.append([value for key, value in inputs.items() if key != (source, True)])
            for (domain, stamp), value in inputs.items():
                metrics |= spread(f"authorise.{variant}.{source}.{'patched' if stamp else 'plain'}.{domain}", value)
        metrics |= spread(f"authorise.{variant}.authorised", np.mean(served, axis=0)) | spread(f"authorise.{variant}.others", np.mean(refused, axis=(0, 1)))
        metrics[f"authorise.{variant}.others.worst"] = np.mean(refused, axis=2).max()
    return metrics


def thief_metrics(thief: pd.DataFrame) -> dict[str, float]:
    """By variant and attack: clean and patched accuracy and the rate of the watermark's answer; and the thief's best of the paper's attacks."""
    metrics = {}
    for (variant, attack), rows in thief.groupby(["variant", "attack"]):
        for column in ("clean", "patched", "answers"):
            metrics |= spread(f"attack.{variant}.{attack}.{column}", 100 * rows[column])
    for variant, rows in thief[~thief.attack.isin(["none", "hard"])].groupby("variant"):
        by_attack = rows.groupby("attack")[["clean", "patched", "answers"]].mean() * 100
        metrics |= {f"attack.{variant}.patched.highest": by_attack.patched.max(), f"attack.{variant}.clean.lowest": by_attack.clean.min(), f"attack.{variant}.answers.lowest": by_attack.answers.min()}
    return metrics


def embedding(params: Evaluate, stage: Stage, domains: Domains) -> pd.DataFrame:
    """The first two principal components of the split-layer features of source and target, before and after NTL: first pair, seed 0."""
    after = load(stage.path("models", "target") / "model.safetensors", params.architecture, domains.side, stage.device)
    pair, _, _ = next(iter(after)).rpartition("-")
    source, target = pair.split("_")
    before = load(stage.path("pretrain") / "model.safetensors", params.architecture, domains.side, stage.device)
    frames = []
    for method, model in (("SL", before[f"{source}-0"]), ("NTL", after[f"{pair}-0"])):
        with torch.no_grad():
            z_ND = torch.cat([model(domains[d, "test"][0][: params.embedded])[0] for d in (source, target)]).cpu().double().numpy()
        z_ND = z_ND - z_ND.mean(0)
        gram = z_ND @ z_ND.T
        values, vectors = np.linalg.eigh(gram)
        first, second = (vectors[:, i] * np.sqrt(max(values[i], 0)) for i in (-1, -2))
        frames.append(pd.DataFrame({"method": method, "domain": np.repeat([source, target], params.embedded), "first": first, "second": second}))
    return pd.concat(frames)
