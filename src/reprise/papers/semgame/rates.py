"""The theorems, measured: streaming runs on the circle, whose primal error is exact, over width, ball, alpha and depth."""

import math

import torch
from pydantic import Field, model_validator
from safetensors.torch import save_file

from reprise.errors import ReproError
from reprise.papers.semgame.circle import GRID, X_G, Circle, draw, features
from reprise.papers.semgame.game import Average, MultiLayer, Player, TwoLayer, play
from reprise.params import Params
from reprise.stage import Stage
from reprise.training import Loop

CHUNK = 500  # steps whose data are drawn at once; the stream of a seed is the same for every arm
D = 3


class Arm(Params):
    """One setting of the theorem's quantities."""

    width: int = Field(gt=1, multiple_of=2, description="m, even")
    depth: int = Field(1, ge=1, description="hidden layers H that are trained; 1: the two-layer network of the first theorem")
    ball: float = Field(20.0, gt=0, description="radius B of the weight ball (for H > 1 it is B / sqrt m)")
    alpha: float = Field(0.05, gt=0, description="Tikhonov parameter")
    eta: float = Field(5.0, gt=0, description="c of the step size (for H > 1 divided by m)")
    horizons: list[int] = Field([], description="T of runs with the theorem's constant step c / sqrt T, one run for each; none: one run with c / sqrt t, which serves every mark")


class Rates(Params):
    """Parameters of `rates`."""

    circle: Circle = Field(description="the design")
    arms: dict[str, Arm] = Field(description="name -> setting")
    seeds: int = Field(gt=1, description="runs of each arm; seed i has the same data in every arm")
    batch: int = Field(gt=0, description="fresh examples a step")
    marks: list[int] = Field(min_length=2, description="horizons T, ascending, at which the average is kept; the last one ends the run")
    every: int = Field(gt=0, description="the average takes every so many iterates")

    @model_validator(mode="after")
    def _horizons_are_marks(self) -> "Rates":
        for name, arm in self.arms.items():
            if arm.horizons and arm.depth > 1:
                raise ReproError(f"arm {name!r} of semgame has horizons, which are for two-layer networks")
            if stray := sorted(set(arm.horizons) - set(self.marks)):
                raise ReproError(f"horizon {stray[0]} of arm {name!r} of semgame is none of the marks {self.marks}")
        return self


def rates(params: Rates, stage: Stage) -> None:
    """Play the game of section 3 and keep the averaged function of every arm and seed on the grid.

    Writes for each arm: f.<arm> [T, S, G] at its horizons marks.<arm> [T], last.<arm> [S, G], movement.<arm> [2, S] of f and u,
    setting.<arm> (m, alpha); and circle (s, kappa, noise).
    """
    shallow = {name: arm for name, arm in params.arms.items() if arm.depth == 1}
    groups = [("two_layer", shallow)] + [(name, {name: arm}) for name, arm in params.arms.items() if arm.depth > 1]
    tensors = {"circle": torch.tensor(list(params.circle.model_dump().values()), dtype=torch.float64)}
    tensors |= {f"setting.{name}": torch.tensor([arm.width, arm.alpha], dtype=torch.float64) for name, arm in params.arms.items()}
    tensors |= {f"marks.{name}": torch.tensor(arm.horizons or params.marks) for name, arm in params.arms.items()}
    for name, arms in groups:
        if arms:
            tensors |= run(params, stage, name, arms)
    save_file(tensors, stage.out / "functions.safetensors")


