"""The heavy ball and its best step and momentum."""

import math

import torch


def optimal(m: float, big_l: float) -> tuple[float, float]:
    """The step alpha and momentum beta of the fastest heavy ball on a spectrum in [m, L] (theorem 9).

    alpha = 4 / (sqrt L + sqrt m)^2,  beta = ((sqrt L - sqrt m) / (sqrt L + sqrt m))^2
    """
    low, high = math.sqrt(m), math.sqrt(big_l)
    return 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2


def step(a_KDD: torch.Tensor, x_KD: torch.Tensor, before_KD: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    """x_{k+1} = x_k - alpha A x_k + beta (x_k - x_{k-1}), section 2; gradient descent where beta = 0."""
    gradient_KD = torch.einsum("kde,ke->kd", a_KDD, x_KD)
    return x_KD - alpha * gradient_KD + beta * (x_KD - before_KD)
