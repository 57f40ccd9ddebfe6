"""How the losses of two tasks become one: the algorithms that auxiliary towers are orthogonal to."""

import torch

LEAST, MOST = 0.001, 0.999  # MGDA's weights stay inside
S_START, S_LEAST, S_MOST = 1.0, 0.01, 10.0  # log standard deviations of uncertainty weighting


def mgda_weight(g1_MN: torch.Tensor, g2_MN: torch.Tensor, released: bool = False) -> torch.Tensor:
    """c* = argmin_c |c g1 + (1 - c) g2|^2 in [0.001, 0.999], one for each member: (M,). Sener and Koltun 2018.

    c* = (g2 - g1).g2 / |g1 - g2|^2. The released code of the paper computes 1 - c* and gives it to task 1, which favours
    the task with the larger gradient; `released` does the same.
    """
    difference = g2_MN - g1_MN
    c = (difference * g2_MN).sum(1) / (difference * difference).sum(1).clamp_min(1e-20)
    return (1 - c if released else c).clamp(LEAST, MOST)


def uncertainty(losses_MT: torch.Tensor, s_MT: torch.Tensor) -> torch.Tensor:
    """sum_t L_t exp(-2 s_t) + s_t (Kendall et al. 2018, classification): (M,)."""
    return (losses_MT * (-2 * s_MT).exp() + s_MT).sum(1)


def scalarise(losses_MT: torch.Tensor, alpha_M: torch.Tensor) -> torch.Tensor:
    """(1 - alpha) L_left + alpha L_right: (M,)."""
    return (1 - alpha_M) * losses_MT[:, 0] + alpha_M * losses_MT[:, 1]
