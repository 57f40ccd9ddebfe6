"""The cells of section 3, for a stack of S models side by side: every weight and every state has a leading axis S.

A state is a pair (h, c), each [S, N, d]. Suffixes: S members of the stack, N rows, d width of a state, o outputs.
"""

import copy
import math

import torch
from torch import nn

State = tuple[torch.Tensor, torch.Tensor]


def glorot(generator: torch.Generator, *shape: int) -> nn.Parameter:
    """Uniform with the variance of Glorot and Bengio (2010) over the last two axes."""
    bound = math.sqrt(6 / (shape[-1] + shape[-2]))
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)


class _Gated(torch.autograd.Function):
    """c = sigma(i) tanh(u) + sum_k phi(f_k) c_k, h = sigma(o) tanh(c) from x = [i, o, f_1 .. f_k, u], with its gradient in closed form.

    `phi` is the sigmoid, or the tanh where `signed`. One pass over the gates instead of one kernel for each of them.
    """

    @staticmethod
    def forward(ctx, x, signed, *cs):
        h, c, a, t = gates(x, signed, cs)
        ctx.signed = signed
        ctx.save_for_backward(a, t, *cs)
        return h, c

    @staticmethod
    def backward(ctx, grad_h, grad_c):
        a, t, *cs = ctx.saved_tensors
        d = t.shape[-1]
        i, o, *forget, u = a.split(d, dim=-1)
        grad_t = grad_h * o
        grad_c = grad_t.addcmul_(grad_t * t, t, value=-1).add_(grad_c)
        first_tanh = 2 * d if ctx.signed else -d
        grad_x = a.square()  # sigma' = a - a^2, tanh' = 1 - a^2
        torch.sub(a[..., :first_tanh], grad_x[..., :first_tanh], out=grad_x[..., :first_tanh])
        grad_x[..., first_tanh:].neg_().add_(1)
        for part, grad, by in zip(grad_x.split(d, dim=-1), (grad_c, grad_h, *(grad_c for _ in cs), grad_c), (u, t, *cs, i)):
            part.mul_(grad).mul_(by)
        return grad_x, None, *(grad_c * f for f in forget)


def gates(x: torch.Tensor, signed: bool, cs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """h, c, and what the gradient needs, see `_Gated`. tanh(x) = 2 sigma(2x) - 1, since torch's sigmoid takes a fourth of the time of its tanh."""
    d = cs[0].shape[-1]
    a = x.clone()
    passes_tanh = a[..., 2 * d if signed else -d :]
    passes_tanh.mul_(2)
    a.sigmoid_()
    passes_tanh.mul_(2).sub_(1)
    i, o, *forget, u = a.view(*a.shape[:-1], len(cs) + 3, d).unbind(-2)
    c = i * u
    for f, c_k in zip(forget, cs):
        c.addcmul_(f, c_k)
    t = (2 * c).sigmoid_().mul_(2).sub_(1)
    return o * t, c, a, t


def gated(x: torch.Tensor, signed: bool, *cs: torch.Tensor) -> State:
    """The output of a gated cell, see `_Gated`. [S, N, (3 + k) d], k states [S, N, d] -> h, c [S, N, d]."""
    return _Gated.apply(x, signed, *cs) if torch.is_grad_enabled() else gates(x, signed, cs)[:2]


class _ELU(torch.autograd.Function):
    """max(x, 0) + e - 1 with e = exp(min(x, 0)), which is also its derivative. Half the time of torch's."""

    @staticmethod
    def forward(ctx, x):
        e = x.clamp_max(0).exp_()
        ctx.save_for_backward(e)
        return x.clamp_min(0).add_(e).sub_(1)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


elu = _ELU.apply


class Linear(nn.Module):
    """y = W x + b, Glorot weights, zero bias. [S, N, i] -> [S, N, o]."""

    def __init__(self, members: int, i: int, o: int, generator: torch.Generator):
        super().__init__()
        self.weight = glorot(generator, members, o, i)
        self.bias = nn.Parameter(torch.zeros(members, 1, o))

    def forward(self, x_SNi: torch.Tensor) -> torch.Tensor:
        """Apply to every row."""
        return torch.baddbmm(self.bias, x_SNi, self.weight.mT)


class Head(nn.Module):
    """A decision's logit: MLP d -> 2d -> 1 with ELU. [S, N, d] -> [S, N]."""

    def __init__(self, members: int, d: int, generator: torch.Generator):
        super().__init__()
        self.hidden = Linear(members, d, 2 * d, generator)
        self.out = Linear(members, 2 * d, 1, generator)

    def forward(self, h_SNd: torch.Tensor) -> torch.Tensor:
        """The logit of yes."""
        return self.out(elu(self.hidden(h_SNd))).squeeze(-1)


class LSTM(nn.Module):
    """An LSTM cell whose input is one of two learned embeddings, of the answer no and the answer yes (equations 7 and 9).

    The input's share of the gates is computed once per batch, not once per node.
    """

    def __init__(self, members: int, d: int, generator: torch.Generator):
        super().__init__()
        bound = 1 / math.sqrt(d)  # the initialisation of nn.LSTMCell

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)

        self.answer = glorot(generator, members, 2, d)
        self.w_input, self.w_hidden = uniform(members, 4 * d, d), uniform(members, 4 * d, d)
        self.bias = uniform(members, 1, 4 * d)  # nn.LSTMCell has two of them, which only ever occur as a sum
        with torch.no_grad():
            self.bias += uniform(members, 1, 4 * d)

    def inputs(self) -> torch.Tensor:
        """The gates' share of both answers. -> [S, 2, 4d]."""
        return torch.baddbmm(self.bias, self.answer, self.w_input.mT)

    def forward(self, gates_SN4d: torch.Tensor, state: State) -> State:
        """`gates_SN4d`: rows of `inputs()`, one for each state."""
        h_SNd, c_SNd = state
        return gated(torch.baddbmm(gates_SN4d, h_SNd, self.w_hidden.mT), False, c_SNd)


