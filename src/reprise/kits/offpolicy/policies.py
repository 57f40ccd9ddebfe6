"""Target and behaviour policies, computed from the environment. A tabular policy is an array policy_SA of probabilities."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reprise.errors import ReproError
from reprise.kits.offpolicy.tables import Table, optimal_values


def deterministic(a_S: np.ndarray, actions: int) -> np.ndarray:
    """The policy that takes action a_S[s] in state s, [S, A]."""
    return np.eye(actions)[a_S]


def greedy(table: Table, gamma: float) -> np.ndarray:
    """An optimal policy, [S, A]; the first of the best actions where values tie up to rounding."""
    Q_SA = optimal_values(table, gamma)
    return deterministic((Q_SA >= Q_SA.max(-1, keepdims=True) - 1e-10).argmax(-1), table.actions)


def softmax(table: Table, gamma: float, temperature: float) -> np.ndarray:
    """exp(Q* / temperature), normalised in each state, [S, A]."""
    Q_SA = optimal_values(table, gamma)
    p_SA = np.exp((Q_SA - Q_SA.max(-1, keepdims=True)) / temperature)
    return p_SA / p_SA.sum(-1, keepdims=True)


def shortest_path(table: Table, target: int) -> np.ndarray:
    """The way to `target` in a deterministic table, [S, A], by breadth-first search from it.

    Of the cells that lead into the one at hand, those by action 0 are taken first; the first way found wins, and the
    target itself takes action 0: the order of the official GridWalk policy.

    Raises:
        ReproError: a transition is random, or a state cannot reach the target.
    """
    if not np.isin(table.P_SAS, (0.0, 1.0)).all():
        raise ReproError("shortest_path needs deterministic transitions: use `greedy` for a random table")
    next_SA = table.P_SAS.argmax(-1)
    action_S = np.full(table.states, -1)
    action_S[target] = 0
    queue = deque([target])
    while queue:
        cell = queue.popleft()
        for action in range(table.actions):
            for source in np.flatnonzero((next_SA[:, action] == cell) & (action_S < 0)):
                action_S[source] = action
                queue.append(source)
    if (action_S < 0).any():
        raise ReproError(f"state {int((action_S < 0).argmax())} cannot reach state {target}: choose another target")
    return deterministic(action_S, table.actions)


def mix(policy_SA: np.ndarray, epsilon: float, other_SA: np.ndarray | None = None) -> np.ndarray:
    """(1 - epsilon) policy + epsilon other; `other` is uniform if not given."""
    return (1 - epsilon) * policy_SA + epsilon * (1 / policy_SA.shape[-1] if other_SA is None else other_SA)


def restrict(policy_SA: np.ndarray, seen_SA: np.ndarray) -> np.ndarray:
    """The policy renormalised over the actions seen in each state, [..., S, A]; unchanged where none was."""
    p_SA = policy_SA * (seen_SA > 0)
    total_S1 = p_SA.sum(-1, keepdims=True)
    return np.where(total_S1 > 0, p_SA / np.where(total_S1 > 0, total_S1, 1), policy_SA)


def sampler(policy_SA: np.ndarray) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """A function (s_N, rng) -> a_N that draws actions."""
    cdf_SA = np.cumsum(policy_SA, -1)[:, :-1]
    return lambda s_N, rng: (rng.random(len(s_N))[:, None] >= cdf_SA[s_N]).sum(-1)


# -- policies of continuous states ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Threshold:
    """Two actions: a = 1 where w . x > 0, mixed with uniform actions by epsilon. The default w balances CartPole,
    x = (position, velocity, angle, angular velocity): a linear feedback in place of a trained network."""

    epsilon: float
    w_D: tuple[float, ...] = (0.02, 0.05, 1.0, 0.3)

    def probabilities(self, x_ND: np.ndarray) -> np.ndarray:
        """pi(a|x), [N, 2]."""
        right_N = np.where(x_ND @ np.array(self.w_D) > 0, 1 - self.epsilon / 2, self.epsilon / 2)
        return np.stack([1 - right_N, right_N], -1)

    def sample(self, x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions a_N in {0, 1}."""
        return (rng.random(len(x_ND)) < self.probabilities(x_ND)[:, 1]).astype(np.int64)


@dataclass(frozen=True)
class Gaussian:
    """a = mean(x) + sd * standard normal, independent in each of K action variables."""

    mean: Callable[[np.ndarray], np.ndarray]
    sd: float

    def sample(self, x_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions a_NK."""
        mean_NK = self.mean(x_ND)
        return mean_NK + self.sd * rng.standard_normal(mean_NK.shape)

    def log_density(self, x_ND: np.ndarray, a_NK: np.ndarray) -> np.ndarray:
        """log pi(a|x), [N]."""
        z_NK = (a_NK - self.mean(x_ND)) / self.sd
        return -(z_NK**2 / 2 + np.log(self.sd) + np.log(2 * np.pi) / 2).sum(-1)


def linear(gain_KD: np.ndarray, sd: float) -> Gaussian:
    """The feedback a = gain x + sd * normal (for `simulate.LQR`)."""
    gain_KD = np.asarray(gain_KD, float)
    return Gaussian(lambda x_ND: x_ND @ gain_KD.T, sd)


LINK_1, LINK_2 = 0.1, 0.11  # metres, Reacher's arm


def fingertip(q_N2: np.ndarray) -> np.ndarray:
    """Where Reacher's arm ends for joint angles q (radians), metres, [N, 2]."""
    first_N, both_N = q_N2[:, 0], q_N2.sum(-1)
    return np.stack([LINK_1 * np.cos(first_N) + LINK_2 * np.cos(both_N), LINK_1 * np.sin(first_N) + LINK_2 * np.sin(both_N)], -1)


def jacobian(q_N2: np.ndarray) -> np.ndarray:
    """d fingertip / d q, [N, 2 (x, y), 2 (joint)]."""
    first_N, both_N = q_N2[:, 0], q_N2.sum(-1)
    second_N2 = LINK_2 * np.stack([-np.sin(both_N), np.cos(both_N)], -1)
    return np.stack([LINK_1 * np.stack([-np.sin(first_N), np.cos(first_N)], -1) + second_N2, second_N2], -1)


def reach(sd: float, gain: float = 10.0, damping: float = 0.05) -> Gaussian:
    """Reacher's analytic controller u = gain J' (target - fingertip) - damping qdot, plus noise (for `simulate.Reacher`)."""

    def mean(x_ND: np.ndarray) -> np.ndarray:
        e_N2 = x_ND[:, 4:6] - fingertip(x_ND[:, :2])
        return gain * np.einsum("nij,ni->nj", jacobian(x_ND[:, :2]), e_N2) - damping * x_ND[:, 2:4]

    return Gaussian(mean, sd)
