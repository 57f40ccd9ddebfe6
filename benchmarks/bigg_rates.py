"""Learning rates of BiGG, its ablations and the dense baseline, chosen without the test graphs; the parameters of scale small hold the choice.

    python benchmarks/bigg_rates.py [bigg bits no_history dense] [--record]

Every variant is trained on each data set as its stage does it, as many steps, once for each rate and seed, side by side in one
stack. The choice falls on the rate whose samples are closest to the training and validation graphs: the least sum of the four
squared MMD, mean over seeds; while it is the largest or the smallest rate, the search goes on. About four minutes of CPU for
each variant; a run that was stopped goes on where it was.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from reprise import determinism

if __name__ == "__main__":
    determinism.enter("portable", sys.argv)

import numpy as np  # noqa: E402  the environment first
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from reprise import params as parameters  # noqa: E402
from reprise import paths  # noqa: E402
from reprise.kits.graphs.statistics import STATISTICS  # noqa: E402
from reprise.papers.bigg.cells import member  # noqa: E402
from reprise.papers.bigg.data import load  # noqa: E402
from reprise.papers.bigg.dense import window_of  # noqa: E402
from reprise.papers.bigg.evaluate import SHAPES, Judge, draw_graphs  # noqa: E402
from reprise.papers.bigg.train import Train, as_graphs, build, clip, likelihood, per_node  # noqa: E402
from reprise.report import markdown_table  # noqa: E402

RATES = (0.004, 0.008, 0.016)  # where the search begins
SEEDS = 1
SAMPLES = 100
RECORD = Path(__file__).with_suffix(".csv")


def sweep(variant: str, name: str, rates: tuple[float, ...]) -> pd.DataFrame:
    """One row per rate: how training ended, and how samples compare with the graphs that are not test graphs."""
    params = parameters.validate(Train, parameters.block("bigg", "train", "small", variant), variant)
    run, path = params.sets[name], paths.data(paths.ROOT, "bigg", "small", "prepared") / f"{name}.parquet"
    graphs, validation = (load(path, run.order, part) for part in ("train", "validation"))
    config = {"members": len(RATES) * SEEDS} | (params.bigg.model_dump() if params.model == "bigg" else params.dense.model_dump() | {"window": window_of(as_graphs(graphs + validation))})
    model = build(params.model, config, torch.Generator().manual_seed(determinism.seed(1, "rates", name)))
    weights = list(model.parameters())
    model.members = len(rates) * SEEDS
    for p in weights:
        p.data = p.data[:SEEDS].repeat(len(rates), *[1] * (p.dim() - 1))  # every rate begins at the same weights
    rate_S = torch.tensor(rates).repeat_interleave(SEEDS)
    nll, optimiser = likelihood(model, graphs, "cpu"), torch.optim.Adam(weights, lr=1.0, weight_decay=params.weight_decay, fused=True)
    rng, late = np.random.default_rng(determinism.seed(1, "batches", name)), []
    for step in range(run.steps):
        factor = min([f for share, f in params.decay if step >= share * run.steps], default=1.0)
        chosen = rng.choice(len(graphs), run.batch, replace=False)
        loss_S = nll(chosen).sum(1) / sum(graphs[k].n for k in chosen)
        optimiser.zero_grad()
        loss_S.sum().backward()
        clip(model, params.clip)
        before = [p.detach().clone() for p in weights]
        optimiser.step()
        with torch.no_grad():
            for p, old in zip(weights, before):  # a step at rate 1, scaled to each member's own
                p.copy_(old + factor * rate_S.view(-1, *[1] * (p.dim() - 1)) * (p - old))
        late = [*late[-19:], loss_S.detach()]
    judge = Judge([], as_graphs(graphs + validation), SHAPES[name])
    sizes = np.random.default_rng(determinism.seed(1, "sizes", name)).choice([g.n for g in graphs], SAMPLES).tolist()
    rows = []
    for s in range(len(rate_S)):
        drawn = draw_graphs(member(model, s), sizes, 0.0, torch.Generator().manual_seed(determinism.seed(1, "uniforms", name, s % SEEDS)))
        rows.append(judge(as_graphs(drawn.rows))[1] | {"rate": rates[s // SEEDS]})
    frame = pd.DataFrame(rows).assign(loss=torch.stack(late).mean(0), validation=per_node(likelihood(model, validation, "cpu"), validation))
    frame["score"] = frame[list(STATISTICS)].sum(axis=1)
    means = frame.groupby("rate")[["score", *STATISTICS, "valid", "loss", "validation"]].mean().reset_index()
    means.insert(0, "set", name)
    means.insert(0, "variant", variant)
    return means


def state() -> bytes:
    """What figures depend on: code, parameters and graphs."""
    sources = [*sorted((paths.ROOT / "src/reprise").rglob("*.py")), Path(__file__), paths.PIPELINES / "bigg/params.yaml"]
    return b"".join(file.read_bytes() for file in [*sources, *sorted(paths.data(paths.ROOT, "bigg", "small", "prepared").glob("*.parquet"))])


def remembered(begun: bytes, variant: str, name: str, rates: tuple[float, ...]) -> pd.DataFrame:
    """`sweep`, or what it found before in the same `state`."""
    key = hashlib.sha256(repr((variant, name, rates)).encode() + begun).hexdigest()
    file = paths.ROOT / ".reprise/rates" / f"{key}.parquet"
    if not file.exists():
        found = sweep(variant, name, rates)
        file.parent.mkdir(parents=True, exist_ok=True)
        found.to_parquet(file.with_suffix(".part"), index=False)
        file.with_suffix(".part").rename(file)
    return pd.read_parquet(file)


def main() -> None:
    """Sweep, print, perhaps record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = list(parameters.section("bigg", "small")["variants"])
    parser.add_argument("variants", nargs="*", choices=[[], *known], default=[], metavar="variant", help=f"{', '.join(known)}; default: all")
    parser.add_argument("--record", action="store_true", help=f"keep the figures in {RECORD.name}")
    args = parser.parse_args()
    determinism.configure_torch()
    begun = state()
    for name in ("lobster", "grid"):
        for variant in args.variants or known:
            found = remembered(begun, variant, name, RATES)
            while (best := found.rate[found.score.idxmin()]) in (found.rate.min(), found.rate.max()):  # at an edge: go on
                further = best / 2 if best == found.rate.min() else 2 * best
                found = pd.concat([found, remembered(begun, variant, name, (further,))], ignore_index=True)
            found["chosen"] = found.score == found.score.min()
            print(markdown_table(found, 4), flush=True)
            if args.record:
                kept = pd.read_csv(RECORD) if RECORD.exists() else found.iloc[:0]
                kept = kept[(kept.variant != variant) | (kept["set"] != name)]
                pd.concat([kept, found]).sort_values(["set", "variant", "rate"]).to_csv(RECORD, index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
