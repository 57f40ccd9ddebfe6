"""Stacks of small networks that train side by side: E members share one data matrix and one joint optimiser step.

Activations are feature-major, [E, features, rows]: the member axis is a batched matrix product, and this orientation is the
one that every BLAS multiplies fast.
"""

import math
from itertools import pairwise

import torch

from reprise.determinism import exact_sqrt

Weights = dict[str, torch.Tensor]


def glorot(sizes: list[int], generators: list[torch.Generator], device: str = "cpu") -> Weights:
    """Glorot-uniform weights of E = len(generators) networks: w0 [E, H, I], b0 [E, H, 1], ..., biases 0; drawn on the CPU."""
    weights = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        bound = math.sqrt(6 / (fan_in + fan_out))
        draws = [bound * (2 * torch.rand(fan_out, fan_in, generator=g) - 1) for g in generators]
        weights[f"w{layer}"] = torch.stack(draws).to(device)
        weights[f"b{layer}"] = torch.zeros(len(generators), fan_out, 1, device=device)
    return weights


def forward(weights: Weights, x_IR: torch.Tensor) -> torch.Tensor:
    """Outputs [E, O, R] of ReLU networks at the rows x [I, R] (shared) or [E, I, R]; squeeze O where it is 1."""
    layers = len(weights) // 2
    h_EHR = x_IR.expand(weights["w0"].shape[0], *x_IR.shape[-2:])
    for layer in range(layers):
        h_EHR = torch.baddbmm(weights[f"b{layer}"], weights[f"w{layer}"], h_EHR)
        if layer < layers - 1:
            h_EHR = h_EHR.relu()
    return h_EHR


class OptimisticAdam:
    """Adam on a dictionary of tensors, with an optimistic update: d_t + optimism (d_t - d_{t-1}), d the direction of plain Adam.

    Simultaneous gradient steps circle around the saddle of a bilinear game; extrapolating the direction damps the circling
    (Daskalakis et al. 2018, Training GANs with optimism). The running mean delays d by beta1 / (1 - beta1) steps, which
    optimism has to outweigh: in a purely bilinear game take beta1 = 0.

    Args:
        weights: tensors to update in place (no autograd history).
        beta1, beta2, eps: as in Adam.
        optimism: how far to extrapolate; 0 for plain Adam.
        clip: gradients are clipped to [-clip, clip] element by element; None for no clipping.
    """

    def __init__(self, weights: Weights, beta1: float = 0.5, beta2: float = 0.999, eps: float = 1e-8, optimism: float = 1.0, clip: float | None = None):
        self.beta1, self.beta2, self.eps, self.optimism, self.clip = beta1, beta2, eps, optimism, clip
        self.weights = weights
        self.m, self.v, self.before = ({k: torch.zeros_like(w) for k, w in weights.items()} for _ in range(3))
        self.count = {"steps": 0}

    def state_dict(self) -> dict:
        """Everything that changes, the weights themselves excepted."""
        return {"m": self.m, "v": self.v, "before": self.before, "count": dict(self.count)}

    def load_state_dict(self, state: dict) -> None:
        """Restore in place what `state_dict` gave."""
        for own, saved in ((self.m, state["m"]), (self.v, state["v"]), (self.before, state["before"])):
            for key in own:
                own[key].copy_(saved[key])
        self.count["steps"] = state["count"]["steps"]

    @torch.no_grad()
    def step(self, gradients: Weights, lr: float) -> None:
        """One descent step of every tensor; give negated gradients for those that ascend."""
        self.count["steps"] += 1
        t = self.count["steps"]
        correct1, correct2 = 1 - self.beta1**t, 1 - self.beta2**t
        for key, w in self.weights.items():
            g = gradients[key] if self.clip is None else gradients[key].clamp(-self.clip, self.clip)
            self.m[key].mul_(self.beta1).add_(g, alpha=1 - self.beta1)
            self.v[key].mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            d = self.m[key] / correct1 / (exact_sqrt(self.v[key] / correct2) + self.eps)
            w.sub_(d, alpha=lr)
            if self.optimism and t > 1:
                w.sub_(d - self.before[key], alpha=lr * self.optimism)
            self.before[key].copy_(d)


def cosine(lr: float, step: int, steps: int) -> float:
    """The learning rate that falls from lr to 0 along half a cosine."""
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))
