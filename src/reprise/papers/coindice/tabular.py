"""Finite states and actions (section 4): with one feature per pair the saddle point is a weighted maximum-likelihood model.

Under weights w the model has P_w(s'|s,a) and r_w(s,a), the weighted frequencies and means of each pair, and

    V = (I - gamma P_w^pi)^-1 r_w^pi,   Q = r_w + gamma P_w V,   d = (1 - gamma) (I - gamma P_w^pi)^-T mu0_w,
    tau(s,a) = d(s) pi(a|s) / q_w(s,a),  rho = (1 - gamma) mu0_w' V,
    ell_i = (1 - gamma) V(s0_i) + tau(s_i,a_i) (r_i + gamma V(s'_i) - Q(s_i,a_i)).

Only systems over states are solved. ell is the same for equal transitions, so n transitions shrink to counts of distinct cells
(s, a, s', r), which serve all datasets, levels and signs as one batch.

Pairs that the target wants and the data never shows (`unseen`): "zero" gives them the value 0, as a table that starts at zero
does; "restrict" renormalises the target over the actions seen in each state and drops transitions into states that are never
left. With a known behaviour policy (`ratio_SA`) the model is over states alone: transitions count pi(a|s) / behaviour(a|s),
self-normalised in each state, so no pair can be missing.

A transition that ends its episode (next state -1) is followed by nothing: its V(s') is 0.

Shapes: B datasets, J bounds, C cells, S states, A actions, K keys (pairs, or states for the state-only ratio).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reprise.kits.offpolicy.policies import restrict
from reprise.papers.coindice import bounds as fixed_point
from reprise.papers.coindice.bounds import Ball, Bounds, Pairing
from reprise.papers.coindice.gel import DivergenceName
from reprise.papers.coindice.solve import Solver, segment_sums

Unseen = Literal["zero", "restrict"]


@dataclass(frozen=True)
class Cells:
    """Distinct transitions of B datasets and how often each occurs.

    s_C, a_C, next_C: states and actions, next -1 where the episode ends; r_C: rewards; start_C: the initial state of their
    trajectories, -1 where pooled; count_BC; start_BS: how often trajectories begin in each state.
    """

    s_C: np.ndarray
    a_C: np.ndarray
    next_C: np.ndarray
    r_C: np.ndarray
    start_C: np.ndarray
    count_BC: np.ndarray
    start_BS: np.ndarray


def compress(s_BNT: np.ndarray, a_BNT: np.ndarray, next_BNT: np.ndarray, r_BNT: np.ndarray, states: int, actions: int, pairing: Pairing = "two_sample") -> Cells:
    """Count equal transitions of trajectories [B, N, T]; with `per_transition` those of different initial states apart."""
    B, N, T = s_BNT.shape
    s0_BN = s_BNT[:, :, 0].astype(np.int64)
    start_BNT = np.broadcast_to(s0_BN[:, :, None] if pairing == "per_transition" else -1, s_BNT.shape)
    columns = [x.reshape(-1).astype(np.int64) for x in (start_BNT, s_BNT, a_BNT, next_BNT)]
    start_BS = np.bincount((np.arange(B)[:, None] * states + s0_BN).reshape(-1), minlength=B * states).reshape(B, states)
    return count(np.repeat(np.arange(B), N * T), *columns, r_BNT.reshape(-1), start_BS, states, actions)


def count(dataset_n: np.ndarray, start_n: np.ndarray, s_n: np.ndarray, a_n: np.ndarray, next_n: np.ndarray, r_n: np.ndarray, start_BS: np.ndarray, states: int, actions: int) -> Cells:
    """`compress` for flat columns of n transitions, such as those of episodes of different lengths; columns as in `Cells`."""
    rewards, r_index = np.unique(r_n, return_inverse=True)
    code = (((start_n + 1) * states + s_n) * actions + a_n) * (states + 1) + next_n + 1
    cells, inverse = np.unique(code * len(rewards) + r_index, return_inverse=True)
    count_BC = np.bincount(dataset_n * len(cells) + inverse, minlength=len(start_BS) * len(cells)).reshape(len(start_BS), -1)
    rest, r_C = np.divmod(cells, len(rewards))
    rest, next_C = np.divmod(rest, states + 1)
    rest, a_C = np.divmod(rest, actions)
    start_C, s_C = np.divmod(rest, states)
    return Cells(s_C, a_C, next_C - 1, rewards[r_C].astype(float), start_C - 1, count_BC.astype(float), np.asarray(start_BS, float))


def drop_into_the_unknown(cells: Cells, states: int) -> Cells:
    """Remove, until none is left, transitions into states that the dataset never leaves."""
    leave, count_BC = segment_sums(cells.s_C, states), cells.count_BC
    while True:
        known_BC = (leave(count_BC)[:, cells.next_C] > 0) | (cells.next_C < 0)
        if (known_BC | (count_BC == 0)).all():
            return replace(cells, count_BC=count_BC)
        count_BC = count_BC * known_BC


class Model:
    """The saddle point of weighted cells, batched; call it with weights (w_BJC, v_BJS) as `bounds.bounds` does.

    Args:
        ratio_SA: pi / behaviour, for the state-only ratio; otherwise as in `bounds`.
    """

    def __init__(self, cells: Cells, policy_SA: np.ndarray, gamma: float, unseen: Unseen = "restrict", ratio_SA: np.ndarray | None = None, device: str = "cpu"):
        S, A = policy_SA.shape
        if unseen == "restrict" and gamma > 0:
            cells = drop_into_the_unknown(cells, S)
        self.cells, self.gamma, self.gamma_C = cells, gamma, np.where(cells.next_C >= 0, gamma, 0.0)
        if ratio_SA is None:
            self.key_C, self.state_K = cells.s_C * A + cells.a_C, np.arange(S * A) // A
            self.sums = segment_sums(self.key_C, S * A)
            seen_BSA = (self.sums(cells.count_BC) > 0).reshape(-1, S, A)
            policy_BSA = restrict(policy_SA, seen_BSA) if unseen == "restrict" else policy_SA[None]
            self.mass_B1K = policy_BSA.reshape(len(policy_BSA), 1, S * A)  # pi(a|s) of each pair
            self.importance_C = np.ones(len(cells.s_C))
        else:
            self.key_C, self.state_K = cells.s_C, np.arange(S)
            self.sums = segment_sums(cells.s_C, S)
            self.mass_B1K = np.ones((1, 1, S))
            self.importance_C = ratio_SA[cells.s_C, cells.a_C]
        self.mass_B1C = self.mass_B1K[..., self.key_C]
        self.solver = Solver(cells.s_C, cells.next_C, S, self.gamma_C, device)
        self.to_states = segment_sums(cells.s_C, S)

    def terms(self, w_BJC: np.ndarray, v_BJS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(V_BJS, Q of each cell's pair [B, J, C], tau of each cell [B, J, C]); tau holds the action ratio in the state-only form."""
        r_C, key = self.cells.r_C, self.key_C
        iw_BJC = self.importance_C * w_BJC
        q_BJK = self.sums(iw_BJC)
        per_q_BJK = np.where(q_BJK > 0, 1 / np.where(q_BJK > 0, q_BJK, 1), 0.0)
        step_BJC = self.mass_B1C * iw_BJC * per_q_BJK[..., key]  # the share of each cell in what follows its state under pi
        V_BJS, d_BJS = self.solver(step_BJC, self.to_states(step_BJC * r_C), (1 - self.gamma) * v_BJS)
        Q_BJK = self.sums(iw_BJC * (r_C + self.gamma_C * V_BJS[..., self.cells.next_C])) * per_q_BJK
        tau_BJK = d_BJS[..., self.state_K] * self.mass_B1K * per_q_BJK
        return V_BJS, Q_BJK[..., key], tau_BJK[..., key] * self.importance_C

    def __call__(self, w_BJC: np.ndarray, v_BJS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rho_BJ, td_BJC, first_BJS), see the head of this module and `bounds.Saddle`."""
        V_BJS, Q_BJC, tau_BJC = self.terms(w_BJC, v_BJS)
        first_BJS = (1 - self.gamma) * V_BJS
        td_BJC = tau_BJC * (self.cells.r_C + self.gamma_C * V_BJS[..., self.cells.next_C] - Q_BJC)
        return (first_BJS * v_BJS).sum(-1), td_BJC, first_BJS


def bounds(
    cells: Cells,
    policy_SA: np.ndarray,
    gamma: float,
    levels: np.ndarray,
    divergence: DivergenceName = "kl",
    pairing: Pairing = "two_sample",
    unseen: Unseen = "restrict",
    ratio_SA: np.ndarray | None = None,
    tol: float = 1e-9,
    rounds: int = 60,
    device: str = "cpu",
) -> Bounds:
    """Intervals of every dataset and level.

    Args:
        cells: from `compress`, made with the same `pairing`.
        policy_SA: the target policy; ratio_SA: pi / behaviour, for the state-only ratio; unseen: see the head of this module.
        levels, divergence, tol, rounds: as in `bounds.bounds`; device: where large systems are inverted.
    """
    model = Model(cells, policy_SA, gamma, unseen, ratio_SA, device)
    ball = Ball(model.cells.count_BC, model.cells.start_BS, model.cells.start_C, divergence, pairing)
    return fixed_point.bounds(model, ball, levels, tol, rounds)
