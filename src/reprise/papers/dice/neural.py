"""Q (the code's nu) and zeta as stacks of networks, and what they see of the data (section 5).

Members are ordered seed by seed: E = K seeds x M configurations. The members of a seed share a data set and a start, so
comparisons between configurations are paired. `Pairs` and `Rows` turn both stacks into the `Terms` of the objective: for a
finite problem by evaluating every (s, a) once and weighting by counts, else by sampled rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from reprise.kits.offpolicy import policies, tables
from reprise.kits.offpolicy.networks import Weights, forward, glorot
from reprise.kits.offpolicy.simulate import Trajectories, counts
from reprise.papers.dice.environments import Setting
from reprise.papers.dice.objective import Stacked, Terms, ratio


def networks(inputs: int, hidden: list[int], seeds: int, members: int, generator: torch.Generator, device: str = "cpu") -> tuple[Weights, Weights]:
    """Stacks for Q and zeta, E = seeds * members, equal starts within a seed; zeta starts near 1, away from the dead point
    that squaring has at 0."""
    sizes = [inputs, *hidden, 1]
    q, zeta = ({k: w.repeat_interleave(members, 0) for k, w in glorot(sizes, [generator] * seeds, device).items()} for _ in range(2))
    zeta[f"b{len(hidden)}"] += 1.0
    return q, zeta


@dataclass(frozen=True)
class Pairs:
    """A finite problem by its sufficient statistics, K data sets: the objective is linear in (r, Q') given (s, a), so all
    that is needed are the weight, the mean reward and the empirical model's transitions of each pair.

    x_IR: features of all R = S A pairs; w_KR, r_ER; P_KRS; policy_KSA; start_KS.
    """

    x_IR: torch.Tensor
    w_KR: torch.Tensor
    r_ER: torch.Tensor
    P_KRS: torch.Tensor
    policy_KSA: torch.Tensor
    start_KS: torch.Tensor

    def sample(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Weights of a minibatch of about `batch` transitions: Poisson counts of each pair, w_KR."""
        return torch.poisson(batch * self.w_KR.cpu(), generator=generator).to(self.w_KR) / batch

    def at(self, q: Weights, batch: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs at (s, a), [E, R]."""
        return forward(q, self.x_IR)[:, 0]

    def after(self, q: Weights, batch: torch.Tensor | None = None) -> torch.Tensor:
        """E_{s', pi}[Q], [E, R]."""
        return self.values(q)[2]

    def values(self, q: Weights, batch: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(E_{s0, pi}[Q] [E], Q(s, a) [E, R], E_{s', pi}[Q] [E, R]), from one pass."""
        K, S, A = self.policy_KSA.shape
        q_ER = self.at(q)
        V_KMS = (q_ER.view(K, -1, S, A) * self.policy_KSA[:, None]).sum(-1)
        next_KMR = torch.bmm(V_KMS, self.P_KRS.transpose(1, 2))
        return (V_KMS * self.start_KS[:, None]).sum(-1).flatten(), q_ER, next_KMR.flatten(0, 1)

    def terms(self, q: Weights, zeta: Weights, switches: Stacked, batch: torch.Tensor | None = None) -> Terms:
        """Terms under the weights of the whole data, or of a minibatch."""
        start_E, q_ER, next_ER = self.values(q)
        return Terms(start_E, q_ER, next_ER, ratio(self.at(zeta), switches), *self.rewards(len(q_ER), batch))

    def rewards(self, members: int, batch: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(r_ER, w_ER) for the first E / K members of each seed."""
        w_KR = self.w_KR if batch is None else batch
        K, R = w_KR.shape
        return self.r_ER.view(K, -1, R)[:, : members // K].flatten(0, 1), w_KR.repeat_interleave(members // K, 0)


@dataclass(frozen=True)
class Rows:
    """Transitions of a continuous problem, K data sets of n rows and N initial states. Actions of the target policy come
    as C candidates with weights: all of them with their probabilities, or samples.

    x_KIn: features of (s, a); r_En; next_KCIn, next_weight_KCn: features and weights of (s', a'); the same for s0.
    """

    x_KIn: torch.Tensor
    r_En: torch.Tensor
    next_KCIn: torch.Tensor
    next_weight_KCn: torch.Tensor
    start_KCIN: torch.Tensor
    start_weight_KCN: torch.Tensor

    def sample(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Indices of a minibatch of transitions, the same in each data set, [B]."""
        return torch.randint(self.x_KIn.shape[-1], (batch,), generator=generator).to(self.x_KIn.device)

    def at(self, q: Weights, batch: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs at (s, a), [E, B]."""
        return forward(q, self._members(_pick(self.x_KIn, batch), q))[:, 0]

    def after(self, q: Weights, batch: torch.Tensor | None = None) -> torch.Tensor:
        """E_{s', pi}[Q], [E, B]."""
        return self._expected(q, _pick(self.next_KCIn, batch), _pick(self.next_weight_KCn, batch))

    def values(self, q: Weights, batch: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(E_{s0, pi}[Q] [E], Q(s, a) [E, B], E_{s', pi}[Q] [E, B])."""
        return self._expected(q, self.start_KCIN, self.start_weight_KCN).mean(-1), self.at(q, batch), self.after(q, batch)

    def terms(self, q: Weights, zeta: Weights, switches: Stacked, batch: torch.Tensor | None = None) -> Terms:
        """Terms of the whole data, or of a minibatch."""
        start_E, q_EB, next_EB = self.values(q, batch)
        return Terms(start_E, q_EB, next_EB, ratio(self.at(zeta, batch), switches), *self.rewards(len(q_EB), batch))

    def rewards(self, members: int, batch: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(r_EB, w_EB) for the first E / K members of each seed."""
        K, n = len(self.x_KIn), self.r_En.shape[-1]
        r_EB = _pick(self.r_En.view(K, -1, n)[:, : members // K].flatten(0, 1), batch)
        return r_EB, torch.full_like(r_EB, 1 / r_EB.shape[-1])

    def _members(self, tensor: torch.Tensor, weights: Weights) -> torch.Tensor:
        return tensor.repeat_interleave(len(weights["w0"]) // len(self.x_KIn), 0)

    def _expected(self, q: Weights, x_KCIB: torch.Tensor, weight_KCB: torch.Tensor) -> torch.Tensor:
        """E_{a ~ pi}[Q], [E, B]: the candidates lie side by side in one pass through the networks."""
        K, C, inputs, B = x_KCIB.shape
        x_KIR = x_KCIB.transpose(1, 2).reshape(K, inputs, C * B)
        q_ECB = forward(q, self._members(x_KIR, q))[:, 0].view(-1, C, B)
        return (q_ECB * self._members(weight_KCB, q)).sum(1)


def _pick(tensor: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return tensor if index is None else tensor[..., index]


# -- from logged data -------------------------------------------------------------------------------------------------


def pairs(setting: Setting, data: Trajectories, seeds: int, rewards: list, device: str = "cpu") -> Pairs:
    """Sufficient statistics of `seeds` equal data sets; `rewards` holds one elementwise function for each configuration.

    The policy is renormalised over the actions seen in a state, since nothing is known of the others.
    """
    table, n = setting.env, len(data.r) // seeds
    actions = np.tile(np.eye(table.actions), (table.states, 1))
    x_RI = np.concatenate([np.repeat(setting.features_SF, table.actions, 0), actions], -1)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32, device=device)

    parts = []
    for k in range(seeds):  # one after the other: the counts of a large table fill memory
        count_1SAS, start_1S = counts(data[k * n : (k + 1) * n], table)
        model, seen_SA = tables.empirical(count_1SAS[0], table.R_SAS, start_1S[0]), count_1SAS[0].sum(-1)
        r_MSA = np.stack([tables.Table(model.P_SAS, transform(table.R_SAS), model.mu0_S).R_SA for transform in rewards])
        parts.append(
            (
                tensor((seen_SA / seen_SA.sum()).ravel()),
                tensor(r_MSA.reshape(len(rewards), -1)),
                tensor(model.P_SAS.reshape(-1, table.states)),
                tensor(policies.restrict(setting.target, seen_SA)),
                tensor(model.mu0_S),
            )
        )
    w_KR, r_KMR, P_KRS, policy_KSA, start_KS = map(torch.stack, zip(*parts, strict=True))
    return Pairs(tensor(x_RI.T.copy()), w_KR, r_KMR.flatten(0, 1), P_KRS, policy_KSA, start_KS)


def rows(setting: Setting, data: Trajectories, seeds: int, rewards: list, samples: int, rng: np.random.Generator, device: str = "cpu") -> Rows:
    """Transitions of `seeds` equal data sets as rows; E over pi is exact for two actions, by `samples` draws for vectors."""
    env, target = setting.env, setting.target
    discrete = hasattr(target, "probabilities")

    def split(array: np.ndarray) -> np.ndarray:
        """[K N, ...] -> [K, rows, variables]."""
        return array.reshape(seeds, -1, array.shape[-1])

    def candidates(x_KRD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features [K, C, I, R] and weights [K, C, R] of the target's actions."""
        flat = x_KRD.reshape(-1, x_KRD.shape[-1])
        if discrete:
            a_CRA = np.broadcast_to(np.eye(env.actions)[:, None], (env.actions, len(flat), env.actions))
            weight_CR = target.probabilities(flat).T
        else:
            a_CRA = np.stack([target.sample(flat, rng) for _ in range(samples)])
            weight_CR = np.full((samples, len(flat)), 1 / samples)
        x_CRI = np.concatenate([np.broadcast_to(env.observe(flat), (len(a_CRA), len(flat), env.observe(flat).shape[-1])), a_CRA], -1)
        C, R = weight_CR.shape
        return x_CRI.reshape(C, seeds, R // seeds, -1).transpose(1, 0, 3, 2), weight_CR.reshape(C, seeds, R // seeds).transpose(1, 0, 2)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

    a = np.eye(env.actions)[data.a] if discrete else data.a
    x_KnI = np.concatenate([split(env.observe(data.s.reshape(-1, data.s.shape[-1]))), split(a)], -1)
    r_KMn = np.stack([transform(data.r).reshape(seeds, -1) for transform in rewards], 1)
    after, start = candidates(split(data.s_next)), candidates(split(data.start))
    return Rows(tensor(x_KnI.transpose(0, 2, 1)), tensor(r_KMn.reshape(-1, r_KMn.shape[-1])), *map(tensor, after), *map(tensor, start))
