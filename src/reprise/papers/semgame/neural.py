"""The practical variant and its neural peers: multilayer perceptrons for both players, optimistic Adam (3.3, 3.5).

Members of a stack (design x seed x candidate setting) train side by side, each parameter set one row of a matrix.
Shapes: M members, P parameters, B examples, K points of the moment, D inputs.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch.nn.functional import leaky_relu


class Mlp:
    """M perceptrons with leaky ReLU, their parameters in the rows of one matrix theta_MP.

    Args:
        sizes: widths from the inputs to the single output.
        generators: one for each distinct start; weights and biases uniform in +-1/sqrt(fan-in).
        copies: the M = copies * len(generators) * repeats members are [copies, starts, repeats] in that order.
    """

    def __init__(self, sizes: list[int], generators: list[torch.Generator], copies: int = 1, repeats: int = 1, device: str = "cpu"):
        self.shapes = [shape for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out, 1))]
        starts = [torch.cat([(2 * torch.rand(shape, generator=g) - 1).flatten() / math.sqrt(fan_in) for fan_in, fan_out in pairwise(sizes) for shape in ((fan_out, fan_in), (fan_out, 1))]) for g in generators]
        self.theta_MP = torch.stack(starts).repeat_interleave(repeats, 0).repeat(copies, 1).to(device)

    def views(self) -> list[torch.Tensor]:
        """Weights [M, out, in] and biases [M, out, 1] layer by layer, views of theta."""
        pieces = self.theta_MP.split([a * b for a, b in self.shapes], 1)
        return [piece.view(-1, *shape) for piece, shape in zip(pieces, self.shapes)]

    @staticmethod
    def forward(views: list[torch.Tensor], x_MDB: torch.Tensor) -> torch.Tensor:
        """Outputs [M, B]."""
        h = torch.baddbmm(views[1], views[0], x_MDB)
        for w, b in zip(views[2::2], views[3::2]):
            h = torch.baddbmm(b, w, leaky_relu(h))
        return h[:, 0]

    def __call__(self, x_MDB: torch.Tensor) -> torch.Tensor:
        """Outputs [M, B] without a graph."""
        return self.forward(self.views(), x_MDB)


class OptimisticAdam:
    """theta <- theta - 2 d_t + d_{t-1}, d_t = lr m_hat / sqrt(v_hat + eps^2), d_0 = 0: damps the circling of simultaneous play.

    Args:
        theta_MP: the parameters, changed in place.
        lr_M1, beta1_M1, beta2_M1: settings of each member.
        optimistic: False for plain Adam, theta <- theta - d_t.
        clip: bound on each gradient entry.
    """

    def __init__(self, theta_MP: torch.Tensor, lr_M1: torch.Tensor, beta1_M1: torch.Tensor, beta2_M1: torch.Tensor, *, optimistic: bool = True, clip: float = 1.0, eps: float = 1e-8):
        self.theta, self.lr, self.beta1, self.beta2 = theta_MP, lr_M1, beta1_M1, beta2_M1
        self.optimistic, self.clip, self.eps = optimistic, clip, eps
        self.m, self.v, self.before = (torch.zeros_like(theta_MP) for _ in range(3))

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """What changes in training."""
        return {"theta": self.theta, "m": self.m, "v": self.v, "before": self.before}

    def step(self, g_MP: torch.Tensor, t: int, scale: float) -> None:
        """One step of descent with learning rate `scale` * lr; t counts from 1."""
        g_MP = g_MP.clamp(-self.clip, self.clip)
        self.m.lerp_(g_MP, 1 - self.beta1)
        self.v.lerp_(g_MP.square(), 1 - self.beta2)
        rate_M1 = scale * self.lr / (1 - self.beta1.pow(t))
        d = rate_M1 * self.m * (self.v / (1 - self.beta2.pow(t)) + self.eps**2).rsqrt()
        if self.optimistic:
            self.theta.sub_(d, alpha=2).add_(self.before)
            self.before.copy_(d)
        else:
            self.theta.sub_(d)


Objective = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def sem(residual: torch.Tensor, u: torch.Tensor, f: torch.Tensor, alpha: float) -> torch.Tensor:
    """E[(m(f) - Y) u] - E[u^2]/2 + alpha E[f^2]/2: the paper's game."""
    return (residual * u - u.square() / 2 + alpha * f.square() / 2).mean(-1)


def agmm(residual: torch.Tensor, u: torch.Tensor, f: torch.Tensor, alpha: float) -> torch.Tensor:
    """E[(Y - m(f)) u] - E[u^2] (Dikkala et al. 2020)."""
    return (-residual * u - u.square()).mean(-1)


def deepgmm(residual: torch.Tensor, u: torch.Tensor, f: torch.Tensor, alpha: float) -> torch.Tensor:
    """E[(m(f) - Y) u] - E[u^2 (m(f~) - Y)^2]/4, f~ the current f held fixed (Bennett et al. 2019)."""
    return (residual * u - (u * residual.detach()).square() / 4).mean(-1)


def direct(residual: torch.Tensor, u: torch.Tensor, f: torch.Tensor, alpha: float) -> torch.Tensor:
    """E[(m(f) - Y)^2]: regression, blind to endogeneity; u plays no part."""
    return residual.square().mean(-1)


OBJECTIVES: dict[str, Objective] = {f.__name__: f for f in (sem, agmm, deepgmm, direct)}


def gradients(objective: Objective, f: Mlp, u: Mlp, x_MDKB: torch.Tensor, y_MB: torch.Tensor, z_MEB: torch.Tensor, c_K: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the objective for both players from one pass, [M, P] each, and its values [M]; f descends, u ascends."""
    k, b = x_MDKB.shape[-2:]
    f_views, u_views = ([view.detach().requires_grad_() for view in player.views()] for player in (f, u))
    f_MKB = Mlp.forward(f_views, x_MDKB.flatten(-2)).unflatten(-1, (k, b))
    residual_MB = (c_K[:, None] * f_MKB).sum(1) - y_MB
    u_MB = torch.zeros_like(y_MB) if objective is direct else Mlp.forward(u_views, z_MEB)
    value_M = objective(residual_MB, u_MB, f_MKB[:, 0], alpha)
    every = torch.autograd.grad(value_M.sum(), [*f_views, *u_views], allow_unused=True, materialize_grads=True)
    flat = [torch.cat([g.flatten(1) for g in part], 1) for part in (every[: len(f_views)], every[len(f_views) :])]
    return flat[0], flat[1], value_M.detach()
