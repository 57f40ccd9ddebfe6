"""The regularised Lagrangian (section 3), its switches and its three read-outs, for any source of Q and zeta.

    max_{zeta (>= 0)} min_{Q, lambda}  L(zeta, Q, lambda) =
        (1 - gamma) E_{s0 ~ mu0, a0 ~ pi}[Q(s0, a0)] + lambda
        + E_D[zeta(s, a) (alpha_R r + gamma Q(s', pi) - Q(s, a) - lambda)]
        + alpha_Q E_D[f(Q(s, a))] - alpha_zeta E_D[f(zeta(s, a))],          f(x) = |x|^p / p

Shapes: E members (networks or tables side by side), R rows (pairs (s, a), or sampled transitions).
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Switches:
    """One member of the family: which side is regularised, whether the reward enters, and the redundant constraints."""

    alpha_q: float  # primal regularisation
    alpha_zeta: float  # dual regularisation
    alpha_r: float  # 0: the reward is left out of the game, 1: it is in
    positive: bool  # zeta >= 0
    normalised: bool  # E_D[zeta] = 1, by the multiplier lambda
    p: float = 2.0  # exponent of f

    def scaled(self, alpha: float, p: float) -> "Switches":
        """With both regularisers multiplied by alpha, and another exponent."""
        return replace(self, alpha_q=alpha * self.alpha_q, alpha_zeta=alpha * self.alpha_zeta, p=p)


# Section 4, table of known estimators; the last two rows are the paper's own choice, with and without the reward.
ESTIMATORS = {
    "dual_dice": Switches(0, 1, 0, False, False),
    "gen_dice": Switches(1, 0, 0, True, True),  # the chi-square form of its divergence
    "gradient_dice": Switches(1, 0, 0, False, True),
    "mql": Switches(0, 0, 1, False, False),
    "mwl": Switches(0, 0, 0, False, False),
    "primal_r1": Switches(1, 0, 1, False, False),
    "best_r0": Switches(0, 1, 0, True, True),
    "best_r1": Switches(0, 1, 1, True, True),
}


@dataclass(frozen=True)
class Stacked:
    """The switches of E members as tensors [E, 1]."""

    alpha_q: torch.Tensor
    alpha_zeta: torch.Tensor
    alpha_r: torch.Tensor
    positive: torch.Tensor
    normalised: torch.Tensor
    p: torch.Tensor


def stack(members: list[Switches], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Stacked:
    """Switches side by side."""

    def column(name: str, kind: torch.dtype) -> torch.Tensor:
        return torch.tensor([[getattr(m, name)] for m in members], dtype=kind, device=device)

    return Stacked(*(column(n, torch.bool if n in ("positive", "normalised") else dtype) for n in Stacked.__dataclass_fields__))


@dataclass(frozen=True)
class Terms:
    """What the objective needs to know of Q, zeta and the data, wherever they come from."""

    start_E: torch.Tensor  # E_{s0 ~ mu0, a0 ~ pi}[Q(s0, a0)]
    q_ER: torch.Tensor  # Q(s, a)
    next_ER: torch.Tensor  # E_{s', a' ~ pi}[Q(s', a')]
    zeta_ER: torch.Tensor
    r_ER: torch.Tensor
    w_ER: torch.Tensor  # weight of each row under d^D, sums to 1


def ratio(output_ER: torch.Tensor, switches: Stacked) -> torch.Tensor:
    """zeta from a network's output: squared where it has to be positive."""
    return torch.where(switches.positive, output_ER * output_ER, output_ER)


def f(x_ER: torch.Tensor, p_E1: torch.Tensor) -> torch.Tensor:
    """|x|^p / p; the square by itself, since a power function is neither exact nor fast."""
    square_ER = x_ER * x_ER / 2
    if bool((p_E1 == 2).all()):
        return square_ER
    return torch.where(p_E1 == 2, square_ER, x_ER.abs().clamp_min(1e-12).pow(p_E1) / p_E1)


def lagrangian(terms: Terms, lam_E: torch.Tensor, switches: Stacked, gamma: float) -> torch.Tensor:
    """L of each member, [E]; Q and lambda minimise it, zeta maximises it."""
    lam_E1 = torch.where(switches.normalised, lam_E[:, None], torch.zeros_like(lam_E[:, None]))
    delta_ER = switches.alpha_r * terms.r_ER + gamma * terms.next_ER - terms.q_ER - lam_E1
    game_ER = terms.zeta_ER * delta_ER + switches.alpha_q * f(terms.q_ER, switches.p) - switches.alpha_zeta * f(terms.zeta_ER, switches.p)
    return (1 - gamma) * terms.start_E + lam_E1[:, 0] + (terms.w_ER * game_ER).sum(-1)


def readouts(terms: Terms, lam_E: torch.Tensor, switches: Stacked, gamma: float) -> dict[str, torch.Tensor]:
    """The three estimates of rho (section 3.2), [E] each, always with the true reward and without regularisers.

    primal               rho_Q = (1 - gamma) E[Q(s0, pi)] + lambda
    dual, dual_selfnorm  rho_zeta = E_D[zeta r], and the same over E_D[zeta], which hides a missing normalisation
    lagrangian           rho_{Q, zeta} = rho_Q + E_D[zeta (r + gamma Q' - Q - lambda)]
    mean_zeta, moment    E_D[zeta] and E_D[zeta^2]
    """
    lam_E = torch.where(switches.normalised[:, 0], lam_E, torch.zeros_like(lam_E))
    primal_E = (1 - gamma) * terms.start_E + lam_E
    weighted_ER = terms.w_ER * terms.zeta_ER
    dual_E, mean_E = (weighted_ER * terms.r_ER).sum(-1), weighted_ER.sum(-1)
    delta_ER = terms.r_ER + gamma * terms.next_ER - terms.q_ER - lam_E[:, None]
    return {
        "primal": primal_E,
        "dual": dual_E,
        "dual_selfnorm": dual_E / mean_E,
        "lagrangian": primal_E + (weighted_ER * delta_ER).sum(-1),
        "mean_zeta": mean_E,
        "moment": (weighted_ER * terms.zeta_ER).sum(-1),
    }
