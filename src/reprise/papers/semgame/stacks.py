"""Designs of equal shape stacked for joint training, their batches, and the choice among settings without the truth.

Shapes: J designs, S seeds, C candidate settings, N examples, B of a batch, K points of the moment, D inputs of f, E
instruments, T points to predict at; a stack's members are M = J S C, in that order.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from reprise.stage import Stage

Arrays = dict[str, np.ndarray]


@dataclass
class Stack:
    """Designs with the same shapes and moment; `transform` maps inputs [..., D] before they reach a network."""

    names: list[str]
    designs: list[Arrays]
    stage: Stage
    transform: callable = field(default=lambda x: x)

    def __post_init__(self):
        first = self.designs[0]
        self.c_K = torch.tensor(first["c"], dtype=torch.float32, device=self.stage.device)
        self.seeds, self.n = first["y_train"].shape
        self.x_JSNKD, self.y_JSN, self.z_JSNE = (torch.stack([self._tensor(d, f"{key}_train") for d in self.designs]) for key in "xyz")

    def _tensor(self, design: Arrays, key: str) -> torch.Tensor:
        array = design[key] if key[0] == "y" else self.transform(design[key])
        return torch.tensor(array, dtype=torch.float32, device=self.stage.device)

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs D and instruments E, as the networks see them."""
        return self.x_JSNKD.shape[-1], self.z_JSNE.shape[-1]

    def batch(self, step: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [J, S, D, K, B], y [J, S, B], z [J, S, E, B] of a step: without replacement within an epoch.

        The order depends on seed, number of examples and epoch alone, so all methods and designs see their data in one order.
        """
        size = min(size, self.n)
        epoch, place = divmod(step, self.n // size)
        if place == 0 or not hasattr(self, "order_SN"):
            self.order_SN = torch.stack([torch.randperm(self.n, generator=self.stage.generator("order", seed, self.n, epoch)) for seed in range(self.seeds)]).to(self.stage.device)
        rows_SB = self.order_SN[:, place * size : (place + 1) * size]
        s = torch.arange(self.seeds, device=self.stage.device)[:, None]
        x_JSBKD, y_JSB, z_JSBE = (t[:, s, rows_SB] for t in (self.x_JSNKD, self.y_JSN, self.z_JSNE))
        return x_JSBKD.movedim(2, -1).movedim(2, 3), y_JSB, z_JSBE.movedim(2, -1)

    def queries(self) -> tuple[torch.Tensor, list[int]]:
        """Points to predict at, [J, S, D, T]: dev and test at all K points, then the curve; and the three counts."""
        parts = [torch.stack([self._tensor(d, key).flatten(1, -2) for d in self.designs]) for key in ("x_dev", "x_test", "x_curve")]
        return torch.cat(parts, 2).transpose(2, 3).contiguous(), [p.shape[2] for p in parts]

    def dev(self) -> tuple[torch.Tensor, torch.Tensor]:
        """y_dev [J, S, N] and z_dev [J, S, E, N]."""
        y, z = (torch.stack([self._tensor(d, key) for d in self.designs]) for key in ("y_dev", "z_dev"))
        return y, z.transpose(2, 3).contiguous()


def stacks(designs: dict[str, Arrays], stage: Stage, transform: callable = lambda x: x) -> list[Stack]:
    """The designs grouped by the shapes of all their arrays and by their moment."""
    groups: dict[tuple, list[str]] = {}
    for name, d in designs.items():
        groups.setdefault((tuple(d["c"]), *(d[f"{key}_{part}"].shape for part in ("train", "dev", "test") for key in "xz"), d["x_curve"].shape), []).append(name)
    return [Stack(names, [designs[name] for name in names], stage, transform) for names in groups.values()]


def dev_value(f_CN: torch.Tensor, y_N: torch.Tensor, u_UN: torch.Tensor, objective) -> torch.Tensor:
    """max over the adversaries seen in training of the objective on dev data, one for each candidate f, [C]; lower is better.

    f_CN are the moments m(f; X) of the candidates. The collection u_UN is that of all candidates together.
    """
    residual_CN = f_CN - y_N
    return torch.stack([objective(residual_N.expand_as(u_UN), u_UN, torch.zeros_like(u_UN), 0.0).max() for residual_N in residual_CN])


def choose(f_JSCT: torch.Tensor, counts: list[int], stack: Stack, u_UJSCN: torch.Tensor | None, objective) -> tuple[dict[str, Arrays], list[dict]]:
    """Predictions of the candidate with the best dev score for every design and seed, and a row for each candidate.

    Without adversaries (u is None) the score is the objective of the candidate itself.
    """
    y_JSN, _ = stack.dev()
    y_JSN = y_JSN.cpu()
    k = len(stack.c_K)
    predictions, rows = {}, []
    for j, name in enumerate(stack.names):
        chosen = []
        for s in range(stack.seeds):
            dev, test, curve = f_JSCT[j, s].float().split(counts, -1)
            m_CN = dev.unflatten(-1, (-1, k)) @ stack.c_K.cpu()
            if u_UJSCN is None:
                score_C = objective(m_CN - y_JSN[j, s], torch.zeros_like(m_CN), m_CN, 0.0)
            else:
                score_C = dev_value(m_CN, y_JSN[j, s], u_UJSCN[:, j, s].flatten(0, 1), objective)
            best = int(score_C.argmin())
            rows += [{"design": name, "seed": s, "candidate": c, "score": float(v), "chosen": c == best} for c, v in enumerate(score_C)]
            chosen.append((test[best].unflatten(-1, (-1, k)).numpy(), curve[best].numpy()))
        predictions[name] = {"test": np.stack([t for t, _ in chosen]), "curve": np.stack([g for _, g in chosen])}
    return predictions, rows
