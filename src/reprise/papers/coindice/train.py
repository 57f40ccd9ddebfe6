"""All intervals of one environment: every method, size of the data, dataset and level, and the baselines."""

from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from safetensors.torch import save_file

from reprise.kits.offpolicy.simulate import Trajectories
from reprise.papers.coindice import baselines, damped, linear, neural, tabular
from reprise.papers.coindice.bounds import Ball, Bounds, Pairing, wald
from reprise.papers.coindice.data import Name, Problem, load
from reprise.papers.coindice.gel import DivergenceName
from reprise.papers.coindice.neural import Neural
from reprise.papers.coindice.solve import DIRECT
from reprise.params import Params
from reprise.stage import Stage


class Method(Params):
    """One form of the interval."""

    divergence: DivergenceName = Field("kl", description="shape of the ball of weights")
    pairing: Pairing = Field("two_sample", description="per_transition: each transition carries its initial state (the paper's); two_sample: initial states have weights of their own")
    unseen: tabular.Unseen = Field("restrict", description="pairs that the data never shows: worth zero, or the target renormalised over those that it does")
    state_only: bool = Field(False, description="ratio over states alone, with the known behaviour policy")
    solver: Literal["fixed_point", "damped"] = Field("fixed_point", description="damped: the released code's iteration, one bound at a time")
    iterations: int = Field(1000, gt=0, description="of the damped solver")


class Train(Params):
    """Parameters of `train`."""

    environment: Name = Field(description="which log")
    trajectories: tuple[int, ...] = Field(description="sizes of the data: the first so many trajectories")
    levels: tuple[float, ...] = Field(description="nominal coverages")
    datasets: tuple[int, int] | None = Field(None, description="which datasets, first and one past the last; all if absent")
    methods: dict[str, Method] = Field({}, description="forms of the interval, by name")
    resamples: int = Field(0, ge=0, description="bootstrap resamples of the baselines; 0: no baselines")
    neural: Neural | None = Field(None, description="networks for Q and the ratio, at one size of the data")

    @model_validator(mode="after")
    def _one_training(self) -> "Train":
        if self.neural and len(self.trajectories) > 1:
            raise ValueError("networks are trained at one size of the data")
        return self


def solve(problem: Problem, log: Trajectories, levels: np.ndarray, method: Method, device: str) -> Bounds:
    """Intervals of every dataset in `log`, all of them as one batch where systems are small."""
    if not problem.tabular:
        return linear.bounds(quadratic_features(problem, log), levels, method.divergence, method.pairing)
    S, A = problem.target.shape
    ratio_SA = problem.target / problem.behaviour if method.state_only else None
    parts = []
    for part in [log[i : i + 1] for i in range(len(log.r))] if method.solver == "damped" or S > DIRECT else [log]:
        cells = tabular.compress(part.s, part.a, part.s_next, part.r, S, A, method.pairing)
        if method.solver == "damped":
            parts.append(damped.bounds(cells, problem.target, problem.gamma, levels, method.unseen, method.iterations))
        else:
            parts.append(tabular.bounds(cells, problem.target, problem.gamma, levels, method.divergence, method.pairing, method.unseen, ratio_SA, device=device))
    return Bounds(*(np.concatenate([getattr(b, key) for b in parts]) for key in ("lower", "upper", "estimate", "se", "moved")), max(b.rounds for b in parts))


def quadratic_features(problem: Problem, log: Trajectories) -> linear.Features:
    """Quadratic functions of (s, a), which hold Q of a linear system with quadratic cost; exact means over the target's actions."""
    (B, N, T, D), target = log.s.shape, problem.target
    s_RD, next_RD, start_RD = (x.reshape(-1, D) for x in (log.s, log.s_next, log.s[:, :, 0]))
    phi_RF = linear.quadratic(s_RD, log.a.reshape(len(s_RD), -1))
    next_RF, start_RF = (linear.quadratic(x_RD, target.mean(x_RD), target.sd) for x_RD in (next_RD, start_RD))
    phi_BnF, next_BnF, start_BNF = (x.reshape(B, -1, x.shape[-1]) for x in (phi_RF, next_RF, start_RF))
    return linear.Features(phi_BnF, log.r.reshape(B, -1), next_BnF, start_BNF, problem.gamma, np.repeat(np.arange(N), T))


def train_neural(params: Train, problem: Problem, log: Trajectories, levels: np.ndarray, stage: Stage) -> dict[str, tuple]:
    """{method: (estimate, (lower, upper))} of the networks; writes model.safetensors."""
    B, N, T, D = log.s.shape
    flat = log.s.reshape(B, N * T, D), log.a.reshape(B, N * T, -1), log.r.reshape(B, -1), log.s_next.reshape(B, N * T, D)
    data = neural.rows(*flat, log.s[:, :, 0], problem.env, problem.target, params.neural.draws, stage.rng("actions"), stage.device)
    ball = Ball(np.ones((B, N * T)), np.ones((B, N)))
    found = neural.bounds(data, ball, problem.gamma, levels, params.neural, stage)
    save_file({f"{net}.{key}": w.cpu().contiguous() for net in ("nu", "root") for key, w in getattr(found.nets, net).items()}, stage.out / "model.safetensors")
    intervals = {**found.intervals, "wald": wald(found.estimate, found.se, levels)}
    return {name: (found.estimate, ends) for name, ends in intervals.items()}


def train(params: Train, stage: Stage) -> None:
    """intervals.parquet: a row for each method, size, dataset and level."""
    problem, everything = load(stage.path("prepared"), params.environment)
    levels = np.array(params.levels)
    frames = []

    def record(method: str, size: int, estimate_B: np.ndarray, ends: tuple[np.ndarray, np.ndarray], moved_B: np.ndarray | float = 0.0) -> None:
        B, L = ends[0].shape
        frames.append(
            pd.DataFrame(
                {
                    "environment": params.environment,
                    "method": method,
                    "trajectories": size,
                    "dataset": np.repeat(np.arange(B), L),
                    "level": np.tile(levels, B),
                    "lower": ends[0].ravel(),
                    "upper": ends[1].ravel(),
                    "estimate": np.repeat(estimate_B, L),
                    "moved": np.repeat(np.broadcast_to(moved_B, B), L),
                }
            )
        )

    for size in params.trajectories:
        log = everything[slice(*params.datasets or (None,)), :size]
        if params.neural:
            for name, (estimate_B, ends) in train_neural(params, problem, log, levels, stage).items():
                record(name, size, estimate_B, ends)
        for name, method in params.methods.items():
            found = solve(problem, log, levels, method, stage.device)
            record(name, size, found.estimate, (found.lower, found.upper), found.moved)
            if name == next(iter(params.methods)):
                record("wald", size, found.estimate, found.wald(levels))
            stage.log(f"{name}, {size} trajectories: {found.rounds} rounds, moved {found.moved.max():.1e} in the last")
        if params.resamples:
            ratio_BNT = problem.ratios(log)
            most = (problem.target / problem.behaviour).max() if problem.tabular else np.inf
            for name, (estimate_B, ends) in baselines.all_of_them(log.r, ratio_BNT, problem.gamma, levels, params.resamples, stage.rng("bootstrap", size), problem.reward, most).items():
                record(name, size, estimate_B, ends)
    pd.concat(frames).to_parquet(stage.out / "intervals.parquet", index=False)
