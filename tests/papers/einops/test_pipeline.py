"""The experiments: what the mutation study counts, that the three networks are one, and the pipeline end to end."""

import json

import numpy as np
import torch

from reprise.papers.einops import mutation
from reprise.papers.einops.corpus import MODELS, Pattern, reference
from reprise.papers.einops.model import OPERATIONS, Network
from reprise.papers.einops.packages import implementation, values
from reprise.stage import run

TRANSPOSE = Pattern("t", "rearrange", "a b -> b a", (2, 3))


def test_every_pattern_has_raw_code_and_a_reference_of_its_shape():
    rng = np.random.default_rng(0)
    for pattern in MODELS:
        x = reference(pattern, rng)
        assert pattern.code and x.shape == pattern.shape
        assert np.array_equal(implementation("raw", pattern, "numpy")(x, **pattern.lengths), values(implementation("ours", pattern, "numpy")(x, **pattern.lengths))) or pattern.reduction


def test_a_swap_that_fits_is_sensible_and_a_lost_axis_is_not():
    x = np.arange(6.0).reshape(2, 3)
    by_kind = {m.kind: m for m in mutation.mutants(TRANSPOSE, x)}
    assert np.array_equal(mutation.wanted(TRANSPOSE, by_kind["swap two axes"]), x)
    assert mutation.wanted(TRANSPOSE, by_kind["drop an axis"]) is None
    assert mutation.wanted(TRANSPOSE, by_kind["wrong length of an axis of its own"]) is None


def test_outcomes_are_told_apart():
    x = np.arange(6.0).reshape(2, 3)
    mutant = mutation.Mutant("none", x, {})
    assert mutation.outcome(lambda x: x.T, mutant, x, x.T) == "right"
    assert mutation.outcome(lambda x: x, mutant, x, x.T) == "wrong"
    assert mutation.outcome(lambda x: x.T, mutant, x, None) == "wrong"  # an answer where there is none
    assert mutation.outcome(lambda x: x.no_such, mutant, x, x.T) == "error"


def test_three_ways_to_write_one_network():
    shape = {"side": 8, "patch": 4, "features": 8, "hidden": 8, "heads": 2, "blocks": 1}
    images = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = {name: Network(operations, **shape).double().start(torch.Generator().manual_seed(1))(images) for name, operations in OPERATIONS.items()}
    assert logits["ours"].shape == (3, 10)
    for name in ("raw", "official"):
        torch.testing.assert_close(logits["ours"], logits[name])


def test_pipeline(tmp_path):
    run("einops", "preprocess", root=tmp_path)
    tiny = {"features": 8, "hidden": 8, "heads": 2, "blocks": 1, "batch": 8, "steps": 3, "seeds": 2, "patch": 4}
    for variant in ("raw", "official", "ours"):
        run("einops", "train", variant=variant, root=tmp_path, params=tiny)
    run("einops", "evaluate", root=tmp_path, params={"rows": 30, "models": 8})
    metrics = json.loads((tmp_path / "reports/einops/small/metrics.json").read_text())
    assert metrics["learning.largest_difference"] < 1e-12 and metrics["equivalence.ours.numpy.agree"] == 1
    assert metrics["mutation.numpy.ours.detected"] == 1 > metrics["mutation.numpy.raw.detected"]
    run("einops", "report", root=tmp_path)
    assert "figures/mutation.svg" in (tmp_path / "reports/einops/small/index.md").read_text()


def test_the_official_package_lets_something_pass_that_ours_does_not():
    missed = {"ours": 0, "official": 0}
    for pattern in MODELS:
        x = reference(pattern, np.random.default_rng(0))
        for mutant in mutation.mutants(pattern, x):
            right = mutation.wanted(pattern, mutant)
            for name in missed:
                call = implementation(name, pattern, "numpy")
                missed[name] += mutation.outcome(lambda x, call=call, **lengths: call(x, **lengths), mutant, mutant.x, right) == "wrong"
    assert missed["ours"] == 0 < missed["official"]
