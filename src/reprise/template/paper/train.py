"""Iterate on all problems at once."""

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from reprise.papers.SLUG.model import optimal, step
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop


class Train(Params):
    """Parameters of `train`."""

    steps: int = Field(gt=0, description="iterations")
    momentum: bool = Field(description="the heavy ball's momentum; without it, gradient descent with its own best step 2 / (L + m)")


def train(params: Train, stage: Stage) -> None:
    """Minimise each quadratic from its starting point; the loss f(x_k) of every member is logged."""
    data = load_file(stage.path("prepared") / "problems.safetensors")
    m, big_l = data["spectrum"].min().item(), data["spectrum"].max().item()
    alpha, beta = optimal(m, big_l) if params.momentum else (2 / (big_l + m), 0.0)
    state = {"x": data["x"].clone(), "before": data["x"].clone()}
    for _ in (loop := Loop(stage, params.steps, state)):
        new = step(data["a"], state["x"], state["before"], alpha, beta)
        state["before"], state["x"] = state["x"], new
        loop.log(loss=torch.einsum("kd,kde,ke->k", new, data["a"], new) / 2)
    save_file({"x": state["x"]}, stage.out / "model.safetensors")
