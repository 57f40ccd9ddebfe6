"""What non-transferable learning minimises (section 3): L_S - min(beta, alpha L_A L_dis), its forms, and the MMD in it.

    N pooled features   n source and m auxiliary features   D size of a feature   K classes
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from reprise.params import Params


class Objective(Params):
    """The loss, with the points in which the paper and the released code differ as switches."""

    alpha: float = Field(ge=0, description="alpha, weight of the auxiliary term")
    beta: float = Field(gt=0, description="beta, upper bound of the auxiliary term")
    alpha_dis: float = Field(ge=0, description="alpha', weight of the MMD")
    beta_dis: float = Field(gt=0, description="beta', upper bound of the weighted MMD")
    terms: Literal["both", "kl", "mmd"] = Field("both", description="kl: without the MMD (the paper's L*_ntl); mmd: without the classification term")
    clamp: Literal["product", "factors"] = Field("product", description="product: beta bounds alpha L_A L_dis, as printed; factors: it bounds alpha L_A alone, as released")
    reduction: Literal["batchmean", "mean"] = Field("batchmean", description="batchmean: KL as printed; mean: divided by K, as released")


def mmd(s_nD: torch.Tensor, a_mD: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of two samples, biased (the diagonal counts), under a sum of five Gaussian kernels.

    k(i, j) = sum_{r=0..4} exp(-|t_i - t_j|^2 / w_r),  w_r = w/4 2^r,  w = the mean of |t_i - t_j|^2 over i != j, without gradient.

    |t_i - t_j|^2 comes from the Gram matrix, in O(N^2 + N D) memory; the features are centred first, without which single
    precision loses small distances. Each kernel is the square of the next wider one, so one exponential serves all five.
    """
    n, m = len(s_nD), len(a_mD)
    t_ND = torch.cat([s_nD, a_mD])
    t_ND = t_ND - t_ND.detach().mean(0)  # distances do not see the shift, so it carries no gradient
    gram = t_ND @ t_ND.T
    square = gram.diagonal()
    distance = (square[:, None] + square[None] - 2 * gram).clamp_min(0)
    w = (distance.detach().sum() / ((n + m) ** 2 - (n + m))).clamp_min(torch.finfo(gram.dtype).tiny)
    kernel = torch.exp(-distance / (4 * w))
    total = kernel
    for _ in range(4):
        kernel = kernel * kernel
        total = total + kernel
    sign = torch.cat([s_nD.new_full((n,), 1 / n), s_nD.new_full((m,), -1 / m)])
    return (sign[:, None] * sign[None] * total).sum()


def kl(logits_NK: torch.Tensor, y_N: torch.Tensor, reduction: str = "batchmean") -> torch.Tensor:
    """KL(label || prediction), which for one-hot labels is the cross-entropy. The paper prints the arguments the other way round, which is infinite."""
    loss = F.cross_entropy(logits_NK, y_N)
    return loss / logits_NK.shape[1] if reduction == "mean" else loss


def ntl(objective: Objective, source: tuple, auxiliary: tuple) -> dict[str, torch.Tensor]:
    """The loss and its parts for a source and an auxiliary batch, each (z_ND, logits_NK, y_N).

    Returns:
        loss; source = L_S; auxiliary = L_A; mmd; all scalars.
    """
    (z_s, logits_s, y_s), (z_a, logits_a, y_a) = source, auxiliary
    o = objective
    l_s, l_a = kl(logits_s, y_s, o.reduction), kl(logits_a, y_a, o.reduction)
    distance = mmd(z_s, z_a) if o.terms != "kl" else torch.zeros_like(l_s)
    l_dis = (o.alpha_dis * distance).clamp_max(o.beta_dis)  # L_dis = min(beta', alpha' MMD)
    if o.terms == "kl":
        term = (o.alpha * l_a).clamp_max(o.beta)
    elif o.terms == "mmd":
        term = l_dis
    elif o.clamp == "product":
        term = (o.alpha * l_a * l_dis).clamp_max(o.beta)
    else:
        term = (o.alpha * l_a).clamp_max(o.beta) * l_dis
    return {"loss": l_s - term, "source": l_s, "auxiliary": l_a, "mmd": distance}
