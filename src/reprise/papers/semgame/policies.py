"""Policy evaluation as a structural equation: E[Q(S, A) - gamma Q(S', A') | S, A] = E[R | S, A], so c = (1, -gamma).

X_1 = Z = (S, A) from a behaviour policy, X_2 = (S', A') with A' from the evaluated one. Examples are independent: one
transition, at a random time, of each of n trajectories. Shapes as in `designs`; S states, A actions.
"""

from functools import cached_property
from typing import Literal

import gymnasium
import numpy as np
from pydantic import Field

from reprise.papers.semgame.designs import Design, Sample


class Evaluation(Design):
    """Base of the two: what they share is the moment and the two policies."""

    gamma: float = Field(ge=0, lt=1, description="discount")
    behaviour: float = Field(ge=0, le=1, description="share of the uniform policy in the data's policy")
    evaluated: float = Field(ge=0, le=1, description="share of the uniform policy in the evaluated policy")
    horizon: int = Field(gt=0, description="steps of a trajectory, from which one transition is taken")

    @property
    def c(self) -> list[float]:
        return [1.0, -self.gamma]


def pick(p_NA: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index from each row of probabilities, [N]."""
    return np.minimum((rng.random((len(p_NA), 1)) > p_NA.cumsum(1)).sum(1), p_NA.shape[1] - 1)


class Lake(Evaluation):
    """FrozenLake, slippery, 4x4; one-hot inputs. Holes and the goal are states that nothing leaves, with Q = 0."""

    kind: Literal["lake"] = Field(description="policy evaluation, FrozenLake")

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Transition probabilities p_SAS and mean rewards r_SA."""
        known = gymnasium.make("FrozenLake-v1").unwrapped.P
        states, actions = len(known), len(known[0])
        p_SAS, r_SA = np.zeros((states, actions, states)), np.zeros((states, actions))
        for s in range(states):
            for a in range(actions):
                for probability, after, reward, _ in known[s][a]:
                    p_SAS[s, a, after] += probability
                    r_SA[s, a] += probability * reward
        return p_SAS, r_SA

    def policy(self, uniform: float) -> np.ndarray:
        """The optimal policy, by value iteration, mixed with a share of the uniform one, [S, A]."""
        p_SAS, r_SA = self._table
        q_SA = np.zeros_like(r_SA)
        for _ in range(2000):
            q_SA = r_SA + self.gamma * p_SAS @ q_SA.max(1)
        actions = q_SA.shape[1]
        return (1 - uniform) * np.eye(actions)[q_SA.argmax(1)] + uniform / actions

    @cached_property
    def q_SA(self) -> np.ndarray:
        """The evaluated policy's Q, exactly: the solution of the Bellman equation."""
        p_SAS, r_SA = self._table
        move_SASA = p_SAS[..., None] * self.policy(self.evaluated)
        pairs = r_SA.size
        return np.linalg.solve(np.eye(pairs) - self.gamma * move_SASA.reshape(pairs, pairs), r_SA.ravel()).reshape(r_SA.shape)

    def truth(self, x_ND: np.ndarray) -> np.ndarray:
        states = len(self.q_SA)
        return self.q_SA[x_ND[:, :states].argmax(1), x_ND[:, states:].argmax(1)]

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        (p_SAS, r_SA), behaviour_SA, evaluated_SA = self._table, self.policy(self.behaviour), self.policy(self.evaluated)
        state, when = np.zeros(n, int), rng.integers(0, self.horizon, n)
        for t in range(self.horizon):
            action = pick(behaviour_SA[state], rng)
            after = pick(p_SAS[state, action], rng)
            if t == 0:
                taken = np.stack([state, action, after])
            taken[:, when == t] = np.stack([state, action, after])[:, when == t]
            state = after
        s, a, after = taken
        # The reward has mean r(s, a) given (S, A, S') here too: it is paid for entering the goal, from where nothing is gained any more.
        reward = (after == p_SAS.shape[0] - 1) & (s != p_SAS.shape[0] - 1)
        x_NKD = np.stack([self.one_hot(s, a), self.one_hot(after, pick(evaluated_SA[after], rng))], 1)
        return Sample(x_NKD, reward.astype(float), x_NKD[:, 0], self.truth(x_NKD[:, 0]))

    def one_hot(self, s_N: np.ndarray, a_N: np.ndarray) -> np.ndarray:
        """(S, A) as two one-hot blocks."""
        states, actions = self._table[1].shape
        return np.concatenate([np.eye(states)[s_N], np.eye(actions)[a_N]], -1)

    def curve(self, train: Sample, points: int) -> tuple[np.ndarray, np.ndarray]:
        """The sixteen states, each with the evaluated policy's likeliest action."""
        states = np.arange(len(self.q_SA))
        return states.astype(float), self.one_hot(states, self.policy(self.evaluated).argmax(1))


SCALE = np.array([2.4, 3.0, 12 * np.pi / 180, 3.0])  # bounds of position and angle, and typical speeds


class CartPole(Evaluation):
    """CartPole without end: a pole that falls earns 0 instead of 1 and starts anew. The truth at test pairs by Monte Carlo.

    Both policies push towards the side to which the pole leans and turns; inputs are the scaled state and a sign for the action.
    """

    kind: Literal["cartpole"] = Field(description="policy evaluation, CartPole")
    rollouts: int = Field(gt=0, description="Monte Carlo continuations of each scored pair")

    @staticmethod
    def step(s_N4: np.ndarray, a_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Next states and rewards: Barto, Sutton and Anderson's cart (mass 1) and pole (mass .1, half-length .5), Euler steps of .02 s."""
        x, v, angle, turn = s_N4.T
        sin, cos = np.sin(angle), np.cos(angle)
        push = (np.where(a_N == 1, 10.0, -10.0) + 0.05 * np.square(turn) * sin) / 1.1
        bend = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * np.square(cos) / 1.1))
        after = s_N4 + 0.02 * np.stack([v, push - 0.05 * bend * cos / 1.1, turn, bend], -1)
        fallen = (np.abs(after[:, 0]) > SCALE[0]) | (np.abs(after[:, 2]) > SCALE[2])
        fresh_N4 = rng.uniform(-0.05, 0.05, after.shape)
        return np.where(fallen[:, None], fresh_N4, after), 1.0 - fallen

    @staticmethod
    def act(s_N4: np.ndarray, uniform: float, rng: np.random.Generator) -> np.ndarray:
        """Actions of the policy with a share of the uniform one."""
        lean = s_N4[:, 2] + 0.5 * s_N4[:, 3] > 0
        return np.where(rng.random(len(lean)) < uniform, rng.random(len(lean)) < 0.5, lean).astype(int)

    @staticmethod
    def inputs(s_N4: np.ndarray, a_N: np.ndarray) -> np.ndarray:
        """What the networks see, [N, 5]."""
        return np.column_stack([s_N4 / SCALE, 2.0 * a_N - 1])

    def draw(self, n: int, rng: np.random.Generator, part: str) -> Sample:
        state, when = rng.uniform(-0.05, 0.05, (n, 4)), rng.integers(0, self.horizon, n)
        s, a, r, after = np.zeros((n, 4)), np.zeros(n, int), np.zeros(n), np.zeros((n, 4))
        for t in range(self.horizon):
            action = self.act(state, self.behaviour, rng)
            now = when == t
            s[now], a[now] = state[now], action[now]
            state, reward = self.step(state, action, rng)
            r[now], after[now] = reward[now], state[now]
        x_NKD = np.stack([self.inputs(s, a), self.inputs(after, self.act(after, self.evaluated, rng))], 1)
        g_N = self.monte_carlo(s, a, rng) if part == "test" else np.full(n, np.nan)
        return Sample(x_NKD, r, x_NKD[:, 0], g_N)

    def monte_carlo(self, s_N4: np.ndarray, a_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Q(s, a), [N]: discounted rewards until gamma^t < 1e-3, averaged over continuations."""
        s, a, total = np.repeat(s_N4, self.rollouts, 0), np.repeat(a_N, self.rollouts, 0), 0.0
        for t in range(int(np.ceil(np.log(1e-3) / np.log(self.gamma)))):
            s, r = self.step(s, a, rng)
            total, a = total + self.gamma**t * r, self.act(s, self.evaluated, rng)
        return total.reshape(-1, self.rollouts).mean(1)

    def curve(self, train: Sample, points: int) -> tuple[np.ndarray, np.ndarray]:
        """The pole's angle, in the units of the network, pushed to the right; all else at rest."""
        angle_G = np.linspace(-1, 1, points)
        x_GD = np.zeros((points, 5))
        x_GD[:, 2], x_GD[:, 4] = angle_G, 1.0
        return angle_G, x_GD
