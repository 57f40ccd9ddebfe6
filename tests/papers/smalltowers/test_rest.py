"""Data, frontiers, the second application, and the pipeline end to end."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from reprise.papers.smalltowers import data, movielens
from reprise.papers.smalltowers.frontier import hypervolume, non_dominated
from reprise.papers.smalltowers.movielens import MovieLens
from reprise.stage import run

REFERENCE = (0.5, 0.5)


def test_hypervolume_known_answers():
    assert hypervolume(np.array([[0.9, 0.8]]), REFERENCE) == pytest.approx(0.12)
    two = np.array([[0.9, 0.6], [0.6, 0.9]])
    assert hypervolume(two, REFERENCE) == pytest.approx(0.04 + 0.04 - 0.01)
    assert hypervolume(np.vstack([two, [[0.55, 0.55]]]), REFERENCE) == hypervolume(two, REFERENCE)
    assert hypervolume(two[::-1], REFERENCE) == hypervolume(two, REFERENCE)
    assert hypervolume(np.vstack([two, two]), REFERENCE) == hypervolume(two, REFERENCE)
    assert hypervolume(np.vstack([two, [[0.8, 0.8]]]), REFERENCE) > hypervolume(two, REFERENCE)
    assert hypervolume(np.array([[0.4, 0.9]]), REFERENCE) == 0


def test_hypervolume_equals_counting():
    rng = np.random.default_rng(0)
    points = 0.5 + rng.random((6, 2)) / 2
    grid = 0.5 + (rng.random((200_000, 2))) / 2
    covered = (grid[:, None] <= points[None]).all(2).any(1).mean() / 4
    assert hypervolume(points, REFERENCE) == pytest.approx(covered, abs=2e-3)


def test_non_dominated():
    points = np.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.4], [0.0, 1.0], [0.0, 1.0], [0.4, 0.5]])
    assert non_dominated(points).tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


def test_splits_share_no_digit_and_pairs_are_maxima():
    parts = data.split(100, (40, 30, 20), np.random.default_rng(0))
    assert [len(p) for p in parts] == [40, 30, 20] and len(set(np.concatenate(parts))) == 90
    images = np.random.default_rng(1).random((5, 3, 3)).astype(np.float32)
    x, y = data.compose(images, np.arange(5), 7, 2, np.random.default_rng(2))
    assert x.shape == (7, 25) and y.shape == (7, 2)
    canvas = x[0].reshape(5, 5)
    left, right = images[y[0, 0]], images[y[0, 1]]
    assert np.array_equal(canvas[:2, :3], left[:2]) and np.array_equal(canvas[3:, 2:], right[1:])
    assert canvas[2, 2] == max(left[2, 2], right[0, 0]) and canvas[0, 4] == 0


SMALL = {"users": 30, "movies": 20, "genres": 3, "examples": 1000, "embedding": 4, "width": 20, "window": 10, "gamma": {"aux": 1.0, "aux_pool": 0.5}, "alphas": (0.5,), "seeds": 2, "epochs": 1, "batch": 50, "rate": 0.1, "dropout": 0.5}


def test_ratings_of_unwatched_movies_change_nothing():
    out = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0))
    watch = torch.tensor([1.0, 0, 1, 0, 0, 1])
    rating = torch.tensor([5.0, 0, 3, 0, 0, 1])
    other = torch.where(watch == 0, torch.tensor(4.0), rating)
    assert torch.equal(movielens.losses(out, watch, rating), movielens.losses(out, watch, other))
    assert not torch.equal(movielens.losses(out, watch, rating), movielens.losses(out, watch, rating + 1))


def test_the_best_attainable_losses_are_those_of_the_simulation():
    frame = movielens.simulate(MovieLens(**{**SMALL, "examples": 100_000}), np.random.default_rng(0))
    entropy, variance = movielens.best_losses(frame)
    p = frame.p.to_numpy()
    assert entropy == pytest.approx(-np.log(np.where(frame.watch == 1, p, 1 - p)).mean(), abs=5e-3)
    seen = frame[frame.watch == 1]
    near = seen[(seen["mean"] > 2.9) & (seen["mean"] < 3.1)]
    mass = np.diff([0, *(pd.Series([1.5, 2.5, 3.5, 4.5]).map(lambda c: (0.5 * (1 + torch.erf(torch.tensor((c - 3) / 0.5 / 2**0.5)))).item())), 1])
    values = np.arange(1, 6)
    assert near.rating.var() == pytest.approx((mass * values**2).sum() - (mass * values).sum() ** 2, abs=0.02)
    assert 0 < variance < 0.5


def test_the_pooled_tower_sees_window_means():
    params = MovieLens(**SMALL)
    generators = {part: torch.Generator().manual_seed(3) for part in ("main", "aux")}
    tensors = {k: v[None] for k, v in movielens.init(params, "aux_pool", generators).items()}
    assert tensors["aux.w"].shape == (1, 2, 2, 1)
    main, aux = movielens.forward(tensors, torch.tensor([[0, 1, 2]]), params.window)
    assert main.shape == aux.shape == (1, 2, 1)


def test_pipeline(tmp_path):
    shrink = {"epochs": 2, "average": 1, "seeds": 2, "alphas": [0.3, 0.7], "tune_alphas": [0.5], "tune_seeds": 1, "rates": [0.05]}
    run("smalltowers", "download", root=tmp_path)
    run("smalltowers", "preprocess", root=tmp_path, params={"pairs": [256, 100, 100]})
    run("smalltowers", "movielens", root=tmp_path, params=SMALL)
    study = {"study": {"tower_layers": [1, 5], "bottom_width": [25], "alphas": [0.3]}}
    from reprise.params import section

    for variant, own in section("smalltowers", "small")["variants"].items():
        alone = {"alphas": [0.5]} if len(own.get("alphas", [0, 0])) == 1 else {}
        run("smalltowers", "train", variant=variant, root=tmp_path, params={**shrink, **alone, **(study if "study" in own else {})})
    run("smalltowers", "evaluate", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/smalltowers/small/metrics.json").read_text())
    assert metrics["aux_neck.parameters.aux"] == 2 * (50 * 8 + 8 + 8 * 10 + 10) and metrics["mtl.parameters.aux"] == 0
    assert metrics["aux_neck.parameters.served"] == metrics["mtl.parameters.served"]
    run("smalltowers", "report", root=tmp_path)
    page = (tmp_path / "reports/smalltowers/small/index.md").read_text()
    assert "![" in page and "Claims" in page


@pytest.mark.mirror
def test_real_digits_are_fetched_and_read(tmp_path):
    import os

    if not os.environ.get("REPRISE_MIRROR"):
        pytest.skip("REPRISE_MIRROR is not set")
    stage = run("smalltowers", "download", "gpu", root=tmp_path)
    from safetensors.numpy import load_file

    digits = load_file(stage.target / "digits.safetensors")
    assert digits["images"].shape == (10_000, 28, 28) and digits["images"].max() == 1 and np.bincount(digits["labels"]).min() > 800