def run(params: Rates, stage: Stage, name: str, arms: dict[str, Arm]) -> dict[str, torch.Tensor]:
    """All arms of one kind of network, and all seeds, in one loop."""
    runs = [(arm, horizon) for arm in arms.values() for horizon in arm.horizons or [None]]
    f, u = (network([arm for arm, _ in runs], params.seeds, stage, player) for player in ("f", "u"))
    alpha_A = torch.tensor([arm.alpha for arm, _ in runs], device=stage.device)
    grid_SDG = torch.tensor(features(X_G).T, dtype=torch.float32, device=stage.device).expand(params.seeds, D, GRID)
    average = Average((params.seeds, len(runs), GRID), stage.device)
    kept_TSAG = torch.zeros(len(params.marks), params.seeds, len(runs), GRID, dtype=torch.float64)
    c_K = torch.ones(1, device=stage.device)
    stream = Stream(params, stage)
    for step in (loop := Loop(stage, params.marks[-1], {"f": f.weights, "u": u.weights, "average": average.state, "kept": kept_TSAG}, name=name)):
        if step % params.every == 0:
            average.add(f(grid_SDG))
        eta_A = torch.tensor([arm.eta / math.sqrt(horizon or step + 1) for arm, horizon in runs], device=stage.device)
        x_SDB, y_SB, z_SDB = stream.batch(step)
        f_SAKB, u_SAB = play(f, u, x_SDB[:, :, None], y_SB, z_SDB, c_K, alpha_A, eta_A)
        if step % 200 == 0:
            loop.log(loss_residual=(f_SAKB[:, :, 0] - y_SB[:, None]).square().mean(-1).flatten(), u_squared=u_SAB.square().mean(-1).flatten())
        if step + 1 in params.marks:
            kept_TSAG[params.marks.index(step + 1)] = average.mean.cpu()
    last_SAG, movement_2SA = f(grid_SDG).cpu(), torch.stack([f.movement(), u.movement()]).cpu()
    result, a = {}, 0
    for arm, setting in arms.items():
        own = range(a, a := a + max(1, len(setting.horizons)))  # its runs; the last one has the longest horizon
        picked = [kept_TSAG[params.marks.index(T), :, i] for i, T in zip(own, setting.horizons)]
        result[f"f.{arm}"] = torch.stack(picked) if picked else kept_TSAG[:, :, own[0]].contiguous()
        result[f"last.{arm}"] = last_SAG[:, own[-1]].contiguous()
        result[f"movement.{arm}"] = movement_2SA[:, :, own[-1]].contiguous()
    return result


def network(arms: list[Arm], seeds: int, stage: Stage, player: str) -> Player:
    """The stack of all arms and seeds. The initial weights depend on player, seed, width and depth alone."""
    if arms[0].depth > 1:
        (arm,) = arms  # one run
        draws = []
        for seed in range(seeds):
            g = stage.generator("circle", "start", player, seed, arm.width, arm.depth)
            a, w = torch.randn(arm.width, D, generator=g), torch.randn(arm.depth, arm.width, arm.width, generator=g)
            draws.append({"a": a, "w": w, "b": torch.randint(0, 2, (arm.width,), generator=g) * 2.0 - 1})
        return MultiLayer(arm.width, arm.depth, arm.ball, draws, stage.device)
    draws = [[torch.randn(arm.width // 2, D, generator=stage.generator("circle", "start", player, seed, arm.width)) / math.sqrt(D) for arm in arms] for seed in range(seeds)]
    return TwoLayer([arm.width for arm in arms], [arm.ball for arm in arms], draws, stage.device)


class Stream:
    """Fresh examples for every step: x, z [S, D, B] features of unit norm, y [S, B]. A chunk's draws depend on seed and chunk alone."""

    def __init__(self, params: Rates, stage: Stage):
        self.params, self.stage, self.chunk = params, stage, -1

    def batch(self, step: int) -> list[torch.Tensor]:
        """The examples of a step."""
        if step // CHUNK != self.chunk:
            self.chunk = step // CHUNK
            draws = [draw(self.params.circle, (CHUNK, self.params.batch), self.stage.rng("circle", "stream", seed, self.chunk)) for seed in range(self.params.seeds)]
            stacked = [features_first([features(d.x) for d in draws]), torch.stack([torch.tensor(d.y) for d in draws], 1), features_first([features(d.z) for d in draws])]
            self.data = [t.to(torch.float32).to(self.stage.device) for t in stacked]
        return [t[step % CHUNK] for t in self.data]


def features_first(arrays: list) -> torch.Tensor:
    """Seeds' arrays [T, B, D] as one [T, S, D, B]."""
    return torch.stack([torch.tensor(a) for a in arrays], 1).transpose(-1, -2).contiguous()
