"""Fresh samples against test graphs: squared MMD, validity, novelty; likelihoods; and what the model costs, counted."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from reprise.kits.graphs import mmd
from reprise.kits.graphs.graph import Graph
from reprise.kits.graphs.shapes import is_connected, is_grid, is_lobster
from reprise.kits.graphs.trees import KnownTrees
from reprise.papers.bigg.cells import member
from reprise.papers.bigg.costs import cost_of_grid
from reprise.papers.bigg.data import load
from reprise.papers.bigg.dense import sample_dense
from reprise.papers.bigg.draws import Samples, uniforms
from reprise.papers.bigg.exact import exactness
from reprise.papers.bigg.model import BiGG
from reprise.papers.bigg.plan import Rows
from reprise.papers.bigg.sample import sample
from reprise.papers.bigg.sat import statistics
from reprise.papers.bigg.scaling import exponent
from reprise.papers.bigg.train import as_graphs, likelihood, per_node, restore
from reprise.params import Params
from reprise.stage import Stage

SHAPES: dict[str, Callable[[Graph], bool]] = {"lobster": is_lobster, "grid": is_grid}
PARTS = ("train", "validation", "test")


class Set(Params):
    """What to do with one data set."""

    graphs: int = Field(0, ge=0, description="graphs to sample from each member; formulas: one per test formula")
    kind: Literal["lobster", "grid", "graph", "formula"] = Field(description="what is drawn: lobsters and grids can be valid or not, formulas are bipartite")


class Evaluate(Params):
    """Parameters of `evaluate`."""

    sets: dict[str, Set] = Field(description="data set -> how to judge samples of it")
    greedy: float = Field(ge=0, le=1, description="f: sample from (1 - f) p + f [p >= 1/2]")
    members: int = Field(gt=0, description="draws of the baselines that are not trained, as many as the stacks have members")
    exact: int = Field(ge=0, description="test graphs on which BiGG is compared with the recursion in double precision")
    sides: list[int] = Field(min_length=2, description="square grids whose cost is counted")
    cost_d: int = Field(gt=0, description="width of the state at which bytes are counted")
    cost_block: float = Field(gt=0, description="rows per block, in units of sqrt(n)")


def evaluate(params: Evaluate, stage: Stage) -> None:
    """One row per sampled graph in samples.parquet, one per set, method and member in scores.parquet, and so on, and what the claims speak of."""
    samples, scores, formulas, exact = [], [], [], []
    for name, want in params.sets.items():
        stacks = {variant: restore(file) for variant in stage.variants if (file := stage.path("models", variant) / f"model_{name}.safetensors").exists()}
        if not stacks:
            stage.log(f"{name}: no variant was trained on it")
            continue
        parts = {order: {part: load(stage.path("prepared") / f"{name}.parquet", order, part) for part in PARTS} for _, order in stacks.values()}
        if want.kind == "formula":
            formulas += _formulas(name, {v: model.to(stage.device) for v, (model, _) in stacks.items()}, parts["default"], stage)
            continue
        graphs = {part: as_graphs(rows) for part, rows in next(iter(parts.values())).items()}  # in BiGG's order; judged up to isomorphism
        judge = Judge(graphs["train"], graphs["test"], SHAPES.get(want.kind))
        sizes = [_sizes(graphs["train"], want.graphs, stage.rng("sizes", name, s)) for s in range(params.members)]  # the same for every method
        for variant, (model, order) in stacks.items():
            if params.exact and isinstance(model, BiGG):
                exact.append({"set": name, "variant": variant} | exactness(member(model, 0), parts[order]["test"][: params.exact]))
            model.to(stage.device)
            nll = {f"nll_{part}": per_node(likelihood(model, rows, stage.device), rows).numpy() for part, rows in parts[order].items() if rows}
            for s in range(model.members):
                drawn = draw_graphs(member(model, s), sizes[s], params.greedy, stage.generator("uniforms", name, s))
                table, score = judge(as_graphs(drawn.rows))
                at = {"set": name, "variant": variant, "member": s}
                samples.append(table.assign(**at, nll=drawn.nll_G))
                scores.append(at | score | {part: values[s] for part, values in nll.items()})
            stage.log(f"{name}: {variant} judged")
        for s in range(params.members):
            for variant, draw in (("unrelated", unrelated_rows), ("er", erdos_renyi)):
                table, score = judge(draw(graphs["train"], sizes[s], stage.rng(variant, name, s)))
                at = {"set": name, "variant": variant, "member": s}
                samples.append(table.assign(**at))
                scores.append(at | score)
        scores.append({"set": name, "variant": "floor", "member": 0} | judge.floor())
    costs = pd.DataFrame([cost_of_grid(side, params.cost_d, params.cost_block) for side in params.sides])
    metrics = _cost_metrics(costs)
    tables = {"samples": pd.concat(samples, ignore_index=True) if samples else pd.DataFrame(), "costs": costs}
    tables |= {"scores": pd.DataFrame(scores), "formulas": pd.DataFrame(formulas), "exact": pd.DataFrame(exact)}
    for kind, table in tables.items():
        if len(table):
            table.to_parquet(stage.out / f"{kind}.parquet", index=False)
    for kind in ("scores", "formulas"):
        if len(tables[kind]):
            metrics |= _summary(tables[kind], ["set", "variant"], ["member", "formula"])
    metrics |= {f"exact.{figure}": tables["exact"][figure].max() for figure in ("normalisation", "recursion", "gradient") if exact}
    stage.metrics(metrics)


class Judge:
    """Compares sampled graphs with train and test graphs."""

    def __init__(self, train: Sequence[Graph], test: Sequence[Graph], shape: Callable[[Graph], bool] | None):
        self.train, self.test, self.shape = mmd.all_vectors(_seen(train)), mmd.all_vectors(_seen(test)), shape
        self.known = KnownTrees(train)

    def __call__(self, graphs: Sequence[Graph]) -> tuple[pd.DataFrame, dict[str, float]]:
        """A row per graph, and the scores of the set.

        As the authors do, the MMD sees a graph as its edges describe it, without isolated nodes; their share is told. Validity sees all nodes.
        """
        distinct = KnownTrees()
        rows = [
            {
                "n": g.n,
                "m": g.m,
                "isolated": int((g.degrees() == 0).sum()),
                "connected": is_connected(g),
                "valid": bool(self.shape(g)) if self.shape else True,
                "unique": distinct.add(g),
                "novel": g not in self.known,
                "u": g.edges[:, 0].tolist(),
                "v": g.edges[:, 1].tolist(),
            }
            for g in graphs
        ]
        table = pd.DataFrame(rows)
        score = mmd.compare(mmd.all_vectors(_seen(graphs)), self.test)
        score |= {key: float(table[key].mean()) for key in ("connected", "unique", "novel")}
        score["isolated"] = float(table.isolated.sum() / table.n.sum())
        if self.shape:
            score["valid"] = float(table.valid.mean())
            score["valid_unique_novel"] = float((table.valid & table.unique & table.novel).mean())
        return table, score

    def floor(self) -> dict[str, float]:
        """Squared MMD between train and test graphs: no model that has learnt the training graphs by heart does better."""
        return mmd.compare(self.train, self.test)


def _seen(graphs: Sequence[Graph]) -> list[Graph]:
    return [seen for g in graphs if (seen := g.without_isolated()) is not None]


def erdos_renyi(train: Sequence[Graph], sizes: Sequence[int], rng: np.random.Generator) -> list[Graph]:
    """Independent edges, their probability estimated from the training graphs of the same size."""
    graphs = []
    for n in sizes:
        same = [g for g in train if g.n == n]
        p = sum(g.m for g in same) / max(len(same) * n * (n - 1) / 2, 1)
        pairs = np.stack(np.tril_indices(n, -1), axis=1)
        graphs.append(Graph.of(n, pairs[rng.random(len(pairs)) < p]))
    return graphs


def unrelated_rows(train: Sequence[Graph], sizes: Sequence[int], rng: np.random.Generator) -> list[Graph]:
    """Each row copies how far the edges of some training row reach back, whatever the rows before it are.

    What the node order alone makes of a graph: to do better a model must know the rows before.
    """
    far = [np.sort(g.edges[g.edges[:, 0] == i] @ [1, -1]) for g in train for i in range(1, g.n)]
    far.sort(key=lambda back: back.max(initial=0))
    reach = np.array([back.max(initial=0) for back in far])
    graphs = []
    for n in sizes:
        fitting = np.searchsorted(reach, np.arange(1, n), side="right")  # of row i: those that reach over at most i rows
        graphs.append(Graph.of(n, np.array([(i, i - back) for i, k in zip(range(1, n), rng.integers(fitting)) for back in far[k]])))
    return graphs


def _sizes(train: Sequence[Graph], count: int, rng: np.random.Generator) -> list[int]:
    """p(n): sizes from the histogram of the training graphs."""
    return rng.choice([g.n for g in train], count).tolist()


def draw_graphs(model: torch.nn.Module, sizes: list[int], greedy: float, generator: torch.Generator) -> Samples:
    """A graph of each size from one model (a stack of one)."""
    stream = uniforms(generator, len(sizes))
    if isinstance(model, BiGG):
        return sample(model, [np.arange(n) for n in sizes], stream, greedy)
    return sample_dense(model, sizes, stream)


def _formulas(name: str, stacks: dict[str, BiGG], parts: dict[str, list[Rows]], stage: Stage) -> list[dict]:
    """SAT: for each test formula one with the same numbers of literals and clauses and the same degrees of literals; statistics of all."""
    test = parts["test"]
    degree = [np.repeat(np.bincount(r.edges_E2[:, 0], minlength=r.n)[:, None], 2, axis=1) for r in test]
    of = {(part, 0): parts[part] for part in ("train", "test")}
    for variant, model in stacks.items():
        for s in range(model.members):
            of[variant, s] = sample(member(model, s), [r.width_R for r in test], uniforms(stage.generator("uniforms", name, s), len(test)), degree=degree).rows
    return [{"set": name, "variant": variant, "member": s, "formula": k} | statistics(r) for (variant, s), rows in of.items() for k, r in enumerate(rows)]


def _summary(table: pd.DataFrame, by: list[str], drop: list[str]) -> dict[str, float]:
    """`<set>.<variant>.<figure>.mean` and, where there are several members, `.sd`, `.min` and `.max`."""
    metrics = {}
    for key, rows in table.groupby(by, sort=False):
        for figure, values in rows.drop(columns=[*by, *drop], errors="ignore").items():
            values = values.dropna()
            if len(values):
                at = ".".join([*key, figure])
                metrics[f"{at}.mean"] = values.mean()
            if len(values) > 1:
                metrics |= {f"{at}.sd": values.std(ddof=1), f"{at}.min": values.min(), f"{at}.max": values.max()}
    return metrics


def _cost_metrics(costs: pd.DataFrame) -> dict[str, float]:
    size = costs.n + costs.m
    bound = np.log2(costs.n) * size
    return {
        "costs.work_exponent": exponent(size, costs.work),
        "costs.pairs_exponent": exponent(size, costs.pairs),
        "costs.windowed_pairs_exponent": exponent(size, costs.windowed_pairs),
        "costs.work_per_n_log_n.first": costs.work.iloc[0] / bound.iloc[0],
        "costs.work_per_n_log_n.last": costs.work.iloc[-1] / bound.iloc[-1],
        "costs.stages_per_log_n": (costs.stages / np.log2(costs.n)).max(),
        "costs.stages.last": int(costs.stages.iloc[-1]),
        "costs.dense_stages.last": int(costs.dense_stages.iloc[-1]),
        "costs.memory_exponent_whole": exponent(size, costs.bytes_whole),
        "costs.memory_exponent_blocks": exponent(size, costs.bytes_blocks),
        "costs.memory_ratio_last": costs.bytes_whole.iloc[-1] / costs.bytes_blocks.iloc[-1],
        "costs.n.last": int(costs.n.iloc[-1]),
    }
