"""Neural Q and ratio (section 6, Reacher), a stack of E members trained side by side: one for each dataset, or dataset and side.

The saddle point is found part by part, each by the method that finds it stably:

- nu (the paper's Q): fitted Q evaluation under the weights, with a slowly following target network. Targets are centred: nu is
  then right up to a constant, and the constant, which bootstrapping would learn last (at rate 1 - gamma), is solved for exactly.
  nu = scale * net with scale = sd(r) / sqrt(1 - gamma): so far apart are sums of about 1 / (1 - gamma) rewards that fluctuate.
- zeta = net^2 / E_w[net^2], which is >= 0 and has mean 1: the saddle point of the dual-regularised Lagrangian without reward,
      min_u max_zeta (1 - gamma) E_v[u(s0)] + E_w[zeta (gamma u(s', a') - u(s, a))] - E_w[zeta^2] / 2,
  by optimistic Adam. Yang et al. (2020) show that neither the regulariser nor the constraint on the mean biases zeta; the
  constraint spares u its slowest direction, constants, which the game would see at a rate of 1 - gamma.
- the weights of each side from ell = (1 - gamma) nu(s0) + zeta (r + gamma nu' - nu) on all transitions, in closed form. No gradient
  runs through them.

Once nu and zeta are known the bound is right to first order: errors of either multiply. Training on under the weights of each
side, from where the nets are, gives the saddle point of that side.

Shapes: E members, B datasets (E = B or 2 B, sides innermost), n transitions, N initial states, M sampled actions of the
target, I inputs, R rows of a minibatch. Activations are feature-major, [E, I, R].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from reprise.kits.offpolicy.networks import OptimisticAdam, Weights, cosine, forward, glorot
from reprise.papers.coindice.bounds import Ball, signs_and_budgets
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

LOG_EVERY = 20  # steps


@dataclass(frozen=True)
class Rows:
    """B datasets: x_BIn inputs of (s, a), r_Bn, next_BMIn inputs of (s', a'), start_BMIN inputs of (s0, a0); a' and a0 are M draws
    of the target policy. mean_B and sd_B: the rewards' average and spread."""

    x_BIn: torch.Tensor
    r_Bn: torch.Tensor
    next_BMIn: torch.Tensor
    start_BMIN: torch.Tensor
    mean_B: torch.Tensor
    sd_B: torch.Tensor

    def repeated(self, sides: int) -> "Rows":
        """Each dataset `sides` times, so that members and datasets match one to one."""
        return Rows(*(x.repeat_interleave(sides, 0) for x in (self.x_BIn, self.r_Bn, self.next_BMIn, self.start_BMIN, self.mean_B, self.sd_B)))


def rows(s_BnD: np.ndarray, a_BnK: np.ndarray, r_Bn: np.ndarray, next_BnD: np.ndarray, start_BND: np.ndarray, env, policy, draws: int, rng: np.random.Generator, device: str = "cpu") -> Rows:
    """Network inputs: what `env` observes of a state beside the action; target actions drawn from `policy.sample`."""

    def pair(x_RD: np.ndarray, a_RK: np.ndarray) -> np.ndarray:
        return np.concatenate([env.observe(x_RD), a_RK], -1)

    def drawn(x_BRD: np.ndarray) -> np.ndarray:
        B, R, D = x_BRD.shape
        flat = x_BRD.reshape(-1, D)
        x_MRI = np.stack([pair(flat, policy.sample(flat, rng)) for _ in range(draws)])
        return x_MRI.reshape(draws, B, R, -1).transpose(1, 0, 3, 2)

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(x), dtype=torch.float32, device=device)

    B, n, D = s_BnD.shape
    x_BnI = pair(s_BnD.reshape(-1, D), a_BnK.reshape(B * n, -1)).reshape(B, n, -1)
    return Rows(tensor(x_BnI.transpose(0, 2, 1)), tensor(r_Bn), tensor(drawn(next_BnD)), tensor(drawn(start_BND)), tensor(r_Bn.mean(-1)), tensor(r_Bn.std(-1)))


@dataclass(frozen=True)
class Nets:
    """Stacks: nu and its slow copy, the opponent u of the ratio's game, the root of zeta."""

    nu: Weights
    slow: Weights
    u: Weights
    root: Weights

    def repeated(self, sides: int) -> "Nets":
        """Each member `sides` times."""
        return Nets(*({k: w.repeat_interleave(sides, 0).clone() for k, w in stack.items()} for stack in vars(self).values()))


def networks(inputs: int, hidden: list[int], generators: list[torch.Generator], device: str = "cpu") -> Nets:
    """Glorot-uniform stacks of E = len(generators) members; nu and u begin near 0, zeta near 1, away from the dead point of the square."""
    nu, u, root = (glorot([inputs, *hidden, 1], generators, device) for _ in range(3))
    for stack in (nu, u):
        stack[f"w{len(hidden)}"] *= 0.01
    root[f"b{len(hidden)}"] += 1.0
    return Nets(nu, {k: w.clone() for k, w in nu.items()}, u, root)


