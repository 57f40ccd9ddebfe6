"""Every method on every design and seed: games in stacks, the others one data set at a time."""

import math
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors.numpy import save_file

from reprise.errors import unknown
from reprise.papers.semgame.data import load
from reprise.papers.semgame.estimators import Kiv, Polynomial, Rkhs, Tsls
from reprise.papers.semgame.game import Average, TwoLayer, moment, play
from reprise.papers.semgame.neural import OBJECTIVES, Mlp, OptimisticAdam, gradients, sem
from reprise.papers.semgame.stacks import Arrays, Stack, choose, stacks
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop


class Candidate(Params):
    """One setting of the optimiser."""

    lr: float = Field(gt=0, description="learning rate of f")
    betas: tuple[float, float] = Field(description="decay rates of optimistic Adam")


class Neural(Params):
    """A game (or a regression) of two perceptrons."""

    method: Literal[tuple(OBJECTIVES)] = Field(description="the objective")
    hidden: list[int] = Field(description="hidden widths of f")
    adversary: list[int] = Field(description="hidden widths of u")
    candidates: list[Candidate] = Field(description="settings that are all trained; one is chosen on dev data")
    ratio: float = Field(gt=0, description="learning rate of u over that of f")
    alpha: float = Field(ge=0, description="Tikhonov parameter; only the paper's game has one")
    decay: tuple[float, float] = Field(description="weight decay of f and of u")
    steps: int = Field(gt=0, description="simultaneous steps")
    longer: dict[str, int] = Field({}, description="design -> steps, where they are more")
    batch: int = Field(gt=0, description="examples a step")
    every: int = Field(gt=0, description="steps between the iterates that are averaged, over the second half")


class Theory(Params):
    """The theorem's algorithm on a finite sample: two-layer networks, projection, average of all iterates."""

    method: Literal["theory"] = Field(description="projected stochastic primal-dual steps")
    width: int = Field(gt=1, multiple_of=2, description="m, even")
    ball: float = Field(gt=0, description="radius B")
    alpha: float = Field(gt=0, description="Tikhonov parameter")
    etas: list[float] = Field(description="step sizes c of c / sqrt t; one is chosen on dev data")
    steps: int = Field(gt=0, description="simultaneous steps")
    batch: int = Field(gt=0, description="examples a step")
    every: int = Field(gt=0, description="steps between the iterates that are averaged")


class Train(Params):
    """Parameters of `train`."""

    estimator: Annotated[Neural | Theory | Tsls | Polynomial | Kiv | Rkhs, Field(discriminator="method")] = Field(description="the method")
    share: float = Field(gt=0, le=1, description="share of the training examples that it is given")
    designs: list[str] | None = Field(None, description="designs to fit, where not all")


def train(params: Train, stage: Stage) -> None:
    """Fit one method; writes its predictions, <design>.test [S, T, K] at the test examples and <design>.curve [S, G], and what was chosen."""
    every = load(stage)
    if missing := sorted(set(params.designs or ()) - set(every)):
        raise unknown("design", missing[0], every)
    designs = {name: thinned(d, params.share) for name, d in every.items() if params.designs is None or name in params.designs}
    match params.estimator:
        case Neural() as settings:
            steps = {name: settings.longer.get(name, settings.steps) for name in designs}
            budgets = {n: {name: d for name, d in designs.items() if steps[name] == n} for n in sorted(set(steps.values()))}
            fitted = [neural(settings, n, stack, stage) for n, alike in budgets.items() for stack in stacks(alike, stage)]
        case Theory() as settings:
            fitted = [theory(settings, stack, stage) for stack in stacks(designs, stage, unit_norm)]
        case estimator:
            fitted = [one_by_one(estimator, designs, stage)]
    tensors = {f"{name}.{key}": array for predictions, _ in fitted for name, p in predictions.items() for key, array in p.items()}
    save_file({key: np.ascontiguousarray(value, dtype=np.float32) for key, value in tensors.items()}, stage.out / "predictions.safetensors")
    pd.DataFrame([row for _, rows in fitted for row in rows]).sort_values(["design", "seed"], kind="stable").to_parquet(stage.out / "chosen.parquet", index=False)