class TreeLSTM(nn.Module):
    """A binary TreeLSTM cell (Tai et al. 2015): i, o, u, f_l, f_r from [h_l; h_r].

    `light`: one linear map 2d -> 5d, sigmoid forget gates. `mlp`, the authors' form: five MLPs 2d -> 4d -> d with ELU, whose
    forget gates pass a tanh. The first map is applied to the two arguments apart, W [h_l; h_r] = W_l h_l + W_r h_r: what is
    used many times on the right is mapped once (`prepare`).
    """

    def __init__(self, members: int, d: int, kind: str, generator: torch.Generator):
        super().__init__()
        self.d, self.kind = d, kind
        hidden = d if kind == "light" else 4 * d
        weight = glorot(generator, members, 5, hidden, 2 * d).data.flatten(1, 2)
        self.w_left, self.w_right = nn.Parameter(weight[..., :d].clone()), nn.Parameter(weight[..., d:].clone())
        self.bias = nn.Parameter(torch.zeros(members, 1, 5 * hidden))
        if kind == "mlp":
            self.w_out = glorot(generator, members, 5, d, 4 * d)
            self.b_out = nn.Parameter(torch.zeros(members, 1, 5 * d))

    def prepare(self, right: State) -> State:
        """W_r h_r + b beside c_r, for `forward`. -> [S, N, 5d or 20d], [S, N, d]."""
        return torch.baddbmm(self.bias, right[0], self.w_right.mT), right[1]

    def forward(self, left: State, prepared: State) -> State:
        """c = sigma(i) tanh(u) + f_l c_l + f_r c_r, h = sigma(o) tanh(c)."""
        h_SNd, c_SNd = left
        x = self.second(torch.baddbmm(prepared[0], h_SNd, self.w_left.mT))
        return gated(x, self.kind == "mlp", c_SNd, prepared[1])

    def second(self, x: torch.Tensor) -> torch.Tensor:
        """From the first map to the five gates: as it is, or through the second layer of the MLPs. -> [S, N, 5d]."""
        if self.kind == "light":
            return x
        x_SN54d = elu(x).unflatten(2, (5, 4 * self.d))
        return torch.cat([x_SN54d[:, :, gate] @ self.w_out[:, gate].mT for gate in range(5)], dim=2) + self.b_out


def take(state: State, index: torch.Tensor) -> State:
    """Rows of a state, or of a prepared one. Gradients of repeated rows add up."""
    return state[0].index_select(1, index), state[1].index_select(1, index)


def joined(*states: State) -> State:
    """States below one another."""
    return torch.cat([h for h, _ in states], dim=1), torch.cat([c for _, c in states], dim=1)


def member(stack: nn.Module, s: int) -> nn.Module:
    """Model s of a stack alone, its weights fixed: a stack of one."""
    alone = copy.deepcopy(stack).requires_grad_(False)
    alone.members = 1
    for parameter in alone.parameters():
        parameter.data = parameter.data[s : s + 1].clone()
    return alone


def positions(n: int, d: int) -> torch.Tensor:
    """Sinusoidal encoding of 0..n-1: sin and cos of position / 10000^(2i/d). -> [n, d]."""
    angle = torch.arange(n, dtype=torch.float64)[:, None] * torch.exp(torch.arange(0, d, 2, dtype=torch.float64) * (-math.log(10000) / d))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d]
