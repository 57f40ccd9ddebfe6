"""Resume is exact: a loop cut at any step ends in the same bits."""

import numpy as np
import pandas as pd
import pytest
import torch

from reprise import training
from reprise.errors import ReproError
from reprise.stage import Stage
from reprise.training import Loop


class Cut(Exception):
    """Stands for a SIGKILL between two steps."""


def train(root, steps=20, cut_after=None):
    """Dropout, AdamW, a schedule, both kinds of generators, best-so-far: all that a resume can forget."""
    stage = Stage("toy", "train", "small", "x", root=root)
    init = torch.Generator().manual_seed(0)
    w = torch.randn(6, 3, generator=init, requires_grad=True)
    optimiser = torch.optim.AdamW([w], lr=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    torch_rng, numpy_rng = stage.generator("data"), stage.rng("noise")
    state = {"w": w, "opt": optimiser, "schedule": schedule, "rng": torch_rng, "np": numpy_rng, "best": {"loss": 1e9}, "mean": np.zeros(3), "list": [0]}
    loop = Loop(stage, steps, state)
    for step in loop:
        x = torch.randn(8, 6, generator=torch_rng) * torch.bernoulli(torch.full((8, 6), 0.8), generator=torch_rng)
        loss = (x @ w + float(numpy_rng.normal())).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        state["best"]["loss"] = min(state["best"]["loss"], loss.item())
        state["mean"] += w.detach().numpy().mean(0)
        state["list"][0] += 1
        loop.log(loss=loss, each=w.detach().norm(dim=1))
        if cut_after == step:
            raise Cut
    return w.detach(), state, pd.read_parquet(stage.out / "history.parquet")


@pytest.mark.parametrize("cut", [0, 7, 18])
def test_resume_gives_the_same_bits(tmp_path, monkeypatch, cut):
    whole, state, history = train(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    with pytest.raises(Cut):
        train(tmp_path / "cut", cut_after=cut)
    again, state_again, history_again = train(tmp_path / "cut")
    assert torch.equal(whole, again)
    assert state["best"] == state_again["best"] and state["list"] == state_again["list"] and np.array_equal(state["mean"], state_again["mean"])
    pd.testing.assert_frame_equal(history, history_again, check_exact=True)


def test_a_torn_resume_point_is_passed_over(tmp_path, monkeypatch):
    whole, _, _ = train(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    with pytest.raises(Cut):
        train(tmp_path / "cut", cut_after=9)
    points = sorted((tmp_path / "cut/.reprise/resume").rglob("*.safetensors"))
    assert len(points) == 2  # the last two are kept
    points[-1].write_bytes(points[-1].read_bytes()[:-5])
    assert torch.equal(whole, train(tmp_path / "cut")[0])


def test_other_parameters_do_not_continue_an_old_run(tmp_path):
    stage = Stage("toy", "train", "small", "x", root=tmp_path)
    other = Stage("toy", "train", "small", "y", root=tmp_path)
    assert training._key(stage) != training._key(other) and training._key(stage) == training._key(stage)
    (tmp_path / "data/toy/small/prepared").mkdir(parents=True)
    (tmp_path / "data/toy/small/prepared/x").write_text("1")
    before = training._key(stage)
    stage.path("prepared")
    assert training._key(stage) != before


def test_a_loss_that_is_not_finite_stops(tmp_path):
    loop = Loop(Stage("toy", "train", "small", "x", root=tmp_path), 3, {})
    with pytest.raises(ReproError, match=r"loss of member 1 is nan at step 1; at step 0 it was still 2"):
        for step in loop:
            loop.log(loss=torch.tensor([1.0, 2.0 if step == 0 else float("nan")]))


def test_history_has_a_row_for_each_member(tmp_path):
    stage = Stage("toy", "train", "small", "x", root=tmp_path)
    loop = Loop(stage, 2, {}, name="second")
    for step in loop:
        loop.log(loss=[1.0 * step, 2.0], accuracy=0.5)
    history = pd.read_parquet(stage.out / "history_second.parquet")
    assert history.to_dict("list") == {"step": [0, 0, 0, 1, 1, 1], "metric": ["loss", "loss", "accuracy"] * 2, "member": [0, 1, 0] * 2, "value": [0.0, 2.0, 0.5, 1.0, 2.0, 0.5]}
