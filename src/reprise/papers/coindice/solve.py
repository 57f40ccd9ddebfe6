"""(I - gamma P) V = r and (I - gamma P)^T d = m for a batch of transition matrices that are given by cells.

Small systems are solved directly. Large ones differ from problem to problem by percents only, since weights stay close to
uniform: one inverse of the matrix of the first problem serves all others of a dataset by iterative refinement, in which the
products with the true matrix run over cells. The change of a stochastic matrix vanishes on constants, so the slow mode
1 / (1 - gamma) is not excited, and a few rounds suffice.
"""

from collections.abc import Callable

import numpy as np

DIRECT = 64  # states up to which each system is solved by itself


def segment_sums(index_C: np.ndarray, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """x [..., C] -> sums over the cells of each index [..., size]: sorted once, then one pass of segment sums."""
    order = np.argsort(index_C, kind="stable")
    found, begin = np.unique(index_C[order], return_index=True)
    in_order = np.array_equal(order, np.arange(len(order)))

    def scatter(x: np.ndarray) -> np.ndarray:
        out = np.zeros((*x.shape[:-1], size))
        out[..., found] = np.add.reduceat(x if in_order else x[..., order], begin, axis=-1)
        return out

    return scatter


class Solver:
    """Cells s_C -> next_C (-1: nothing follows) on S states with a discount each, 0 where nothing follows. Holds the inverse
    of the first problem of each dataset when S > DIRECT.

    Args:
        device: where the inverse lives and is applied; tol: relative residual at which refinement stops.
    """

    def __init__(self, s_C: np.ndarray, next_C: np.ndarray, states: int, gamma_C: np.ndarray, device: str = "cpu", tol: float = 1e-13):
        self.s_C, self.next_C, self.states, self.gamma_C, self.device, self.tol = s_C, np.maximum(next_C, 0), states, gamma_C, device, tol
        self.to_pairs = segment_sums(s_C * states + self.next_C, states**2)
        self.to_s, self.to_next = segment_sums(s_C, states), segment_sums(self.next_C, states)
        self.inverse_BSS = None
        self.V_BJS = self.d_BJS = None  # answers of the last call, where the next one starts

    def __call__(self, step_BJC: np.ndarray, r_BJS: np.ndarray, m_BJS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V_BJS, d_BJS) with P(s, s') = sum of step_BJC over the cells s -> s'."""
        flow_BJC = self.gamma_C * step_BJC
        if not self.gamma_C.any():
            return r_BJS, m_BJS
        if self.states <= DIRECT:
            return self._direct(flow_BJC, r_BJS, m_BJS)
        if self.inverse_BSS is None:
            self.inverse_BSS = self._invert(flow_BJC[:, 0])
        V_BJS = self._refine(r_BJS, self.V_BJS, lambda V: V - self.to_s(flow_BJC * V[..., self.next_C]), transposed=False)
        d_BJS = self._refine(m_BJS, self.d_BJS, lambda d: d - self.to_next(flow_BJC * d[..., self.s_C]), transposed=True)
        if V_BJS is None or d_BJS is None:  # few data: weights have moved far from uniform
            V_BJS, d_BJS = self._direct(flow_BJC, r_BJS, m_BJS)
        self.V_BJS, self.d_BJS = V_BJS, d_BJS
        return V_BJS, d_BJS

    def _direct(self, flow_BJC: np.ndarray, r_BJS: np.ndarray, m_BJS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        S = self.states
        system = np.eye(S) - self.to_pairs(flow_BJC).reshape(*flow_BJC.shape[:2], S, S)
        V, d = (np.linalg.solve(M, b[..., None])[..., 0] for M, b in ((system, r_BJS), (system.swapaxes(-1, -2), m_BJS)))
        return V, d

    def _refine(self, b_BJS: np.ndarray, start: np.ndarray | None, multiply: Callable[[np.ndarray], np.ndarray], transposed: bool) -> np.ndarray | None:
        """The solution x of multiply(x) = b, None if it is not reached soon."""
        x = np.zeros_like(b_BJS) if start is None else np.broadcast_to(start, b_BJS.shape)
        for _ in range(40):
            residual = b_BJS - multiply(x)
            if np.abs(residual).max() <= self.tol * max(np.abs(b_BJS).max(), np.abs(x).max()):
                return x
            x = x + self._apply(residual, transposed)
        return None

    def _invert(self, flow_BC: np.ndarray):
        """(I - gamma P)^-1 of each dataset; a torch tensor where `device` is not the CPU."""
        S, pair_C = self.states, self.s_C * self.states + self.next_C
        system = np.eye(S) - np.stack([np.bincount(pair_C, flow_C, S * S).reshape(S, S) for flow_C in flow_BC])
        if self.device == "cpu":
            return np.linalg.inv(system)
        import torch

        return torch.linalg.inv(torch.from_numpy(system).to(self.device))

    def _apply(self, x_BJS: np.ndarray, transposed: bool) -> np.ndarray:
        inverse = self.inverse_BSS if transposed else self.inverse_BSS.swapaxes(-1, -2)
        if self.device == "cpu":
            return x_BJS @ inverse
        import torch

        return (torch.from_numpy(x_BJS).to(self.device) @ inverse).cpu().numpy()
