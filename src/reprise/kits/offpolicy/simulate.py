"""Batched simulators: all trajectories advance together, one NumPy step for all of them.

An environment has `start(n, rng) -> x_ND` and `step(x_ND, a, rng) -> (x'_ND, r_N)`; `tables.Table` is one (its states are
integers x_N). The continuous ones also have `observe(x_ND)`, what a network should see. A policy is an array policy_SA, or
has `sample(x, rng) -> a`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from reprise.errors import ReproError
from reprise.kits.offpolicy.policies import Gaussian, Threshold, fingertip, sampler
from reprise.kits.offpolicy.tables import Table


@dataclass(frozen=True)
class Trajectories:
    """N trajectories of T steps: s and s_next [N, T] (integers) or [N, T, D], a [N, T] or [N, T, K], r [N, T]."""

    s: np.ndarray
    a: np.ndarray
    r: np.ndarray
    s_next: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """Initial states, [N] or [N, D]."""
        return self.s[:, 0]

    def __getitem__(self, index: object) -> "Trajectories":
        """Some of the trajectories, `data[:20]`."""
        return Trajectories(self.s[index], self.a[index], self.r[index], self.s_next[index])


def _act(policy: np.ndarray | Threshold | Gaussian):
    return sampler(policy) if isinstance(policy, np.ndarray) else policy.sample


def rollout(env, policy, n: int, steps: int, rng: np.random.Generator) -> Trajectories:
    """Simulate n trajectories of `steps` steps."""
    act, x, rows = _act(policy), env.start(n, rng), []
    for _ in range(steps):
        a = act(x, rng)
        after, r_N = env.step(x, a, rng)
        rows.append((x, a, r_N, after))
        x = after
    return Trajectories(*(np.stack(column, 1) for column in zip(*rows, strict=True)))


def monte_carlo(env, policy, gamma: float, n: int, steps: int, rng: np.random.Generator) -> tuple[float, float]:
    """rho by n fresh trajectories, with its standard error; `steps` must be long enough that gamma^steps is negligible."""
    act, x, total_N = _act(policy), env.start(n, rng), np.zeros(n)
    for t in range(steps):
        x, r_N = env.step(x, act(x, rng), rng)
        total_N += gamma**t * r_N
    total_N *= (1 - gamma) / (1 - gamma**steps)
    return float(total_N.mean()), float(total_N.std(ddof=1) / np.sqrt(n))


def counts(data: Trajectories, table: Table, datasets: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sufficient statistics of tabular data cut into equal datasets: transitions count_BSAS and initial states start_BS.

    Raises:
        ReproError: the trajectories do not divide evenly.
    """
    n = len(data.r)
    if n % datasets:
        raise ReproError(f"{n} trajectories do not divide into {datasets} datasets: choose a multiple")
    S, A = table.states, table.actions
    b_N = np.repeat(np.arange(datasets), n // datasets)
    cell_NT = ((b_N[:, None] * S + data.s) * A + data.a) * S + data.s_next
    count = np.bincount(cell_NT.ravel(), minlength=datasets * S * A * S).astype(float)
    start = np.bincount(b_N * S + data.start, minlength=datasets * S).astype(float)
    return count.reshape(datasets, S, A, S), start.reshape(datasets, S)


# -- continuous environments ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CartPole:
    """gymnasium's CartPole (Euler steps of .02 s) that never ends: reward 1 while upright, -1 once the classic test says it
    fell, and the state goes on evolving. x = (position m, velocity, angle rad, angular velocity), a in {0: left, 1: right}."""

    actions: int = 2

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """x_N4 uniform in +-.05."""
        return rng.uniform(-0.05, 0.05, (n, 4))

    def step(self, x_N4: np.ndarray, a_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(x'_N4, r_N); deterministic."""
        position, velocity, angle, spin = x_N4.T
        gravity, mass_cart, mass_pole, half, dt = 9.8, 1.0, 0.1, 0.5, 0.02
        force, mass = np.where(a_N == 1, 10.0, -10.0), mass_cart + mass_pole
        cos, sin = np.cos(angle), np.sin(angle)
        temp = (force + mass_pole * half * np.square(spin) * sin) / mass
        spin_dot = (gravity * sin - cos * temp) / (half * (4.0 / 3.0 - mass_pole * np.square(cos) / mass))
        velocity_dot = temp - mass_pole * half * spin_dot * cos / mass
        next_N4 = np.stack([position + dt * velocity, velocity + dt * velocity_dot, angle + dt * spin, spin + dt * spin_dot], -1)
        upright_N = (np.abs(next_N4[:, 0]) <= 2.4) & (np.abs(next_N4[:, 2]) <= 12 * 2 * np.pi / 360)
        return next_N4, np.where(upright_N, 1.0, -1.0)

    def observe(self, x_N4: np.ndarray) -> np.ndarray:
        """Scaled and clipped to [-2, 2]: position and angle run away after a fall, [N, 4]."""
        return np.clip(x_N4 / np.array([1.2, 1.5, 0.1, 1.5]), -2, 2)


@dataclass(frozen=True)
class LQR:
    """A noisy linear system with quadratic cost: the value of a linear-Gaussian policy is exact, by a Lyapunov equation.

    s' = A s + B a + noise, r = -(s' C s + cost a^2), s0 ~ N(0, start_sd^2 I); two state variables, one action.
    """

    A_DD: tuple = ((0.9, 0.3), (-0.1, 0.8))
    B_DK: tuple = ((0.0,), (0.4,))
    C_D: tuple = (1.0, 0.3)
    cost: float = 0.1
    noise_sd: float = 0.2
    start_sd: float = 0.7

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """s_ND."""
        return self.start_sd * rng.standard_normal((n, len(self.C_D)))

    def step(self, s_ND: np.ndarray, a_NK: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(s'_ND, r_N)."""
        r_N = -(np.square(s_ND) @ np.array(self.C_D) + self.cost * np.square(a_NK).sum(-1))
        noise_ND = self.noise_sd * rng.standard_normal(s_ND.shape)
        return s_ND @ np.array(self.A_DD).T + a_NK @ np.array(self.B_DK).T + noise_ND, r_N

    def observe(self, s_ND: np.ndarray) -> np.ndarray:
        """The state as it is, [N, D]."""
        return s_ND

    def value_matrix(self, gain_KD: np.ndarray, sd: float, gamma: float) -> tuple[np.ndarray, float]:
        """(P_DD, c) with V(s) = -(s' P s + c) under a = gain s + sd * normal.

        P = C + cost K'K + gamma Ac' P Ac, Ac = A + B K;  c = (cost sd^2 + gamma tr(P W)) / (1 - gamma).
        """
        from scipy.linalg import solve_discrete_lyapunov

        A_DD, B_DK, K_KD = np.array(self.A_DD), np.array(self.B_DK), np.asarray(gain_KD, float)
        closed_DD = A_DD + B_DK @ K_KD
        P_DD = solve_discrete_lyapunov(np.sqrt(gamma) * closed_DD.T, np.diag(self.C_D) + self.cost * K_KD.T @ K_KD)
        W_DD = self.noise_sd**2 * np.eye(len(A_DD)) + sd**2 * B_DK @ B_DK.T
        return P_DD, float((self.cost * sd**2 * len(K_KD) + gamma * np.trace(P_DD @ W_DD)) / (1 - gamma))

    def value(self, gain_KD: np.ndarray, sd: float, gamma: float) -> float:
        """rho exactly: -(1 - gamma) (start_sd^2 tr P + c)."""
        P_DD, c = self.value_matrix(gain_KD, sd, gamma)
        return float(-(1 - gamma) * (self.start_sd**2 * np.trace(P_DD) + c))


@dataclass(frozen=True)
class Reacher:
    """MuJoCo's Reacher without MuJoCo: each joint obeys qddot = 200 u - qdot, since the armature outweighs the links.

    x = (two joint angles, their velocities, target x, target y); u clipped to [-1, 1]; two RK4 steps of .01 s. Reward, of the
    state after the step: -distance of the fingertip from the target - ||u||^2. With probability `reset` a step ends in a
    fresh initial state (the infinite Reacher; 0 for the episodes of 50 steps).
    """

    reset: float = 0.03

    def start(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """x_N6: angles within +-.1 rad, velocities within +-.005 rad/s, target uniform in a disk of radius .2 m."""
        radius_N, turn_N = 0.2 * np.sqrt(rng.random(n)), 2 * np.pi * rng.random(n)
        target_N2 = radius_N[:, None] * np.stack([np.cos(turn_N), np.sin(turn_N)], -1)
        return np.concatenate([rng.uniform(-0.1, 0.1, (n, 2)), rng.uniform(-0.005, 0.005, (n, 2)), target_N2], -1)

    def physics(self, x_N6: np.ndarray, u_N2: np.ndarray) -> np.ndarray:
        """The state .02 s later, u in [-1, 1]. RK4 on a linear equation: the Taylor series to fourth order."""
        q_N2, v_N2, dt = x_N6[:, :2], x_N6[:, 2:4], 0.01
        for _ in range(2):
            force_N2 = 200 * u_N2 - v_N2
            q_N2 = q_N2 + dt * v_N2 + (dt**2 / 2 - dt**3 / 6 + dt**4 / 24) * force_N2
            v_N2 = v_N2 + (dt - dt**2 / 2 + dt**3 / 6 - dt**4 / 24) * force_N2
        return np.concatenate([q_N2, v_N2, x_N6[:, 4:]], -1)

    def step(self, x_N6: np.ndarray, u_N2: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(x'_N6, r_N)."""
        next_N6 = self.physics(x_N6, np.clip(u_N2, -1, 1))
        gap_N = np.hypot(*(fingertip(next_N6[:, :2]) - next_N6[:, 4:]).T)
        r_N = -gap_N - np.square(u_N2).sum(-1)
        fresh_N = rng.random(len(x_N6)) < self.reset
        next_N6[fresh_N] = self.start(int(fresh_N.sum()), rng)
        return next_N6, r_N

    def observe(self, x_N6: np.ndarray) -> np.ndarray:
        """As gymnasium's Reacher-v5: cos q, sin q, target, qdot (here / 10), fingertip - target, lengths in .1 m, [N, 10]."""
        q_N2, target_N2 = x_N6[:, :2], x_N6[:, 4:]
        return np.concatenate([np.cos(q_N2), np.sin(q_N2), 10 * target_N2, x_N6[:, 2:4] / 10, 10 * (fingertip(q_N2) - target_N2)], -1)


class MujocoReacher(Reacher):
    """The same task with MuJoCo's physics on gymnasium's model file, one row after the other (about 1e4 steps a second)."""

    @cached_property
    def _simulation(self):
        """Model and data; the file is read from gymnasium's folder, since importing its classes would need a renderer."""
        import gymnasium
        import mujoco

        model = mujoco.MjModel.from_xml_path(str(Path(gymnasium.__file__).parent / "envs/mujoco/assets/reacher.xml"))
        return mujoco, model, mujoco.MjData(model)

    def physics(self, x_N6: np.ndarray, u_N2: np.ndarray) -> np.ndarray:
        """The state .02 s later, by two steps of MuJoCo's own RK4."""
        mujoco, model, data = self._simulation
        next_N6 = x_N6.copy()
        for x_6, u_2 in zip(next_N6, u_N2, strict=True):
            data.qpos[:2], data.qpos[2:] = x_6[:2], x_6[4:]
            data.qvel[:2], data.qvel[2:] = x_6[2:4], 0.0
            data.qacc_warmstart[:] = 0.0  # a step depends on its state alone
            data.ctrl[:] = u_2
            mujoco.mj_step(model, data, nstep=2)
            x_6[:2], x_6[2:4] = data.qpos[:2], data.qvel[:2]
        return next_N6
