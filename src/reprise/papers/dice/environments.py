"""The problems of section 5: each an environment, a target policy, a behaviour policy and what a network sees of a state."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reprise.kits.offpolicy import policies, simulate, tables

Name = Literal["gridwalk", "fourrooms", "frozenlake", "taxi", "random", "cartpole", "reacher", "mujoco_reacher"]


@dataclass(frozen=True)
class Setting:
    """An evaluation problem; `features_SF` for finite ones, else the environment's own `observe`."""

    env: tables.Table | simulate.CartPole | simulate.Reacher
    target: np.ndarray | policies.Threshold | policies.Gaussian
    behaviour: np.ndarray | policies.Threshold | policies.Gaussian
    features_SF: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        """Whether it is a table, whose truths are exact."""
        return isinstance(self.env, tables.Table)


def setting(name: Name, size: int = 0, rng: np.random.Generator | None = None) -> Setting:
    """The problem `name`; `size` is the side of GridWalk and Taxi or the number of random states, ignored by the others.

    Grids: the shortest path, mixed with uniform actions by epsilon = .1 (target) and .7 (behaviour). FrozenLake: the optimal
    policy, .1 and .3. Taxi: softmax of Q* at temperature 1, .05 and .3. CartPole: the linear rule, .3 and .45. Reacher: the
    analytic controller with Gaussian noise .1 and .4. Random: a Dirichlet policy and uniform behaviour; needs `rng`.
    """
    if name == "gridwalk":
        grid = tables.gridwalk(size)
        xy_S2 = np.stack([np.arange(size**2) // size, np.arange(size**2) % size], -1)
        return _mixed(grid, policies.shortest_path(grid, size**2 - 1), 0.1, 0.7, 6 * xy_S2 / size - 3)
    if name == "fourrooms":
        rooms = tables.fourrooms()
        free_SD = np.argwhere([[c == "." for c in line] for line in tables.FOUR_ROOMS.splitlines()])
        return _mixed(rooms, policies.shortest_path(rooms, int(rooms.R_SAS.argmax())), 0.1, 0.7, _one_hots(free_SD))
    if name == "frozenlake":
        lake = tables.frozenlake()
        return _mixed(lake, policies.greedy(lake, 0.99), 0.1, 0.3, np.eye(16))
    if name == "taxi":
        taxi, s = tables.taxi(size), np.arange(80 * size**2)
        parts_SD = np.stack([s % 5, s // 80 // size, s // 80 % size, *(s // 5 >> c & 1 for c in range(4))], -1)
        return _mixed(taxi, policies.softmax(taxi, 0.99, 1.0), 0.05, 0.3, _one_hots(parts_SD))
    if name == "random":
        mdp = tables.random_mdp(size, 3, rng)
        target_SA = rng.dirichlet(np.ones(3), size)
        return Setting(mdp, target_SA, np.full((size, 3), 1 / 3), np.eye(size))
    if name == "cartpole":
        return Setting(simulate.CartPole(), policies.Threshold(0.3), policies.Threshold(0.45))
    reacher = simulate.Reacher() if name == "reacher" else simulate.MujocoReacher()
    return Setting(reacher, policies.reach(0.1), policies.reach(0.4))


def _mixed(table: tables.Table, policy_SA: np.ndarray, target: float, behaviour: float, features_SF: np.ndarray) -> Setting:
    return Setting(table, policies.mix(policy_SA, target), policies.mix(policy_SA, behaviour), features_SF)


def _one_hots(parts_SD: np.ndarray) -> np.ndarray:
    """One indicator for each value of each coordinate, [S, F]."""
    return np.concatenate([np.eye(column.max() + 1)[column] for column in parts_SD.T], -1)


def probabilities(policy, s: np.ndarray, a: np.ndarray) -> np.ndarray:
    """pi(a|s) of simulated steps (a density where actions are continuous), [N, T]."""
    if isinstance(policy, np.ndarray):
        return policy[s, a]
    flat_s, flat_a = s.reshape(-1, s.shape[-1]), a.reshape(-1, *a.shape[2:])
    if isinstance(policy, policies.Threshold):
        p = np.take_along_axis(policy.probabilities(flat_s), flat_a[:, None], -1)[:, 0]
    else:
        p = np.exp(policy.log_density(flat_s, flat_a))
    return p.reshape(a.shape[:2])
