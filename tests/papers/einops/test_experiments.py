"""The interpreter, the corpus, the mutants, the network, and the pipeline end to end."""

import ast
import json

import einops
import numpy as np
import pandas as pd
import pytest
import torch

from reprise import paths
from reprise.papers.einops import equivalence, mutation
from reprise.papers.einops.corpus import MODELS, ROWS, Pattern, raw, reference
from reprise.papers.einops.interpreter import Meaningless, interpret
from reprise.papers.einops.model import OPERATIONS, Network
from reprise.papers.einops.packages import LIBRARIES, convert, implementation, values
from reprise.stage import run

RNG = np.random.default_rng


def test_only_the_experiments_know_the_official_package():
    """The implementation imports nothing of it, directly or by name."""
    for path in (paths.ROOT / "src/reprise/kits/notation").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "einops" for name in names), path
        assert "import_module" not in path.read_text(), path


def test_interpreter_by_hand():
    x = np.arange(6).reshape(2, 3)
    assert interpret("rearrange", x, "a b -> b a", {}).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert interpret("rearrange", np.arange(6), "(a b) -> b a", {"a": 2}).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert interpret("rearrange", x, "a b -> (b a)", {}).tolist() == [0, 3, 1, 4, 2, 5]
    assert interpret("rearrange", x, "... b -> b 1 (...)", {}).shape == (3, 1, 2)
    assert interpret("reduce", x, "a b -> a", {}, "sum").tolist() == [3, 12]
    assert interpret("reduce", x, "2 b -> b", {}, "max").tolist() == [3, 4, 5]
    assert interpret("reduce", x, "... -> ", {}, "prod").tolist() == 0
    assert interpret("repeat", np.arange(2), "a -> (a n)", {"n": 2}).tolist() == [0, 0, 1, 1]
    assert interpret("repeat", np.arange(2), "a -> (2 a)", {}).tolist() == [0, 1, 0, 1]
    for verb, pattern, lengths in [
        ("rearrange", "a b", {}), ("rearrange", "a b -> a", {}), ("rearrange", "a b -> a b c", {}), ("rearrange", "a -> a", {}),
        ("rearrange", "a (b c) -> a b c", {}), ("rearrange", "a (b c) -> a b c", {"b": 2}), ("rearrange", "a b -> b a", {"a": 3}),
        ("rearrange", "a b -> b a", {"z": 3}), ("rearrange", "a b -> b a", {"a": 2.0}), ("rearrange", "a b -> b a", {"a": True}),
        ("rearrange", "a (b) ) -> a b", {}), ("rearrange", "a a -> a", {}), ("rearrange", "a 3 -> a", {}), ("reduce", "a 2 -> a", {}),
        ("repeat", "a b -> a b n", {}), ("repeat", "a b -> a n", {"n": 2}), ("rearrange", "a (...) -> a ...", {}),
    ]:  # fmt: skip
        with pytest.raises(Meaningless):
            interpret(verb, x, pattern, lengths, "sum")


@pytest.mark.parametrize("pattern", MODELS, ids=lambda p: p.name)
def test_raw_code_says_what_the_pattern_says(pattern):
    x = reference(pattern, RNG(0))
    right = interpret(pattern.verb, x, pattern.pattern, pattern.lengths, pattern.reduction)
    for library in ("numpy", "torch"):
        np.testing.assert_allclose(values(raw(pattern, library)(convert(x, library), **pattern.lengths)), right, rtol=1e-12)


def test_every_row_means_something():
    names = [pattern.name for pattern in (*ROWS, *MODELS)]
    assert len(set(names)) == len(names)
    for pattern in ROWS[::3]:
        interpret(pattern.verb, reference(pattern, RNG(0)), pattern.pattern, pattern.lengths, pattern.reduction)


def test_a_wrong_implementation_does_not_agree(monkeypatch):
    pattern = next(p for p in MODELS if p.name == "split heads")
    found = list(equivalence.compare(pattern, RNG(0)))
    assert len(found) == 3 * (3 + 3 + 2) and all(equal for *_, equal in found)

    def swapped(name, pattern, library):
        right = implementation(name, pattern, library)
        return right if name != "ours" else lambda x, **lengths: einops.rearrange(values(x), "b t (d h) -> b h t d", **lengths)

    monkeypatch.setattr(equivalence, "implementation", swapped)
    assert {name for name, _, _, equal in equivalence.compare(pattern, RNG(0)) if not equal} == {"ours"}


def test_mutants_of_a_pattern():
    pattern = Pattern("toy", "rearrange", "b (h d) -> h b d", (2, 6), {"h": 3}, "", "x.reshape(x.shape[0], h, -1).swapaxes(0, 1)")
    x = reference(pattern, RNG(0))
    found = list(mutation.mutants(pattern, x))
    judged = {(mutant.kind, str(mutant.lengths), np.shape(mutant.x)): mutation.wanted(pattern, mutant) is not None for mutant in found}
    assert judged["swap two axes", "{'h': 3}", (6, 2)] is False  # 2 is no multiple of 3
    assert judged["one entry too many", "{'h': 3}", (3, 6)] is True  # another batch
    assert judged["one entry too many", "{'h': 3}", (2, 7)] is False
    assert judged["length off by one", "{'h': 2}", (2, 6)] is True  # other heads
    assert judged["length off by one", "{'h': 4}", (2, 6)] is False
    assert judged["length of -1, as in a reshape", "{'h': -1}", (2, 6)] is False
    assert judged["wrong length of an axis of its own", "{'h': 3, 'b': 3}", (2, 6)] is False
    assert judged["a list instead of a tensor", "{'h': 3}", (1, 2, 6)] is False
    assert [mutant.of_raw(pattern) for mutant in found if mutant.kind in ("length off by one", "a length of nothing")] == [True, True, False]


