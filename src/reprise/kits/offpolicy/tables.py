"""Finite Markov decision processes that never end, as arrays, and what a linear solve says about them exactly.

Every function takes leading batch axes: an empirical model of many datasets is one `Table` too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Table:
    """An MDP: transition probabilities P_SAS [..., s, a, s'], rewards R_SAS (broadcast to it), initial states mu0_S.

    A reward is a function of (s, a, s'); give R_SAS the shape (S, A, 1) where s' does not matter, (1, 1, S) where only
    s' does. A row of P_SAS may be all zero in an empirical model: the pair was never seen, and is worth 0.
    """

    P_SAS: np.ndarray
    R_SAS: np.ndarray
    mu0_S: np.ndarray

    @property
    def states(self) -> int:
        """The number of states S."""
        return self.P_SAS.shape[-1]

    @property
    def actions(self) -> int:
        """The number of actions A."""
        return self.P_SAS.shape[-2]

    @cached_property
    def R_SA(self) -> np.ndarray:
        """Expected reward of each pair [..., S, A]."""
        R_SAS = np.broadcast_to(self.R_SAS, np.broadcast_shapes(self.R_SAS.shape, self.P_SAS.shape))
        return np.einsum("...ijk,...ijk->...ij", self.P_SAS, R_SAS)

    @cached_property
    def _successors(self) -> tuple[np.ndarray, np.ndarray]:
        """The states that a pair can lead to, next_SAK, and their cumulated probabilities cdf_SAK; K the most there are."""
        most = int((self.P_SAS > 0).sum(-1).max())
        next_SAK = np.argsort(self.P_SAS <= 0, axis=-1, kind="stable")[..., :most].copy()
        cdf_SAK = np.cumsum(np.take_along_axis(self.P_SAS, next_SAK, -1), -1)
        return next_SAK, cdf_SAK / cdf_SAK[..., -1:]

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Initial states s_N."""
        return _draw(np.cumsum(self.mu0_S)[None], rng.random(n))

    def step(self, s_N: np.ndarray, a_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Next states and rewards (s'_N, r_N)."""
        next_SAK, cdf_SAK = self._successors
        k_N = _draw(cdf_SAK[s_N, a_N], rng.random(len(s_N)))
        next_N = next_SAK[s_N, a_N, k_N]
        R_SAS = np.broadcast_to(self.R_SAS, self.P_SAS.shape)
        return next_N, R_SAS[s_N, a_N, next_N]


def _draw(cdf_NK: np.ndarray, u_N: np.ndarray) -> np.ndarray:
    """Indices with the cumulated probabilities of each row, by inversion of uniform numbers."""
    return np.minimum((u_N[:, None] >= cdf_NK).sum(-1), cdf_NK.shape[-1] - 1)


# -- exact quantities -------------------------------------------------------------------------------------------------


def transitions(table: Table, policy_SA: np.ndarray) -> np.ndarray:
    """P^pi over states [..., S, S]."""
    return np.einsum("...iaj,...ia->...ij", table.P_SAS, policy_SA)


def state_values(table: Table, policy_SA: np.ndarray, gamma: float) -> np.ndarray:
    """V = (I - gamma P^pi)^-1 r^pi, [..., S]."""
    r_S = (table.R_SA * policy_SA).sum(-1)
    return np.linalg.solve(np.eye(table.states) - gamma * transitions(table, policy_SA), r_S[..., None])[..., 0]


def action_values(table: Table, policy_SA: np.ndarray, gamma: float) -> np.ndarray:
    """Q = r + gamma P V, [..., S, A]."""
    V_S = state_values(table, policy_SA, gamma)
    return table.R_SA + gamma * (table.P_SAS @ V_S[..., None, :, None])[..., 0]


def occupancy(table: Table, policy_SA: np.ndarray, gamma: float) -> np.ndarray:
    """Discounted visitation d = (1 - gamma) (I - gamma P^pi)^-T mu0, times pi: [..., S, A], sums to 1."""
    P_SS = transitions(table, policy_SA)
    mu0_S = np.broadcast_to(table.mu0_S, P_SS.shape[:-1])
    d_S = np.linalg.solve(np.eye(table.states) - gamma * P_SS.swapaxes(-1, -2), (1 - gamma) * mu0_S[..., None])[..., 0]
    return d_S[..., None] * policy_SA


def value(table: Table, policy_SA: np.ndarray, gamma: float) -> np.ndarray:
    """rho = (1 - gamma) mu0' V, [...]."""
    return (1 - gamma) * (table.mu0_S * state_values(table, policy_SA, gamma)).sum(-1)


def visitation(table: Table, policy_SA: np.ndarray, steps: int) -> np.ndarray:
    """Share of each pair in trajectories of `steps` steps, in expectation: the exact d^D, [..., S, A]."""
    P_SS = transitions(table, policy_SA)
    now_S = np.broadcast_to(table.mu0_S, P_SS.shape[:-1])
    total_S = np.zeros_like(now_S)
    for _ in range(steps):
        total_S = total_S + now_S
        now_S = (now_S[..., None, :] @ P_SS)[..., 0, :]
    return total_S[..., None] / steps * policy_SA


def stationary(table: Table, policy_SA: np.ndarray) -> np.ndarray:
    """The stationary state distribution of a policy whose chain has one, [..., S]."""
    system_SS = np.eye(table.states) - transitions(table, policy_SA).swapaxes(-1, -2)
    system_SS[..., -1, :] = 1.0  # one balance equation follows from the others; this one fixes the sum
    one_S = np.zeros(system_SS.shape[:-1])
    one_S[..., -1] = 1.0
    return np.linalg.solve(system_SS, one_S[..., None])[..., 0]


def optimal_values(table: Table, gamma: float) -> np.ndarray:
    """Q* [S, A] by policy iteration, which is exact after finitely many linear solves."""
    policy_SA = np.full((table.states, table.actions), 1 / table.actions)
    while True:
        Q_SA = action_values(table, policy_SA, gamma)
        kept = (policy_SA * Q_SA).sum(-1) >= Q_SA.max(-1) - 1e-10  # keeps an action that ties, so the iteration ends
        if kept.all():
            return Q_SA
        best_SA = np.eye(table.actions)[Q_SA.argmax(-1)]
        policy_SA = np.where(kept[:, None], policy_SA, best_SA)


# -- environments -----------------------------------------------------------------------------------------------------


def _grid(free_XY: np.ndarray, R_X: Callable[[np.ndarray], np.ndarray]) -> Table:
    """Deterministic moves 0: +x, 1: +y, 2: -x, 3: -y on the free cells, staying where the way is barred; uniform start."""
    cell_SD = np.argwhere(free_XY)
    index_XY = np.full(free_XY.shape, -1)
    index_XY[tuple(cell_SD.T)] = np.arange(len(cell_SD))
    moved_SAD = cell_SD[:, None] + np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    inside_SA = ((moved_SAD >= 0) & (moved_SAD < free_XY.shape)).all(-1)
    moved_SAD = np.where(inside_SA[..., None], moved_SAD, cell_SD[:, None])
    next_SA = index_XY[tuple(np.moveaxis(moved_SAD, -1, 0))]
    next_SA = np.where(next_SA < 0, np.arange(len(cell_SD))[:, None], next_SA)
    return Table(np.eye(len(cell_SD))[next_SA], R_X(cell_SD)[None, None].astype(float), np.full(len(cell_SD), 1 / len(cell_SD)))


def gridwalk(length: int = 10) -> Table:
    """GridWalk: a length x length grid; the reward exp(-2 dist / length) falls with the L1 distance of the *new* cell
    from the last corner. State x * length + y."""
    return _grid(np.ones((length, length), bool), lambda cell_SD: np.exp(-2 * (2 * (length - 1) - cell_SD.sum(-1)) / length))


FOUR_ROOMS = """\
.....#.....
.....#.....
...........
.....#.....
.....#.....
#.####.....
.....###.##
.....#.....
.....#.....
...........
.....#....."""  # the rooms of Sutton, Precup and Singh (1999), outer walls left out


def fourrooms() -> Table:
    """FourRooms: 104 free cells of 11 x 11, reward 1 on entering (or staying in) the cell (9, 9)."""
    free_XY = np.array([[c == "." for c in line] for line in FOUR_ROOMS.splitlines()])
    return _grid(free_XY, lambda cell_SD: (cell_SD == 9).all(-1))


def from_gymnasium(name: str, **options: object) -> Table:
    """A toy-text environment of gymnasium, made infinite: an end state is still observed, then the next transition leaves
    from an initial state. `from_gymnasium("FrozenLake-v1")`: 16 states, 4 actions, reward 1 on reaching the goal."""
    import gymnasium

    env = gymnasium.make(name, **options).unwrapped
    states, actions = env.observation_space.n, env.action_space.n
    P_SAS, gain_SAS, ends_S = np.zeros((states, actions, states)), np.zeros((states, actions, states)), np.zeros(states, bool)
    for s, of_state in env.P.items():
        for a, outcomes in of_state.items():
            for probability, successor, reward, terminated in outcomes:
                P_SAS[s, a, successor] += probability
                gain_SAS[s, a, successor] += probability * reward
                ends_S[successor] |= terminated
    mu0_S = np.asarray(env.initial_state_distrib, float)
    P_SAS[ends_S], gain_SAS[ends_S] = (np.einsum("i,iaj->aj", mu0_S, x_SAS) for x_SAS in (P_SAS, gain_SAS))
    P_SAS /= P_SAS.sum(-1, keepdims=True)  # gymnasium's thirds sum to 1 up to rounding
    return Table(P_SAS, gain_SAS / np.where(P_SAS > 0, P_SAS, 1), mu0_S)


def frozenlake() -> Table:
    """The slippery 4x4 FrozenLake, infinite: every state and its moves read from gymnasium."""
    return from_gymnasium("FrozenLake-v1", map_name="4x4", is_slippery=True)


def taxi(length: int = 5) -> Table:
    """The taxi whose passengers come and go: 16 * 5 * length^2 states, 6 actions (+x, +y, -x, -y, pick up, drop).

    State t + 5 (u + 16 (x length + y)): t where the passenger wants to go (4: taxi empty), u which corners have someone
    waiting, as bits. Picking up clears the corner's bit and draws another corner as destination; dropping pays 20 at the
    destination and empties the taxi anywhere; all else pays -1. After every action each corner's passenger appears or
    leaves. Start: any cell, any u, taxi empty.
    """
    appear_C, leave_C = np.array([0.3, 0.05, 0.1, 0.2]), np.array([0.05, 0.1, 0.1, 0.05])
    bit_UC = np.arange(16)[:, None] >> np.arange(4) & 1
    flip_UC = np.where(bit_UC, leave_C, appear_C)
    change_UU = np.where(bit_UC[:, None] != bit_UC[None], flip_UC[:, None], 1 - flip_UC[:, None]).prod(-1)
    corner = {(0, 0): 0, (0, length - 1): 1, (length - 1, 0): 2, (length - 1, length - 1): 3}

    states = 80 * length**2
    P_SAS, R_SA = np.zeros((states, 6, states)), np.full((states, 6, 1), -1.0)
    for s in range(states):
        t, u, x, y = s % 5, s // 5 % 16, s // 80 // length, s // 80 % length
        c = corner.get((x, y))
        for a in range(6):
            x2, y2, u2, t2 = x, y, u, [t]
            if a < 4:
                x2 = min(max(x + (1, 0, -1, 0)[a], 0), length - 1)
                y2 = min(max(y + (0, 1, 0, -1)[a], 0), length - 1)
            elif a == 4 and c is not None and u >> c & 1:
                u2, t2 = u & ~(1 << c), [d for d in range(4) if d != c]
            elif a == 5:
                R_SA[s, a] = 20.0 if t < 4 and c == t else -1.0
                t2 = [4]
            for d in t2:
                P_SAS[s, a, d + 5 * (np.arange(16) + 16 * (x2 * length + y2))] += change_UU[u2] / len(t2)
    mu0_S = np.where(np.arange(states) % 5 == 4, 1 / (16 * length**2), 0.0)
    return Table(P_SAS, R_SA, mu0_S)


def random_mdp(states: int, actions: int, rng: np.random.Generator, concentration: float = 0.5) -> Table:
    """Dirichlet transitions and initial states, rewards uniform on [0, 1] for each pair."""
    P_SAS = rng.dirichlet(np.full(states, concentration), (states, actions))
    return Table(P_SAS, rng.random((states, actions, 1)), rng.dirichlet(np.ones(states)))


def bandit(mean_A: np.ndarray) -> Table:
    """A Bernoulli bandit for gamma = 0 and one step: state 0 to begin with, then 1 after a win and 0 after a loss."""
    mean_A = np.asarray(mean_A, float)
    P_AS = np.stack([1 - mean_A, mean_A], -1)
    return Table(np.stack([P_AS, P_AS]), np.array([0.0, 1.0])[None, None], np.array([1.0, 0.0]))


# -- from data --------------------------------------------------------------------------------------------------------


def empirical(count_SAS: np.ndarray, R_SAS: np.ndarray, start_S: np.ndarray) -> Table:
    """The maximum-likelihood model of counted transitions [..., S, A, S] and initial states [..., S].

    The row of a pair that was never seen is zero, so the pair is worth 0; see `policies.restrict` for the remedy.
    """
    seen_SA1 = count_SAS.sum(-1, keepdims=True)
    return Table(count_SAS / np.maximum(seen_SA1, 1e-300), R_SAS, start_S / start_S.sum(-1, keepdims=True))
