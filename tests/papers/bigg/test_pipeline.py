"""The stages end to end with tiny parameters, resume, real files, formulas."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
import torch

from reprise import params
from reprise.datasets import fetch
from reprise.errors import ReproError
from reprise.kits.graphs.graph import Graph
from reprise.papers.bigg.cells import member
from reprise.papers.bigg.data import Preprocess, Set, load, point_clouds, proteins, split, write_graphs
from reprise.papers.bigg.evaluate import draw_graphs, unrelated_rows
from reprise.papers.bigg.orders import ORDERS, ordered
from reprise.papers.bigg.sat import power_law, read_dimacs, statistics
from reprise.papers.bigg.train import restore
from reprise.stage import run
from reprise.training import Loop

from .test_likelihood import named

TINY = {
    "download": {"sets": {"lobster": {"graphs": 12, "nodes": [5, 12], "backbone": 5}, "grid": {"sides": [2, 3]}}},
    "preprocess": {"sets": {"lobster": {"validation": 2, "test": 3, "copies": 2}, "grid": {"validation": 1, "test": 1}}},
    "train": {"members": 2, "bigg": {"d": 8}, "dense": {"width": 8, "entry_width": 4}, "validate_every": 2, "sets": {s: {"steps": 4, "batch": 2} for s in ("lobster", "grid")}},
    "evaluate": {"sets": {s: {"graphs": 4} for s in ("lobster", "grid")}, "sides": [3, 4], "members": 2, "exact": 1},
}


def prepare(root):
    for stage in ("download", "preprocess"):
        run("bigg", stage, params=TINY[stage], root=root)


def test_pipeline(tmp_path):
    prepare(tmp_path)
    for variant, more in (("bigg", {}), ("bits", {"bigg": {"d": 16}}), ("no_history", {}), ("dense", {})):
        run("bigg", "train", variant=variant, params=params.merge(TINY["train"], more), root=tmp_path)
    run("bigg", "evaluate", params=TINY["evaluate"], root=tmp_path)
    run("bigg", "report", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/bigg/small/metrics.json").read_text())
    for name in ("lobster", "grid"):
        for variant in ("bigg", "bits", "no_history", "dense", "unrelated", "er"):
            assert 0 <= metrics[f"{name}.{variant}.valid.mean"] <= 1
            assert metrics[f"{name}.{variant}.degree.mean"] >= 0
        assert metrics[f"{name}.bigg.nll_test.mean"] > 0
    assert all(metrics[f"exact.{figure}"] < 1e-9 for figure in ("normalisation", "recursion", "gradient"))
    samples = pd.read_parquet(tmp_path / "data/bigg/small/results/samples.parquet")
    first = samples[(samples.variant == "bigg") & (samples.member == 0) & (samples["set"] == "grid")]
    other = samples[(samples.variant == "dense") & (samples.member == 0) & (samples["set"] == "grid")]
    assert first.n.tolist() == other.n.tolist()  # methods are compared on the same sizes
    page = (tmp_path / "reports/bigg/small/index.md").read_text()
    assert "Squared MMD" in page and "What differs" in page


def test_training_learns_and_blocks_change_nothing(tmp_path):
    prepare(tmp_path)
    longer = params.merge(TINY["train"], {"bigg": {"d": 16}, "sets": {"lobster": {"steps": 30, "rate": 0.01, "batch": 4}, "grid": {"steps": 0}}})
    run("bigg", "train", variant="bigg", params=longer, root=tmp_path)
    whole = pd.read_parquet(tmp_path / "data/bigg/small/models/bigg/history_lobster.parquet")
    loss = whole[whole.metric == "loss"].groupby("step").value.mean()
    assert loss.iloc[-5:].mean() < 0.8 * loss.iloc[:5].mean()
    run("bigg", "train", variant="bigg", params=params.merge(longer, {"sets": {"lobster": {"block": 4}}}), root=tmp_path)
    blocks = pd.read_parquet(tmp_path / "data/bigg/small/models/bigg/history_lobster.parquet")
    assert np.allclose(whole.value, blocks.value, atol=1e-3)


def test_resumed_training_is_the_same_training(tmp_path, monkeypatch):
    prepare(tmp_path)
    tiny = params.merge(TINY["train"], {"sets": {"grid": {"steps": 0}}})
    model = tmp_path / "data/bigg/small/models/bigg/model_lobster.safetensors"
    run("bigg", "train", variant="bigg", params=tiny, root=tmp_path)
    once = model.read_bytes()
    model.unlink()
    monkeypatch.setattr("reprise.training.SAVE_EVERY", 0.0)
    log = Loop.log

    def crash(self, **metrics):
        if self.step == 2:
            raise KeyboardInterrupt
        log(self, **metrics)

    monkeypatch.setattr(Loop, "log", crash)
    with pytest.raises(KeyboardInterrupt):
        run("bigg", "train", variant="bigg", params=tiny, root=tmp_path)
    monkeypatch.setattr(Loop, "log", log)
    job = run("bigg", "train", variant="bigg", params=tiny, root=tmp_path)
    assert "resuming lobster at step 2" in job.logfile.read_text()
    assert model.read_bytes() == once


@pytest.mark.parametrize("change, message", [({"sets": {"grid": {"batch": 99}}}, "a batch of 99 graphs"), ({"sets": {"grid": {"order": "dfs"}}}, "not prepared in order 'dfs'")])
def test_mistakes_end_in_one_line(tmp_path, change, message):
    prepare(tmp_path)
    with pytest.raises(ReproError, match=message):
        run("bigg", "train", variant="bigg", params=params.merge(TINY["train"], {"sets": {"lobster": {"steps": 0}}} | change), root=tmp_path)


@pytest.mark.parametrize("n, edges, message", [(3, [(1, 1)], "has a self-loop at node 1"), (3, [(1, 0), (0, 1)], r"has the edge \(1, 0\) twice"), (3, [(3, 0)], r"edge \(3, 0\) names a node outside 0..2"), (0, [], "has no node")])
def test_a_graph_that_is_not_simple_is_refused(tmp_path, n, edges, message):
    prepare(tmp_path)
    path = tmp_path / "data/bigg/small/raw/grid.parquet"
    write_graphs(path, [Graph(n, np.array(edges, dtype=np.int64).reshape(-1, 2))] * 9)
    with pytest.raises(ReproError, match=re.escape("graph 0 of grid.parquet") + ":? " + message):
        run("bigg", "preprocess", params=TINY["preprocess"], root=tmp_path)


def test_single_nodes_and_isolated_nodes_are_trained_on_and_drawn(tmp_path):
    prepare(tmp_path)
    odd = [Graph.of(1, []), Graph.of(4, [(2, 1)]), Graph.of(5, [])]
    write_graphs(tmp_path / "data/bigg/small/raw/grid.parquet", [*odd, Graph.of(4, [(3, 0)]), Graph.of(3, [(1, 0)])] * 3)
    run("bigg", "preprocess", params=TINY["preprocess"], root=tmp_path)
    for variant in ("bigg", "dense"):
        run("bigg", "train", variant=variant, params=params.merge(TINY["train"], {"sets": {"lobster": {"steps": 0}}}), root=tmp_path)
        history = pd.read_parquet(tmp_path / f"data/bigg/small/models/{variant}/history_grid.parquet")
        assert np.isfinite(history.value).all()
        model, _ = restore(tmp_path / f"data/bigg/small/models/{variant}/model_grid.safetensors")
        drawn = draw_graphs(member(model, 1), [1, 4, 1, 5], 0.0, torch.Generator().manual_seed(0))
        assert [rows.n for rows in drawn.rows] == [1, 4, 1, 5] and drawn.nll_G[0] == 0


def test_rows_at_random_reach_as_far_back_as_training_rows():
    ladder = ordered(Graph.of(8, [(1, 0), (2, 0), (3, 1), (3, 2), (4, 2), (5, 3), (5, 4), (6, 4), (7, 5), (7, 6)]), "default")
    drawn = unrelated_rows([ladder], [8] * 50 + [1], np.random.default_rng(0))
    known = {tuple(sorted(i - g.edges[g.edges[:, 0] == i, 1])) for g in [ladder] for i in range(1, 8)}
    rows = [tuple(sorted(i - g.edges[g.edges[:, 0] == i, 1])) for g in drawn for i in range(1, g.n)]
    assert set(rows) == known and drawn[-1].m == 0


@pytest.mark.parametrize("kind", ["one node", "no edge", "isolated", "grid", "random", "star"])
@pytest.mark.parametrize("order", ORDERS)
def test_orders_rename_and_nothing_else(kind, order):
    graph = named(kind)
    for rng in (None, np.random.default_rng(0)):
        other = ordered(graph, order, rng)
        assert (other.n, other.m) == (graph.n, graph.m)
        assert np.array_equal(np.sort(other.degrees()), np.sort(graph.degrees()))


def test_breadth_first_depth_first_and_degree_order():
    spider = Graph.of(7, [(0, 1), (1, 2), (0, 3), (3, 4), (0, 5), (5, 6)])
    assert ordered(spider, "bfs").edges.tolist() == [[1, 0], [2, 0], [3, 0], [4, 1], [5, 2], [6, 3]]
    assert ordered(spider, "dfs").edges.tolist() == [[1, 0], [2, 1], [3, 0], [4, 3], [5, 0], [6, 5]]
    assert np.all(np.diff(ordered(spider, "degree").degrees()) <= 0)
    two = Graph.of(5, [(0, 1), (2, 3), (3, 4)])
    assert ordered(two, "bfs").edges.tolist() == [[1, 0], [2, 0], [4, 3]]  # the larger component first, from its middle


def test_splits():
    gran = split(100, Set(source="generated", orders=["bfs"], split="gran"), np.random.default_rng(0))
    assert [k for k in gran if "train" in gran[k]] == list(range(80)) and [k for k in gran if "validation" in gran[k]] == list(range(20))
    mixed = split(50, Set(source="generated", orders=["bfs"], split="shuffled", validation=5, test=10), np.random.default_rng(0))
    parts = [next(iter(v)) for v in mixed.values()]
    assert [parts.count(p) for p in ("train", "validation", "test")] == [35, 5, 10] and all(len(v) == 1 for v in mixed.values())
    with pytest.raises(ReproError, match="cannot give"):
        split(5, Set(source="generated", orders=["bfs"], split="shuffled", validation=2, test=3), np.random.default_rng(0))


FORMULA = "c a comment\np cnf 3 3\n1 -2 0\n2 3\n0\n-1 -3 2 0\n"


def test_formulas(tmp_path):
    (tmp_path / "f.cnf").write_text(FORMULA)
    rows = read_dimacs(tmp_path / "f.cnf")
    assert rows.n == 6 and set(rows.width_R) == {3}
    assert rows.edges_E2.tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [3, 2], [4, 0], [5, 2]]
    assert statistics(rows)["vig_clustering"] == 1  # three variables, every two of them in a clause together
    for broken, message in ((FORMULA.replace("p cnf 3 3", "x"), "no line"), (FORMULA.replace("-3", "-4"), "literal -4"), (FORMULA.replace("3 3", "3 4"), "4 clauses")):
        (tmp_path / "f.cnf").write_text(broken)
        with pytest.raises(ReproError, match=message):
            read_dimacs(tmp_path / "f.cnf")


def test_formulas_are_drawn_with_the_degrees_of_their_literals(tmp_path):
    raw = tmp_path / "data/bigg/small/raw"
    raw.mkdir(parents=True)
    clauses = ["1 -2 0", "2 3 0", "-1 -3 2 0", "-2 3 0", "1 -3 0", "-1 2 0"]
    for part, count in (("train", 5), ("train", 6), ("test", 4)):
        (raw / f"sat.{part}.{count}.cnf").write_text(f"p cnf 3 {count}\n" + "\n".join(clauses[:count]) + "\n")
    run("bigg", "preprocess", params={"sets": {"lobster": {"source": "sat", "orders": ["default"], "split": "files"}, "grid": {"source": "sat", "orders": ["default"], "split": "files"}}}, root=tmp_path)
    how = {"steps": 2, "batch": 1, "accumulate": 2, "block": 4, "order": "default"}
    for variant in ("bigg", "bits", "no_history", "dense"):
        run("bigg", "train", variant=variant, params=params.merge(TINY["train"], {"model": "bigg", "bigg": {"bits": 0}, "sets": {"lobster": how, "grid": {"steps": 0}}}), root=tmp_path)
    run("bigg", "evaluate", params=params.merge(TINY["evaluate"], {"sets": {"lobster": {"kind": "formula"}, "grid": {"kind": "formula"}}}), root=tmp_path)
    found = pd.read_parquet(tmp_path / "data/bigg/small/results/formulas.parquet")
    assert found.groupby("variant").size().to_dict() == {"train": 2, "test": 1, **dict.fromkeys(("bigg", "bits", "no_history", "dense"), 2)}
    own = found[found.variant.isin(["bigg", "test"])].variable_exponent
    assert own.nunique() == 1  # every literal has the degree that it has in the test formula


def test_power_law_exponent_of_drawn_degrees():
    rng = np.random.default_rng(0)
    degree = np.floor(0.5 + 9.5 * (1 - rng.random(20000)) ** (-1 / 1.5)).astype(int)  # continuous law with exponent 2.5, rounded
    assert power_law(degree) == pytest.approx(2.5, abs=0.1)


@pytest.mark.mirror
def test_real_files_have_the_figures_of_the_paper(tmp_path, monkeypatch):
    if not os.environ.get("REPRISE_MIRROR"):
        pytest.skip("REPRISE_MIRROR is not set")
    for file in ("DD.zip", "FIRSTMM_DB_A.txt", "FIRSTMM_DB_graph_indicator.txt", "sat.train.ssa2670-130.processed.cnf"):
        fetch("bigg", file, tmp_path)
    dd, clouds = proteins(tmp_path / "DD.zip"), point_clouds(tmp_path)
    assert (len(dd), max(g.n for g in dd), max(g.m for g in dd)) == (918, 500, 1575)
    assert (round(np.mean([g.n for g in dd]), 2), round(np.mean([g.m for g in dd]), 2)) == (257.87, 646.42)
    assert (len(clouds), sum(g.n for g in clouds), max(g.n for g in clouds), max(g.m for g in clouds)) == (41, 56468, 5037, 10886)
    assert read_dimacs(tmp_path / "sat.train.ssa2670-130.processed.cnf").n > 0


@pytest.mark.slow
@pytest.mark.mirror
def test_a_step_of_training_on_every_real_data_set(tmp_path):
    if not os.environ.get("REPRISE_MIRROR"):
        pytest.skip("REPRISE_MIRROR is not set")
    real = {"protein": "gran", "point_cloud": "gran", "sat": "files"}
    run("bigg", "download", params=params.merge(TINY["download"], {"sets": {name: {"kind": name} for name in real}}), root=tmp_path)
    orders = {name: ["default"] if name == "sat" else ["dfs"] for name in real}
    run("bigg", "preprocess", params=params.merge(TINY["preprocess"], {"sets": {name: {"source": name, "orders": orders[name], "split": how} for name, how in real.items()}}), root=tmp_path)
    prepared = pd.read_parquet(tmp_path / "data/bigg/small/prepared/protein.parquet")
    assert (prepared.train.sum(), prepared.validation.sum(), prepared.test.sum()) == (734, 183, 184)
    assert pd.read_parquet(tmp_path / "data/bigg/small/prepared/sat.parquet").test.sum() == 8
    steps = {name: {"order": orders[name][0], "steps": 1, "rate": 0.001, "batch": 2, "block": 0 if name == "protein" else 500} for name in real}
    run("bigg", "train", variant="bigg", params=params.merge(TINY["train"], {"validate_every": 9, "sets": {"lobster": {"steps": 0}, "grid": {"steps": 0}} | steps}), root=tmp_path)
    for name in real:
        assert 0 < pd.read_parquet(tmp_path / f"data/bigg/small/models/bigg/history_{name}.parquet").value.min() < 200  # nats per node before training


@pytest.mark.parametrize("scale", ["small", "gpu", "paper"])
def test_every_scale_prepares_what_it_trains_on(scale):
    section = params.section("bigg", scale)
    plans = params.validate(Preprocess, section["preprocess"], scale)
    for variant in section["variants"]:
        for name, how in params.block("bigg", "train", scale, variant)["sets"].items():
            assert how["order"] in plans.sets[name].orders or not how["steps"]


def test_copies_are_other_orders_of_the_same_graph(tmp_path):
    prepare(tmp_path)
    path = tmp_path / "data/bigg/small/prepared/lobster.parquet"
    one, both = load(path, "dfs", "train"), load(path, "dfs", "train", first_copy_only=False)
    assert len(both) == 2 * len(one)
    assert [len(r.edges_E2) for r in both[::2]] == [len(r.edges_E2) for r in both[1::2]]
