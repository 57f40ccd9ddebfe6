"""The mathematics, and the pipeline end to end."""

import json

import pytest
import torch

from reprise.papers.SLUG.model import optimal, step
from reprise.stage import run


def test_rate_on_a_quadratic_is_the_theorem_s():
    alpha, beta = optimal(1.0, 100.0)
    assert beta == pytest.approx((9 / 11) ** 2)  # (sqrt L - sqrt m) / (sqrt L + sqrt m) = 9 / 11
    a = torch.diag(torch.tensor([1.0, 100.0], dtype=torch.float64))[None]
    before = x = torch.ones(1, 2, dtype=torch.float64)
    for _ in range(200):
        before, x = x, step(a, x, before, alpha, beta)
    assert x.norm() < (1 + 2 * 200) * (9 / 11) ** 200  # (1 + c k) rho^k, c < 2: at the optimum both roots are double


def test_without_momentum_it_is_gradient_descent():
    a, x = torch.eye(3)[None], torch.ones(1, 3)
    assert torch.equal(step(a, x, x, 0.25, 0.0), 0.75 * x)


def test_pipeline(tmp_path):
    run("SLUG", "download", root=tmp_path)
    run("SLUG", "preprocess", root=tmp_path)
    for variant in ("gradient", "heavy_ball"):
        run("SLUG", "train", variant=variant, root=tmp_path)
    run("SLUG", "evaluate", root=tmp_path)
    run("SLUG", "report", root=tmp_path)
    metrics = json.loads((tmp_path / "reports/SLUG/small/metrics.json").read_text())
    assert metrics["heavy_ball.log10_loss.mean"] < metrics["gradient.log10_loss.mean"] - 5
    assert "✔ reproduced" in (tmp_path / "reports/SLUG/small/index.md").read_text()