def test_the_official_package_lets_something_pass_that_ours_does_not():
    missed = {"ours": 0, "official": 0}
    for pattern in MODELS:
        x = reference(pattern, RNG(0))
        for mutant in mutation.mutants(pattern, x):
            right = mutation.wanted(pattern, mutant)
            for name in missed:
                call = implementation(name, pattern, "numpy")
                missed[name] += mutation.outcome(lambda x, call=call, **lengths: call(x, **lengths), mutant, mutant.x, right) == "wrong"
    assert missed["ours"] == 0 < missed["official"]


def test_outcomes():
    mutant = mutation.Mutant("toy", np.ones(2), {})
    assert mutation.outcome(lambda x: 1 / 0, mutant, mutant.x, None) == "error"
    assert mutation.outcome(lambda x: x, mutant, mutant.x, None) == "wrong"
    assert mutation.outcome(lambda x: x, mutant, mutant.x, np.zeros(2)) == "wrong"
    assert mutation.outcome(lambda x: x, mutant, mutant.x, np.ones(2)) == "right"


@pytest.mark.parametrize("library", LIBRARIES)
def test_conversions_keep_shape_and_values(library):
    for x in (np.array(1.0), np.zeros((0, 2)), np.arange(6).reshape(2, 3).T):
        y = values(convert(x, library))
        assert y.shape == x.shape and y.dtype == x.dtype and np.array_equal(y, x)


def networks() -> dict[str, Network]:
    shape = dict(side=8, patch=2, features=8, hidden=6, heads=2, blocks=2)
    return {name: Network(operations, **shape).double().start(torch.Generator().manual_seed(0)) for name, operations in OPERATIONS.items()}


def test_the_three_networks_are_one():
    made = networks()
    x = torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = {name: network(x) for name, network in made.items()}
    parameters = {name: network.state_dict() for name, network in made.items()}
    for name in ("official", "ours"):
        assert parameters[name].keys() == parameters["raw"].keys()
        assert all(torch.equal(parameters[name][key], value) for key, value in parameters["raw"].items())
        torch.testing.assert_close(outputs[name], outputs["raw"], rtol=1e-12, atol=1e-12)
        grads = [torch.autograd.grad(made[n](x).logsumexp(-1).sum(), list(made[n].parameters())) for n in (name, "raw")]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_attention_of_the_network_by_hand():
    """One block against the formulas: softmax(q k / sqrt(K)) v, heads side by side."""
    block = networks()["ours"].blocks[0]
    x = torch.rand(1, 16, 8, dtype=torch.float64)
    normed = torch.nn.functional.layer_norm(x, (8,))
    qkv = normed @ block.qkv.weight + block.qkv.bias.flatten()
    heads = []
    for h in range(2):
        q, k, v = (qkv[0, :, 8 * n + 4 * h : 8 * n + 4 * h + 4] for n in range(3))
        heads.append(torch.softmax(q @ k.T / 2, -1) @ v)
    after = x + torch.cat(heads, -1) @ block.out.weight + block.out.bias.flatten()
    t1, t2 = block.tokens
    hidden = torch.relu(t1.weight.T @ torch.nn.functional.layer_norm(after, (8,))[0] + t1.bias.reshape(-1, 1))
    after = after + t2.weight.T @ hidden + t2.bias.reshape(-1, 1)
    f1, f2 = block.features
    hidden = torch.relu(torch.nn.functional.layer_norm(after, (8,)) @ f1.weight + f1.bias.flatten())
    torch.testing.assert_close(block(x), after + hidden @ f2.weight + f2.bias.flatten())


def test_pipeline_end_to_end(tmp_path):
    run("einops", "preprocess", params={"test": 100}, root=tmp_path)
    tiny = {"features": 8, "hidden": 8, "heads": 2, "blocks": 1, "batch": 8, "steps": 4, "seeds": 2}
    for variant in ("raw", "official", "ours"):
        run("einops", "train", variant=variant, params=tiny, root=tmp_path)
    run("einops", "evaluate", params={"rows": 6, "models": 4}, root=tmp_path)
    run("einops", "report", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/einops/small/metrics.json").read_text())
    assert metrics["equivalence.ours.array_api.agree"] == 1 and metrics["mutation.torch.ours.detected"] == 1
    assert metrics["learning.largest_difference"] < 1e-9
    learning = pd.read_parquet(tmp_path / "data/einops/small/results/learning.parquet")
    assert len(learning) == 2 * 4 and np.isfinite(learning[["raw", "official", "ours"]]).all(axis=None)
    page = (tmp_path / "reports/einops/small/index.md").read_text()
    assert "figures/mutation.svg" in page and "figures/learning.svg" in page


def test_larger_digits_are_the_same_digits(tmp_path):
    from safetensors.numpy import load_file

    small, large = (run("einops", "preprocess", params={"side": side}, root=tmp_path / str(side)).target for side in (8, 32))
    a, b = (load_file(path / "digits.safetensors") for path in (small, large))
    assert a["train_images"].shape[1:] == (8, 8) and b["train_images"].shape[1:] == (32, 32)
    np.testing.assert_array_equal(b["test_images"][:, ::4, ::4], a["test_images"])
    np.testing.assert_array_equal(b["test_images"][:, 3::4, 3::4], a["test_images"])
    assert len(np.unique(a["train_labels"])) == 10 and a["train_images"].max() == 1