def thinned(d: Arrays, share: float) -> Arrays:
    """The first `share` of the training examples (their order is random)."""
    n = int(share * d["y_train"].shape[1])
    return d | {f"{key}_train": d[f"{key}_train"][:, :n] for key in "xyzg"}


def unit_norm(x: np.ndarray) -> np.ndarray:
    """x -> (x, 1) / |(x, 1)| with x clipped to [-3, 3] standard deviations: the bounded, normalised inputs of the theory."""
    with_constant = np.concatenate([np.clip(x, -3, 3), np.ones((*x.shape[:-1], 1))], -1)
    return with_constant / np.linalg.norm(with_constant, axis=-1, keepdims=True)


def neural(settings: Neural, steps: int, stack: Stack, stage: Stage) -> tuple[dict[str, Arrays], list[dict]]:
    """Train all designs, seeds and candidates of a stack at once; f is the average of its function over the second half (3.3)."""
    objective, (d, e), device = OBJECTIVES[settings.method], stack.sizes, stage.device
    designs, seeds, options = len(stack.names), stack.seeds, settings.candidates
    members = (designs, seeds, len(options))
    f, u = (
        Mlp([inputs, *hidden, 1], [stage.generator("mlp", player, seed) for seed in range(seeds)], designs, len(options), device)
        for player, inputs, hidden in (("f", d, settings.hidden), ("u", e, settings.adversary))
    )
    lr_M1, beta1_M1, beta2_M1 = (torch.tensor(column, device=device).repeat(designs * seeds)[:, None] for column in zip(*[(o.lr, *o.betas) for o in options]))
    play_f = OptimisticAdam(f.theta_MP, lr_M1, beta1_M1, beta2_M1, optimistic=settings.method != "direct")
    play_u = OptimisticAdam(u.theta_MP, settings.ratio * lr_M1, beta1_M1, beta2_M1)
    expand = lambda t: t[:, :, None].expand(*members, *t.shape[2:]).flatten(0, 2)  # noqa: E731  [J, S, ...] -> [M, ...]

    query_JSDT, counts = stack.queries()
    query_MDT, z_dev_MEN = expand(query_JSDT), expand(stack.dev()[1])
    average = Average((f.theta_MP.shape[0], query_MDT.shape[-1]), device)
    marks = range(steps - 1, steps // 2, -settings.every)[::-1]
    seen_UMN = torch.zeros(len(marks), f.theta_MP.shape[0], z_dev_MEN.shape[-1], device=device)
    state = {"f": play_f.state, "u": play_u.state, "average": average.state, "seen": seen_UMN}
    for step in (loop := Loop(stage, steps, state, name=stack.names[0])):
        x, y, z = stack.batch(step, settings.batch)
        g_f, g_u, value_M = gradients(objective, f, u, expand(x), expand(y), expand(z), stack.c_K, settings.alpha)
        rate = (1 + math.cos(math.pi * step / steps)) / 2
        play_f.step(g_f.add_(f.theta_MP, alpha=2 * settings.decay[0]), step + 1, rate)
        if settings.method != "direct":
            play_u.step(g_u.neg_().add_(u.theta_MP, alpha=2 * settings.decay[1]), step + 1, rate)
        if step in marks:
            average.add(f(query_MDT))
            if settings.method != "direct":
                seen_UMN[marks.index(step)] = u(z_dev_MEN)
        if step % 50 == 0:
            loop.log(loss=value_M)
    f_JSCT, seen = average.mean.cpu().unflatten(0, members), seen_UMN.cpu().unflatten(1, members)
    return choose(f_JSCT, counts, stack, None if settings.method == "direct" else seen, objective)


def theory(settings: Theory, stack: Stack, stage: Stage) -> tuple[dict[str, Arrays], list[dict]]:
    """The algorithm of 3.2 with c / sqrt t on a finite sample, all step sizes as arms of one loop; f is the average of all iterates."""
    (d, e), device, arms, designs = stack.sizes, stage.device, len(settings.etas), len(stack.names)
    f, u = (two_layer(settings, stack, stage, player, inputs) for player, inputs in (("f", d), ("u", e)))
    alpha_A = torch.full((arms,), settings.alpha, device=device)
    eta_A = torch.tensor(settings.etas, device=device)
    query_JSDT, counts = stack.queries()
    query_MDT, z_dev_MEN = query_JSDT.flatten(0, 1), stack.dev()[1].flatten(0, 1)
    average = Average((len(query_MDT), arms, query_MDT.shape[-1]), device)
    marks = range(settings.steps - 1, settings.steps // 2, -10 * settings.every)[::-1]
    seen_UMAN = torch.zeros(len(marks), len(query_MDT), arms, z_dev_MEN.shape[-1], device=device)
    for step in (loop := Loop(stage, settings.steps, {"f": f.weights, "u": u.weights, "average": average.state, "seen": seen_UMAN}, name=stack.names[0])):
        if step % settings.every == 0:
            average.add(f(query_MDT))
        if step in marks:
            seen_UMAN[marks.index(step)] = u(z_dev_MEN)
        x_JSDKB, y_JSB, z_JSEB = stack.batch(step, settings.batch)
        y_MB = y_JSB.flatten(0, 1)
        f_MAKB, u_MAB = play(f, u, x_JSDKB.flatten(0, 1), y_MB, z_JSEB.flatten(0, 1), stack.c_K, alpha_A, eta_A / math.sqrt(step + 1))
        if step % 50 == 0:
            residual_MAB = moment(f_MAKB, stack.c_K) - y_MB[:, None]
            loop.log(loss=sem(residual_MAB, u_MAB, f_MAKB[:, :, 0], settings.alpha).flatten())
    f_JSAT, seen = average.mean.cpu().unflatten(0, (designs, stack.seeds)), seen_UMAN.cpu().unflatten(1, (designs, stack.seeds))
    return choose(f_JSAT, counts, stack, seen, sem)


def two_layer(settings: Theory, stack: Stack, stage: Stage, player: str, inputs: int) -> TwoLayer:
    """One network for each design, seed and step size; the start depends on player, inputs and seed."""
    arms = len(settings.etas)
    by_seed = []
    for seed in range(stack.seeds):
        half = torch.randn(settings.width // 2, inputs, generator=stage.generator("theory", player, seed, inputs)) / math.sqrt(inputs)
        by_seed.append([half] * arms)
    return TwoLayer([settings.width] * arms, [settings.ball] * arms, by_seed * len(stack.names), stage.device)


def one_by_one(estimator: Tsls | Polynomial | Kiv | Rkhs, designs: dict[str, Arrays], stage: Stage) -> tuple[dict[str, Arrays], list[dict]]:
    """Fit each data set by itself."""
    predictions, rows = {}, []
    for name, d in designs.items():
        seeds, n = d["y_train"].shape
        fixed, chosen = ("c",), []
        for seed in range(seeds):
            one = {key: value if key in fixed else value[seed] for key, value in d.items() if key != "line"}
            f, note = estimator.fit(one, stage.rng("half", name, seed).permutation(n))
            chosen.append((np.stack([f(one["x_test"][:, k]) for k in range(len(d["c"]))], -1), f(one["x_curve"])))
            rows.append({"design": name, "seed": seed, "note": note})
        predictions[name] = {"test": np.stack([t for t, _ in chosen]), "curve": np.stack([g for _, g in chosen])}
    return predictions, rows
