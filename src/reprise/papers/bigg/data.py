"""The five data sets of section 4: grid and lobster are generated, Protein (DD), 3D point cloud (FIRSTMM_DB) and SAT are fetched."""

import zipfile
from pathlib import Path
from typing import Annotated, Literal

import networkx as nx
import numpy as np
import pandas as pd
from pydantic import Field

from reprise.datasets import registry
from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph, clean, of_networkx
from reprise.kits.graphs.shapes import grid
from reprise.papers.bigg.orders import ORDERS, ordered
from reprise.papers.bigg.plan import Rows
from reprise.papers.bigg.sat import read_dimacs
from reprise.params import Params
from reprise.stage import Stage

FIRST_LOBSTER_SEED = 1234  # the authors': graphs of other sizes are skipped


class Lobsters(Params):
    """networkx's random lobsters with a branching of 0.7, both times."""

    kind: Literal["lobster"]
    backbone: int = Field(gt=0, description="expected number of nodes of the backbone")
    nodes: tuple[int, int] = Field(description="least and largest number of nodes of a graph that is kept")
    graphs: int = Field(gt=0, description="how many to keep")


class Grids(Params):
    """All a x b grids, (a, b) and (b, a) both."""

    kind: Literal["grid"]
    sides: tuple[int, int] = Field(description="least and largest side")


class Files(Params):
    """Files of the registry."""

    kind: Literal["protein", "point_cloud", "sat"]


class Download(Params):
    """Parameters of `download`."""

    sets: dict[str, Annotated[Lobsters | Grids | Files, Field(discriminator="kind")]] = Field(description="data set -> how to come by it")


def download(params: Download, stage: Stage) -> None:
    """Generate what is generated, as one Parquet file each, and fetch the rest as it is."""
    for name, source in params.sets.items():
        if source.kind in ("lobster", "grid"):
            graphs = lobsters(source) if source.kind == "lobster" else grids(*source.sides)
            write_graphs(stage.out / f"{name}.parquet", graphs)
        elif source.kind == "protein":
            stage.fetch("DD.zip")
        elif source.kind == "point_cloud":
            stage.fetch("FIRSTMM_DB_A.txt")
            stage.fetch("FIRSTMM_DB_graph_indicator.txt")
        else:
            for file in sorted(f for f in registry(stage.paper) if f.startswith("sat.")):
                stage.fetch(file)
        stage.log(f"{name}: ready")


def lobsters(source: Lobsters) -> list[Graph]:
    """The first random lobsters, by seed, that have a size within the bounds."""
    kept, seed = [], FIRST_LOBSTER_SEED
    while len(kept) < source.graphs:
        graph = nx.random_lobster(source.backbone, 0.7, 0.7, seed=seed)
        seed += 1
        if source.nodes[0] <= len(graph) <= source.nodes[1]:
            kept.append(of_networkx(graph))
    return kept


def grids(low: int, high: int) -> list[Graph]:
    """All a x b grids with low <= a, b <= high, ordered by a, then b."""
    return [grid(a, b) for a in range(low, high + 1) for b in range(low, high + 1)]


def write_graphs(path: Path, graphs: list[Graph]) -> None:
    """One row per graph: n and the edges as two lists."""
    table = {"n": [g.n for g in graphs], "u": [g.edges[:, 0].tolist() for g in graphs], "v": [g.edges[:, 1].tolist() for g in graphs]}
    pd.DataFrame(table).to_parquet(path, index=False)


def proteins(archive: Path) -> list[Graph]:
    """DD: graphs with 100 to 500 nodes, counted once isolated nodes are gone.

    First line: the number of graphs. A graph is a line `n label`, then n lines `tag degree neighbours...`, numbered within the graph.
    """
    with zipfile.ZipFile(archive) as opened:
        lines = iter(opened.read("DD/DD.txt").decode().splitlines())
    graphs = []
    for _ in range(int(next(lines))):
        n = int(next(lines).split()[0])
        edges = [(u, int(v)) for u in range(n) for v in next(lines).split()[2:]]
        graph = clean(n, np.array(edges, dtype=np.int64))
        if graph is not None and 100 <= graph.n <= 500:
            graphs.append(graph)
    return graphs


def point_clouds(folder: Path) -> list[Graph]:
    """FIRSTMM_DB: all graphs; `row, column` with numbers that run over all graphs from 1, both directions of each edge."""
    edges = np.loadtxt(folder / "FIRSTMM_DB_A.txt", delimiter=",", dtype=np.int64) - 1
    graph_of_node = np.loadtxt(folder / "FIRSTMM_DB_graph_indicator.txt", dtype=np.int64)
    begin = np.searchsorted(graph_of_node, np.arange(1, graph_of_node.max() + 2))
    of_edge = graph_of_node[edges[:, 0]] - 1
    return [clean(begin[k + 1] - begin[k], edges[of_edge == k] - begin[k]) for k in range(len(begin) - 1)]


