"""All configurations and seeds of one environment as one stack (section 5); a second stack is fitted Q evaluation."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import save_file

from reprise.errors import ReproError
from reprise.kits.offpolicy.networks import OptimisticAdam, Weights, cosine
from reprise.papers.dice.data import load
from reprise.papers.dice.environments import setting
from reprise.papers.dice.neural import Pairs, Rows, networks, pairs, rows
from reprise.papers.dice.objective import ESTIMATORS, lagrangian, readouts, stack
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": lambda r: r, "exp": np.exp, "cuberoot": np.cbrt}


class Member(Params):
    """One configuration of the stack."""

    label: str = Field("", description="name in the results; the estimator's if empty")
    estimator: Literal[tuple(ESTIMATORS)] = Field(description="a row of the table of known estimators")
    alpha: float = Field(1.0, gt=0, description="multiplies the regulariser")
    p: float = Field(2.0, gt=1, description="exponent of f")
    transform: Literal[tuple(TRANSFORMS)] = Field("none", description="applied to the reward first")
    scale: float = Field(1.0, description="then multiplies it")
    shift: float = Field(0.0, description="then is added")

    @property
    def name(self) -> str:
        """The label, or the estimator's name."""
        return self.label or self.estimator

    def reward(self, r: np.ndarray) -> np.ndarray:
        """The reward this member is given."""
        return self.scale * TRANSFORMS[self.transform](r) + self.shift


class Train(Params):
    """Parameters of `train`."""

    members: list[Member] = Field(description="configurations, each with all seeds")
    hidden: list[int] = Field(description="widths of the hidden layers")
    steps: int = Field(gt=0, description="joint steps of all networks")
    batch: int | None = Field(description="transitions per step; null: the whole data, which costs nothing more in a finite problem")
    lr: float = Field(gt=0, description="learning rate at the start")
    decay: bool = Field(description="cosine to 0, else constant")
    beta1: float = Field(ge=0, lt=1, description="Adam's first decay")
    beta2: float = Field(gt=0, lt=1, description="Adam's second decay")
    optimism: float = Field(ge=0, description="extrapolation of the update; 0: the paper's plain Adam")
    clip: float | None = Field(description="element-wise bound on gradients, null for none")
    samples: int = Field(gt=0, description="actions drawn from the target for each state where actions are vectors")
    every: int = Field(gt=0, description="steps between read-outs on the whole data")
    fqe_polyak: float = Field(gt=0, le=1, description="speed of the target network of fitted Q evaluation")
    fqe_lr: float = Field(gt=0, description="its learning rate")


def train(params: Train, stage: Stage) -> None:
    """Solve max_zeta min_{Q, lambda} L for every member and seed by simultaneous gradient steps, then fitted Q evaluation.

    The estimates are the read-outs averaged over the last sixth of the steps (`evaluate`).

    Raises:
        ReproError: a non-linear reward transformation where only a Monte Carlo truth is known.
    """
    row, logged = load(stage, stage.variant)
    problem, gamma, seeds = setting(row["environment"], row["size"]), row["gamma"], row["seeds"]
    rewards = [m.reward for m in params.members]
    for m in params.members:
        if m.transform != "none" and not problem.finite:
            raise ReproError(f"member {m.name!r}: transform {m.transform!r} needs an environment with a table ({stage.variant} has none): use scale and shift")
    if problem.finite:
        data = pairs(problem, logged, seeds, rewards, stage.device)
    else:
        data = rows(problem, logged, seeds, rewards, params.samples, stage.rng("actions", stage.variant), stage.device)
    tensors = saddle(params, stage, data, seeds, gamma) | fitted_q(params, stage, data, seeds, gamma)
    pd.DataFrame([m.model_dump() | {"label": m.name} for m in params.members]).to_parquet(stage.out / "members.parquet", index=False)
    save_file({k: t.detach().cpu().contiguous() for k, t in sorted(tensors.items())}, stage.out / "model.safetensors")


def saddle(params: Train, stage: Stage, data: Pairs | Rows, seeds: int, gamma: float) -> Weights:
    """Q and lambda descend, zeta ascends, from the same forward pass; history: the read-outs of every member."""
    switches = stack([ESTIMATORS[m.estimator].scaled(m.alpha, m.p) for m in params.members] * seeds, stage.device)
    inputs = data.x_IR.shape[0] if isinstance(data, Pairs) else data.x_KIn.shape[1]
    q, zeta = networks(inputs, params.hidden, seeds, len(params.members), stage.generator("start"), stage.device)
    lam_E = torch.zeros(len(switches.p), device=stage.device)
    weights = {f"q.{k}": w for k, w in q.items()} | {f"zeta.{k}": w for k, w in zeta.items()} | {"lam": lam_E}
    for w in weights.values():
        w.requires_grad_()
    adam = OptimisticAdam(weights, params.beta1, params.beta2, optimism=params.optimism, clip=params.clip)
    generator = stage.generator("batches", stage.variant)
    loop = Loop(stage, params.steps, {"weights": weights, "adam": adam, "batches": generator})
    for step in loop:
        batch = None if params.batch is None else data.sample(params.batch, generator)
        terms = data.terms(q, zeta, switches, batch)
        gradients = torch.autograd.grad(lagrangian(terms, lam_E, switches, gamma).sum(), list(weights.values()))
        if (step + 1) % params.every == 0:
            with torch.no_grad():
                loop.log(**readouts(terms if batch is None else data.terms(q, zeta, switches), lam_E, switches, gamma))
        adam.step(
            {k: -g if k.startswith("zeta") else g for k, g in zip(weights, gradients, strict=True)},
            cosine(params.lr, step, params.steps) if params.decay else params.lr,
        )
    if isinstance(data, Pairs):
        with torch.no_grad():
            return weights | {"ratio": data.terms(q, zeta, switches).zeta_ER}
    return weights


def fitted_q(params: Train, stage: Stage, data: Pairs | Rows, seeds: int, gamma: float) -> Weights:
    """min_Q E_D[(r + gamma Q_target(s', pi) - Q(s, a))^2], Q_target following Q slowly; a baseline at the same cost and start.

    Rewards are those of the first member.
    """
    inputs = data.x_IR.shape[0] if isinstance(data, Pairs) else data.x_KIn.shape[1]
    q, _ = networks(inputs, params.hidden, seeds, 1, stage.generator("start"), stage.device)
    target = {k: w.clone() for k, w in q.items()}
    for w in q.values():
        w.requires_grad_()
    adam = OptimisticAdam(q, beta1=0.9, optimism=0.0)
    generator = stage.generator("fqe batches", stage.variant)
    loop = Loop(stage, params.steps, {"q": q, "target": target, "adam": adam, "batches": generator}, name="fqe")
    for step in loop:
        batch = None if params.batch is None else data.sample(params.batch, generator)
        r_ER, w_ER = data.rewards(seeds, batch)
        with torch.no_grad():
            target_ER = r_ER + gamma * data.after(target, batch)
        loss_E = (w_ER * (target_ER - data.at(q, batch)).square()).sum(-1)
        gradients = torch.autograd.grad(loss_E.sum(), list(q.values()))
        if (step + 1) % params.every == 0:
            with torch.no_grad():
                loop.log(loss=loss_E, primal=(1 - gamma) * data.values(q, batch)[0])
        adam.step(dict(zip(q, gradients, strict=True)), cosine(params.fqe_lr, step, params.steps))
        with torch.no_grad():
            for k, w in q.items():
                target[k].lerp_(w, params.fqe_polyak)
    return {f"fqe.{k}": w for k, w in q.items()}
