"""The game of section 3 as the theory plays it: two networks, simultaneous projected gradient steps, averaged functions.

    min_f max_u  phi(f, u) = E[ (m(f; X) - Y) u(Z) - u(Z)^2 / 2 + alpha f(X)^2 / 2 ]                                    (G)

m(f; X) = sum_k c_k f(X_k) is a linear moment: c = (1) for an instrumental regression, (1, -1) for a dynamic panel in
differences, (1, -gamma) for the Bellman equation of a policy. The inner maximum is 1/2 E[(Af - b)^2], and one sample
gives an unbiased gradient of phi: no second sample of X given Z, no split.

Shapes: S seeds (each sees its own data), A arms of a seed (see the same data), N neurons of all arms of a seed side by
side, B examples, K points of the moment, D inputs, H hidden layers. Activations are feature-major, [.., neurons, examples].
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from reprise.determinism import exact_sqrt

Tensors = dict[str, torch.Tensor]


class Player(Protocol):
    """A stack of networks f_SA, each with its own ball around its initial weights."""

    def forward(self, x_SDB: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs f_SAB, and the activations that `move` needs."""

    def move(self, activations: list[torch.Tensor], e_SAB: torch.Tensor, eta_A: torch.Tensor) -> None:
        """W <- Proj(W - eta dW) where dW = sum_b e_b df(x_b)/dW; ascends if eta is negative."""

    def movement(self) -> torch.Tensor:
        """||W - W(0)||_F of each network [S, A]; the largest of the layers where there are several."""

    def __call__(self, x_SDB: torch.Tensor) -> torch.Tensor:
        """Outputs f_SAB."""