class Neural(Params):
    """How the nets are trained."""

    hidden: tuple[int, ...] = Field(description="hidden units of each net, ReLU")
    draws: int = Field(gt=0, description="draws M of the target's action at s' and s0")
    steps: int = Field(gt=0, description="steps under uniform weights")
    rounds: int = Field(gt=0, description="re-trainings under the weights of each side")
    round_steps: int = Field(gt=0, description="steps of a re-training, from where the nets are")
    round_rate: float = Field(gt=0, description="learning rates of a re-training, as a share of the first ones")
    round_level: float = Field(gt=0, lt=1, description="nominal coverage whose weights a re-training uses")
    batch: int = Field(gt=0, description="transitions R of a minibatch; all initial states are in every one")
    lr_nu: float = Field(gt=0, description="Adam's rate for nu, falling to 0 along a cosine")
    lr_zeta: float = Field(gt=0, description="optimistic Adam's rate for zeta and its opponent u, falling likewise")
    polyak: float = Field(gt=0, le=1, description="how fast the target network follows nu")


def fit(nets: Nets, data: Rows, w_En: torch.Tensor, v_EN: torch.Tensor, gamma: float, settings: Neural, steps: int, rate: float, stage: Stage, name: str = "") -> None:
    """Train nu, u and zeta in place under weights w and v (each averaging to 1), minibatches of transitions drawn uniformly; `rate` scales both learning rates."""
    device, generator = data.r_Bn.device, stage.generator("batches", name)
    optimisers = {  # plain Adam for nu, optimistic Adam for the players of the game
        "nu": OptimisticAdam(nets.nu, beta1=0.9, optimism=0.0),
        "u": OptimisticAdam(nets.u, beta1=0.5),
        "root": OptimisticAdam(nets.root, beta1=0.5),
    }
    loop = Loop(stage, steps, {"nets": vars(nets), "optimisers": optimisers, "generator": generator}, name=name)
    n, M = data.r_Bn.shape[-1], data.next_BMIn.shape[1]
    start_EIR = data.start_BMIN.transpose(1, 2).flatten(2)  # all initial states with all their actions
    start_weight_ER = (v_EN / v_EN.shape[-1] / M).repeat(1, M)
    for step in loop:
        index = torch.randint(n, (settings.batch,), generator=generator).to(device)
        draw = torch.randint(M, (settings.batch,), generator=generator).to(device)
        x_EIR, next_EIR = data.x_BIn[:, :, index], data.next_BMIn[:, draw, :, index].permute(1, 2, 0)
        w_ER = w_En[:, index]
        w_ER = w_ER / w_ER.mean(-1, keepdim=True)
        r_ER = (data.r_Bn[:, index] - data.mean_B[:, None]) / data.sd_B[:, None]

        nu = {k: w.detach().requires_grad_() for k, w in nets.nu.items()}
        with torch.no_grad():  # in units of `scale`
            target_ER = math.sqrt(1 - gamma) * r_ER + gamma * forward(nets.slow, next_EIR)[:, 0]
            target_ER = target_ER - (w_ER * target_ER).mean(-1, keepdim=True)
        loss_nu_E = (w_ER * (forward(nu, x_EIR)[:, 0] - target_ER).square()).mean(-1) / 2

        u = {k: w.detach().requires_grad_() for k, w in nets.u.items()}
        root = {k: w.detach().requires_grad_() for k, w in nets.root.items()}
        u_EX = forward(u, torch.cat([x_EIR, next_EIR, start_EIR], -1))[:, 0]
        u_ER, u_next_ER, u_start_ER = u_EX.split([settings.batch, settings.batch, start_weight_ER.shape[-1]], -1)
        zeta_ER = forward(root, x_EIR)[:, 0].square()
        zeta_ER = zeta_ER / (w_ER * zeta_ER).mean(-1, keepdim=True)
        flow_E = (1 - gamma) * (start_weight_ER * u_start_ER).sum(-1) + (w_ER * zeta_ER * (gamma * u_next_ER - u_ER)).mean(-1)
        game_E = flow_E - (w_ER * zeta_ER.square()).mean(-1) / 2

        gradients = iter(torch.autograd.grad(loss_nu_E.sum() + game_E.sum(), [*nu.values(), *u.values(), *root.values()]))
        optimisers["nu"].step({k: next(gradients) for k in nu}, cosine(rate * settings.lr_nu, step, steps))
        optimisers["u"].step({k: next(gradients) for k in u}, cosine(rate * settings.lr_zeta, step, steps))
        optimisers["root"].step({k: -next(gradients) for k in root}, cosine(rate * settings.lr_zeta, step, steps))  # zeta ascends
        for k, w in nets.slow.items():
            w.lerp_(nets.nu[k], settings.polyak)
        if step % LOG_EVERY == 0:
            loop.log(loss_nu=loss_nu_E, loss_game=game_E, zeta_square=zeta_ER.detach().square().mean(-1))