class Set(Params):
    """How one data set is prepared."""

    source: Literal["generated", "protein", "point_cloud", "sat"] = Field(description="what to read from raw/")
    orders: list[Literal[ORDERS]] = Field(min_length=1, description="node orders to write down")
    copies: int = Field(1, gt=0, description="orders per graph and kind; those after the first begin at random nodes")
    split: Literal["gran", "shuffled", "files"] = Field(description="gran: first 80 % train, of which the first 20 % of all validate, last 20 % test; shuffled: by the numbers below; files: SAT's own")
    validation: int = Field(0, ge=0, description="validation graphs of a shuffled split")
    test: int = Field(0, ge=0, description="test graphs of a shuffled split")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    sets: dict[str, Set] = Field(description="data set -> how it is prepared")


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Split, and write every graph in every order: one row per graph, order and copy, with its edges as rows and columns."""
    raw = stage.path("raw")
    for name, plan in params.sets.items():
        if plan.source == "sat":
            rows, part = _formulas(raw)
        else:
            graphs = _read(plan.source, raw, name)
            rows = [
                _row(k, order, copy, Rows.of_graph(ordered(graph, order, stage.rng("order", name, k, order, copy) if copy else None)), 0)
                for k, graph in enumerate(graphs)
                for order in plan.orders
                for copy in range(plan.copies)
            ]
            part = split(len(graphs), plan, stage.rng("split", name))
        table = pd.DataFrame(rows)
        for kind in ("train", "validation", "test"):
            table[kind] = [kind in part[k] for k in table.graph]
        table.to_parquet(stage.out / f"{name}.parquet", index=False)
        stage.log(f"{name}: {len(part)} graphs, {sum('train' in p for p in part.values())} to train on, {sum('test' in p for p in part.values())} to test on")


def _read(source: str, raw: Path, name: str) -> list[Graph]:
    if source == "protein":
        return proteins(raw / "DD.zip")
    return point_clouds(raw) if source == "point_cloud" else read_graphs(raw / f"{name}.parquet")


def _row(graph: int, order: str, copy: int, rows: Rows, columns: int) -> dict:
    """`columns`: how many columns every row may have edges to; 0: those before it."""
    return {"graph": graph, "order": order, "copy": copy, "n": rows.n, "columns": columns, "u": rows.edges_E2[:, 0].tolist(), "v": rows.edges_E2[:, 1].tolist()}


def _formulas(raw: Path) -> tuple[list[dict], dict[int, tuple[str, ...]]]:
    """SAT formulas in their own order and split, which their file names tell."""
    files = sorted(raw.glob("sat.*.cnf"))
    formulas = [read_dimacs(file) for file in files]
    return [_row(k, "default", 0, f, int(f.width_R[0])) for k, f in enumerate(formulas)], {k: (file.name.split(".")[1],) for k, file in enumerate(files)}


def read_graphs(path: Path) -> list[Graph]:
    """What `write_graphs` wrote, checked."""
    table = pd.read_parquet(path)
    return [Graph.of(n, np.stack([u, v], axis=1), f"graph {k} of {path.name}") for k, (n, u, v) in enumerate(zip(table.n, table.u, table.v))]


def split(count: int, plan: Set, rng: np.random.Generator) -> dict[int, tuple[str, ...]]:
    """Which parts each graph belongs to.

    Raises:
        ReproError: fewer graphs than the parts ask for.
    """
    if plan.split == "gran":
        train = int(count * 0.8)
        return {k: ("train", "validation")[: 1 + (k < int(count * 0.2))] if k < train else ("test",) for k in range(count)}
    if plan.validation + plan.test >= count:
        raise ReproError(f"{count} graphs cannot give {plan.validation} for validation, {plan.test} for test and any to train on")
    names = np.repeat(["test", "validation", "train"], [plan.test, plan.validation, count - plan.test - plan.validation])
    return {int(k): (str(name),) for k, name in zip(rng.permutation(count), names)}


def load(path: Path, order: str, part: str, first_copy_only: bool = True) -> list[Rows]:
    """The prepared graphs of one part in one order; several copies of a graph stand beside one another."""
    table = pd.read_parquet(path)
    if order not in set(table.order):
        raise ReproError(f"{path.name} was not prepared in order '{order}' (prepared: {', '.join(sorted(set(table.order)))}): add it to the data set's `orders` in preprocess")
    table = table[(table.order == order) & table[part] & ((table["copy"] == 0) | (not first_copy_only))]
    widths = [np.full(n, columns) if columns else np.arange(n) for n, columns in zip(table.n, table["columns"])]
    return [Rows(n, w, np.stack([u, v], axis=1).astype(np.int64)) for n, w, u, v in zip(table.n, widths, table.u, table.v)]