class TwoLayer:
    """f(x; W) = m^-1/2 sum_r b_r relu(W_r' x), b_r in {-1, 1} fixed, W_r(0) ~ N(0, I/D), of several widths m at once.

    The neurons of the A arms of a seed lie side by side in one axis, so that arms of different width cost what their
    neurons cost and no loop over them is needed. Symmetric start: the second half of an arm repeats the first with
    opposite b, so that f(.; W(0)) = 0 exactly.

    Args:
        widths: m of each arm, even.
        balls: radius B of each arm.
        draws: for each seed a list, for each arm the rows W_r(0) of its first m/2 neurons [m/2, D].
    """

    def __init__(self, widths: Sequence[int], balls: Sequence[float], draws: list[list[torch.Tensor]], device: str = "cpu"):
        self.start_SND = torch.stack([torch.cat([half.repeat(2, 1) for half in arms]) for arms in draws]).to(device)
        self.w_SND = self.start_SND.clone()
        self.member_NA = torch.block_diag(*[torch.ones(m, 1) for m in widths]).to(device)
        signs_N = torch.cat([torch.ones(m).index_fill_(0, torch.arange(m // 2, m), -1) for m in widths]).to(device)
        self.b_NA = signs_N[:, None] * self.member_NA / exact_sqrt(torch.tensor(widths, dtype=torch.float32, device=device))
        self.member_PA = self.member_NA.repeat_interleave(self.start_SND.shape[-1], 0)  # P = N D parameters
        self.arm_N, self.b_N1 = self.member_NA.argmax(1), self.b_NA.sum(1, keepdim=True)
        self.ball_A = torch.tensor(balls, dtype=torch.float32, device=device)

    @property
    def weights(self) -> Tensors:
        """What changes in training."""
        return {"w": self.w_SND}

    def forward(self, x_SDB: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs f_SAB at inputs of unit norm; the inputs and the hidden layer."""
        h_SNB = (self.w_SND @ x_SDB).relu_()
        return self.b_NA.T @ h_SNB, [x_SDB, h_SNB]

    def __call__(self, x_SDB: torch.Tensor) -> torch.Tensor:
        """Outputs f_SAB."""
        return self.forward(x_SDB)[0]

    def move(self, activations: list[torch.Tensor], e_SAB: torch.Tensor, eta_A: torch.Tensor) -> None:
        """One projected step, the gradient by hand: df/dW_r = m^-1/2 b_r 1[W_r' x > 0] x."""
        x_SDB, h_SNB = activations
        back_SNB = (eta_A[:, None] * e_SAB).index_select(1, self.arm_N).mul_(self.b_N1).mul_(h_SNB.sign())
        self.w_SND.sub_(back_SNB @ x_SDB.transpose(1, 2))
        self.project()

    def project(self) -> None:
        """Onto the ball: W(0) + (W - W(0)) min(1, B / ||W - W(0)||_F)."""
        away_SND = self.w_SND - self.start_SND
        shrink_SA = _shrink(away_SND.square().flatten(1) @ self.member_PA, self.ball_A)
        if (shrink_SA < 1).any():
            self.w_SND.copy_(torch.addcmul(self.start_SND, away_SND, (shrink_SA @ self.member_NA.T)[:, :, None]))

    def movement(self) -> torch.Tensor:
        """||W - W(0)||_F, [S, A]."""
        return exact_sqrt((self.w_SND - self.start_SND).square().flatten(1) @ self.member_PA)


class MultiLayer:
    """h_0 = A x, h_k = relu(W_k h_{k-1}), f = b' h_H: entries of A and of W_k(0) are N(0, 2/m), b is +-1; W_1..W_H are trained.

    Antisymmetric start: f is the difference of two copies, divided by sqrt 2. In this scaling gradients are larger than
    those of `TwoLayer` by sqrt m: steps are eta / m, and one unit of function costs a movement of order m^-1/2, so the
    radius is given as B / sqrt m.

    Args:
        width, depth: m and H.
        ball: B; each layer of each copy stays within B / sqrt m of its start.
        draws: for each seed a dictionary a [m, D], b [m], w [H, m, m] of standard normal (b: +-1) draws.
    """

    def __init__(self, width: int, depth: int, ball: float, draws: list[Tensors], device: str = "cpu"):
        scale = math.sqrt(2 / width)
        stacked = {key: torch.stack([d[key] for d in draws]).to(device) for key in ("a", "b", "w")}
        copies = lambda t: t.repeat_interleave(2, 0).contiguous()  # noqa: E731  [2S, ...]: each seed's two copies follow each other
        self.a_CMD, self.start_CHMM = scale * copies(stacked["a"]), scale * copies(stacked["w"])
        sign_C1 = torch.tensor([1.0, -1.0], device=device).repeat(len(draws))[:, None]
        self.b_C1M = (copies(stacked["b"]) * sign_C1 / math.sqrt(2))[:, None]
        self.w_CHMM, self.width, self.ball = self.start_CHMM.clone(), width, ball / math.sqrt(width)

    @property
    def weights(self) -> Tensors:
        """What changes in training."""
        return {"w": self.w_CHMM}

    def forward(self, x_SDB: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Outputs f_S1B; h_0 .. h_H of both copies."""
        h_CMB = [self.a_CMD @ x_SDB.repeat_interleave(2, 0)]
        for k in range(self.w_CHMM.shape[1]):
            h_CMB.append((self.w_CHMM[:, k] @ h_CMB[-1]).relu_())
        return (self.b_C1M @ h_CMB[-1]).reshape(-1, 2, x_SDB.shape[-1]).sum(1, keepdim=True), h_CMB

    def __call__(self, x_SDB: torch.Tensor) -> torch.Tensor:
        """Outputs f_S1B."""
        return self.forward(x_SDB)[0]

    def move(self, activations: list[torch.Tensor], e_S1B: torch.Tensor, eta_A: torch.Tensor) -> None:
        """One projected step of eta / m, backwards: delta_H = b e, delta_{k-1} = W_k' (delta_k 1[h_k > 0]), dW_k = (delta_k 1[h_k > 0]) h_{k-1}'."""
        delta_CMB = self.b_C1M.transpose(1, 2) @ (e_S1B * (eta_A[:, None] / self.width)).repeat_interleave(2, 0)
        steps = []
        for k in reversed(range(self.w_CHMM.shape[1])):
            back_CMB = delta_CMB * (activations[k + 1] > 0)
            steps.append(back_CMB @ activations[k].transpose(1, 2))
            delta_CMB = self.w_CHMM[:, k].transpose(1, 2) @ back_CMB
        self.w_CHMM.sub_(torch.stack(steps[::-1], 1))
        self.project()

    def project(self) -> None:
        """Each layer onto its own ball."""
        away_CHMM = self.w_CHMM - self.start_CHMM
        shrink_CH = _shrink(away_CHMM.square().sum((-2, -1)), torch.tensor(self.ball, device=away_CHMM.device))
        if (shrink_CH < 1).any():
            self.w_CHMM.copy_(self.start_CHMM + away_CHMM * shrink_CH[:, :, None, None])

    def movement(self) -> torch.Tensor:
        """The largest ||W_k - W_k(0)||_F of a network, in the units of `ball`, [S, 1]."""
        away_CH = exact_sqrt((self.w_CHMM - self.start_CHMM).square().sum((-2, -1)))
        return away_CH.reshape(-1, 2 * away_CH.shape[1]).amax(-1, keepdim=True) * math.sqrt(self.width)


def _shrink(squared: torch.Tensor, ball: torch.Tensor) -> torch.Tensor:
    """min(1, B / distance) from the squared distance."""
    return (ball * squared.clamp_min(1e-30).rsqrt()).clamp_max(1)


def moment(f_SAKB: torch.Tensor, c_K: torch.Tensor) -> torch.Tensor:
    """m(f; X) = sum_k c_k f(X_k), [S, A, B]."""
    return (c_K[:, None] * f_SAKB).sum(2)


def play(f: Player, u: Player, x_SDKB: torch.Tensor, y_SB: torch.Tensor, z_SEB: torch.Tensor, c_K: torch.Tensor, alpha_A: torch.Tensor, eta_A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One simultaneous step of both players from the same examples (3.2): f descends on (G), u ascends.

        g_W = u dm(f)/dW + alpha f df/dW,    g_V = (m(f) - Y - u) du/dV

    The regulariser sits at the moment's first point. Returns the outputs before the step, f_SAKB and u_SAB.
    """
    k, b = x_SDKB.shape[-2:]
    x_SDR = x_SDKB.flatten(-2)
    (f_SAR, f_activations), (u_SAB, u_activations) = f.forward(x_SDR), u.forward(z_SEB)
    f_SAKB = f_SAR.unflatten(-1, (k, b))
    e_SAKB = c_K[:, None] * u_SAB[:, :, None]
    e_SAKB[:, :, 0] += alpha_A[:, None] * f_SAKB[:, :, 0]
    residual_SAB = moment(f_SAKB, c_K) - y_SB[:, None]
    f.move(f_activations, e_SAKB.flatten(-2) / b, eta_A)
    u.move(u_activations, (residual_SAB - u_SAB) / b, -eta_A)
    return f_SAKB, u_SAB


def value(residual: torch.Tensor, u: torch.Tensor, f: torch.Tensor, alpha: float | torch.Tensor) -> torch.Tensor:
    """phi of (G) as a mean over the last axis; residual = m(f; X) - Y."""
    return (residual * u - u.square() / 2 + alpha * f.square() / 2).mean(-1)


class Average:
    """The function average fbar = (1/T) sum_t f(.; W_t) at fixed points: what the theorem is about, not an average of weights."""

    def __init__(self, shape: tuple[int, ...], device: str = "cpu"):
        self.total, self.count = torch.zeros(shape, dtype=torch.float64, device=device), {"terms": 0}

    @property
    def state(self) -> dict:
        """What changes in training."""
        return {"total": self.total, "count": self.count}

    def add(self, f: torch.Tensor) -> None:
        """One more function."""
        self.total += f
        self.count["terms"] += 1

    @property
    def mean(self) -> torch.Tensor:
        """The average so far, float64."""
        return self.total / self.count["terms"]