@torch.no_grad()
def terms(nets: Nets, data: Rows, w_En: np.ndarray, v_EN: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rho_E, td_En, first_EN) in double precision under weights that sum to 1, as `bounds.Saddle` has them.

    zeta is self-normalised, then the constant of nu is the one for which E_w[td] = 0: both are exact solutions of the saddle
    point in the direction of constants. rho = (1 - gamma) E_v[nu(s0)] is then the doubly robust estimate.
    """
    scale_E1 = (data.sd_B.double() / math.sqrt(1 - gamma)).cpu().numpy()[:, None]
    M = data.next_BMIn.shape[1]

    def nu(x_EIR: torch.Tensor) -> np.ndarray:
        return scale_E1 * forward(nets.nu, x_EIR)[:, 0].double().cpu().numpy()

    first_EN = (1 - gamma) * sum(nu(data.start_BMIN[:, m]) for m in range(M)) / M
    after_En = sum(nu(data.next_BMIn[:, m]) for m in range(M)) / M
    zeta_En = forward(nets.root, data.x_BIn)[:, 0].double().square().cpu().numpy()
    zeta_En = zeta_En / (w_En * zeta_En).sum(-1, keepdims=True)
    delta_En = data.r_Bn.double().cpu().numpy() + gamma * after_En - nu(data.x_BIn)
    constant_E1 = (w_En * zeta_En * delta_En).sum(-1, keepdims=True)  # (1 - gamma) times the constant
    first_EN = first_EN + constant_E1
    return (v_EN * first_EN).sum(-1), zeta_En * (delta_En - constant_E1), first_EN


@dataclass(frozen=True)
class Found:
    """estimate and standard error [B]; intervals [B, L]: `one_shot` from the nets trained under uniform weights, then one after
    each re-training; the last nets (members 2 b and 2 b + 1 are the lower and the upper side of dataset b)."""

    estimate: np.ndarray
    se: np.ndarray
    intervals: dict[str, tuple[np.ndarray, np.ndarray]]
    nets: Nets


def bounds(data: Rows, ball: Ball, gamma: float, levels: np.ndarray, settings: Neural, stage: Stage) -> Found:
    """Train, bound, and train on under the weights of each side. A bound is E_w[ell] at its own optimal weights."""
    (B, inputs, n), N = data.x_BIn.shape, data.start_BMIN.shape[-1]
    sign_J, xi_J = signs_and_budgets(levels)
    L, side_xi_J = len(levels), signs_and_budgets(np.array([settings.round_level]))[1]

    def tensor(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.float32, device=data.r_Bn.device)

    w_Bn, v_BN = np.full((B, n), 1 / n), np.full((B, N), 1 / N)
    nets = networks(inputs, list(settings.hidden), [stage.generator("nets", i) for i in range(B)], str(data.r_Bn.device))
    fit(nets, data, tensor(n * w_Bn), tensor(N * v_BN), gamma, settings, settings.steps, 1.0, stage)
    rho_B, td_Bn, first_BN = terms(nets, data, w_Bn, v_BN, gamma)
    se_B = ball.standard_error(td_Bn[:, None], first_BN[:, None])
    td_BJn, first_BJN = td_Bn[:, None].repeat(2, 1), first_BN[:, None].repeat(2, 1)  # J: lower and upper side
    data, nets = data.repeated(2), nets.repeated(2)

    found = {}
    for k in range(settings.rounds + 1):
        if k:
            w_BJn, v_BJN, _ = ball.extreme(td_BJn, first_BJN, np.array([-1.0, 1.0]), side_xi_J)
            w_En, v_EN = w_BJn.reshape(2 * B, n), v_BJN.reshape(2 * B, N)
            fit(nets, data, tensor(n * w_En), tensor(N * v_EN), gamma, settings, settings.round_steps, settings.round_rate, stage, f"round_{k}")
            _, td_En, first_EN = terms(nets, data, w_En, v_EN, gamma)
            td_BJn, first_BJN = td_En.reshape(B, 2, n), first_EN.reshape(B, 2, N)
        td_all, first_all = td_BJn.repeat(L, 1), first_BJN.repeat(L, 1)  # the lower bounds of all levels, then the upper ones
        w_all, v_all, _ = ball.extreme(td_all, first_all, sign_J, xi_J)
        ends_BJ = (w_all * td_all).sum(-1) + (v_all * first_all).sum(-1)
        found[f"round_{k}" if k else "one_shot"] = ends_BJ[:, :L], ends_BJ[:, L:]
    return Found(rho_B, se_B, found, nets)
