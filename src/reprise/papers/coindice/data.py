"""Simulated logs: many independent datasets of each environment, with the exact value of the target policy (section 6).

Every environment is rebuilt from its parameters, which lie beside its data; so later stages know the policies, whose ratios
importance sampling needs, and the truth, which only `evaluate` reads.

Shapes: B datasets, N trajectories, T steps, S states, A actions, D state variables, K action variables.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from reprise.kits.offpolicy import policies, simulate, tables
from reprise.kits.offpolicy.simulate import Trajectories
from reprise.params import Params
from reprise.stage import Stage

Name = Literal["bandit", "frozenlake", "taxi", "lqr", "reacher"]


class Log(Params):
    """What every environment's log has."""

    gamma: float = Field(ge=0, lt=1, description="discount")
    datasets: int = Field(gt=0, description="independent datasets B")
    trajectories: int = Field(gt=0, description="trajectories N of each; smaller sizes are the first of them")
    steps: int = Field(gt=0, description="steps T of a trajectory")


class Bandit(Log):
    """A Bernoulli bandit, one step."""

    means: tuple[float, ...] = Field(description="success probability of each arm")
    target: tuple[float, ...] = Field(description="target policy, a probability for each arm")
    behaviour: tuple[float, ...] = Field(description="behaviour policy, a probability for each arm")


class FrozenLake(Log):
    """The slippery 4x4 lake that never ends; policies are mixtures of the optimal one with uniform actions."""

    target: float = Field(ge=0, le=1, description="share of uniform actions of the target policy")
    behaviour: float = Field(ge=0, le=1, description="share of uniform actions of the behaviour policy")


class Taxi(FrozenLake):
    """The taxi; policies are mixtures of softmax(Q* / temperature) with uniform actions."""

    length: int = Field(gt=1, description="side of the grid: 80 length^2 states")
    temperature: float = Field(gt=0, description="temperature of the softmax, in units of reward")


class LQR(Log):
    """The noisy linear system; policies a = gain s + sd * normal."""

    target: tuple[float, float] = Field(description="gain of the target policy")
    target_sd: float = Field(gt=0, description="noise of the target policy")
    behaviour: tuple[float, float] = Field(description="gain of the behaviour policy")
    behaviour_sd: float = Field(gt=0, description="noise of the behaviour policy")


class Reacher(Log):
    """The arm that never ends; policies are an analytic controller plus noise."""

    target_sd: float = Field(gt=0, description="noise of the target policy")
    behaviour_sd: float = Field(gt=0, description="noise of the behaviour policy")
    physics: Literal["twin", "mujoco"] = Field(description="equations of motion: our vectorised twin, or MuJoCo itself")
    truth: tuple[int, int] = Field(description="fresh trajectories and their steps behind the Monte Carlo value")


class Preprocess(Params):
    """Parameters of `preprocess`: the environments to simulate."""

    bandit: Bandit | None = Field(None, description="bandit")
    frozenlake: FrozenLake | None = Field(None, description="FrozenLake")
    taxi: Taxi | None = Field(None, description="Taxi")
    lqr: LQR | None = Field(None, description="linear-quadratic regulator")
    reacher: Reacher | None = Field(None, description="Reacher")


@dataclass(frozen=True)
class Problem:
    """An environment with its two policies: arrays [S, A] for tables, `Gaussian` otherwise; rewards lie within `reward`, where
    they are bounded."""

    env: Any
    target: Any
    behaviour: Any
    gamma: float
    reward: tuple[float, float] | None = None

    @property
    def tabular(self) -> bool:
        """Whether states and actions are finite."""
        return isinstance(self.env, tables.Table)

    def ratios(self, log: Trajectories) -> np.ndarray:
        """pi(a|s) / behaviour(a|s) of each step, [B, N, T]."""
        if self.tabular:
            return (self.target / self.behaviour)[log.s, log.a]
        s_ND, a_NK = log.s.reshape(-1, log.s.shape[-1]), log.a.reshape(-1, log.a.shape[-1])
        return np.exp(self.target.log_density(s_ND, a_NK) - self.behaviour.log_density(s_ND, a_NK)).reshape(log.r.shape)

    def value(self, policy: Any) -> float | None:
        """rho of a policy, exactly; None where no closed form exists."""
        return float(tables.value(self.env, policy, self.gamma)) if self.tabular else None


def problem(name: Name, spec: Any) -> Problem:
    """The environment and the policies that the parameters `spec` describe."""
    if name == "bandit":
        return Problem(tables.bandit(spec.means), *(np.tile(p, (2, 1)) for p in (spec.target, spec.behaviour)), spec.gamma, (0.0, 1.0))
    if name == "frozenlake":
        table = tables.frozenlake()
        best_SA = policies.greedy(table, spec.gamma)
        return Problem(table, *(policies.mix(best_SA, p) for p in (spec.target, spec.behaviour)), spec.gamma, (0.0, 1.0))
    if name == "taxi":
        table = tables.taxi(spec.length)
        best_SA = policies.softmax(table, spec.gamma, spec.temperature)
        return Problem(table, *(policies.mix(best_SA, p) for p in (spec.target, spec.behaviour)), spec.gamma, (-1.0, 20.0))
    if name == "lqr":
        return Problem(simulate.LQR(), policies.linear([spec.target], spec.target_sd), policies.linear([spec.behaviour], spec.behaviour_sd), spec.gamma)
    env = simulate.MujocoReacher() if spec.physics == "mujoco" else simulate.Reacher()
    return Problem(env, policies.reach(spec.target_sd), policies.reach(spec.behaviour_sd), spec.gamma)


def truths(name: Name, spec: Any, rng: np.random.Generator) -> dict[str, float]:
    """rho of the target, its standard error (0 where it is exact), rho of the behaviour policy."""
    p = problem(name, spec)
    if name == "lqr":
        values = [p.env.value([gain], sd, p.gamma) for gain, sd in ((spec.target, spec.target_sd), (spec.behaviour, spec.behaviour_sd))]
        return {"target": values[0], "target_se": 0.0, "behaviour": values[1]}
    if name == "reacher":
        (rho, se), (behaviour, _) = (simulate.monte_carlo(p.env, policy, p.gamma, *spec.truth, rng) for policy in (p.target, p.behaviour))
        return {"target": rho, "target_se": se, "behaviour": behaviour}
    return {"target": p.value(p.target), "target_se": 0.0, "behaviour": p.value(p.behaviour)}


def preprocess(params: Preprocess, stage: Stage) -> None:
    """<environment>.json: its parameters and true values; <environment>.safetensors: states (T + 1 of them), actions, rewards."""
    for name in Preprocess.model_fields:
        if (spec := getattr(params, name)) is None:
            continue
        p = problem(name, spec)
        log = simulate.rollout(p.env, p.behaviour, spec.datasets * spec.trajectories, spec.steps, stage.rng(name))
        s = np.concatenate([log.s, log.s_next[:, -1:]], 1)
        if p.tabular:
            s, a, r = s.astype(np.uint16), log.a.astype(np.uint8), log.r.astype(np.float32)
        else:
            s, a, r = s, log.a, log.r
        arrays = {key: np.ascontiguousarray(x.reshape(spec.datasets, spec.trajectories, *x.shape[1:])) for key, x in (("s", s), ("a", a), ("r", r))}
        save_file(arrays, stage.out / f"{name}.safetensors")
        truth = truths(name, spec, stage.rng(name, "truth"))
        (stage.out / f"{name}.json").write_text(json.dumps({"spec": spec.model_dump(mode="json"), "truth": truth}, indent=1) + "\n")
        stage.log(f"{name}: {spec.datasets} datasets of {spec.trajectories} x {spec.steps}, rho {truth['target']:.9g} (behaviour {truth['behaviour']:.9g})")


def load(folder: Path, name: Name) -> tuple[Problem, Trajectories]:
    """The problem and its datasets, s [B, N, T] or [B, N, T, D]."""
    spec = Preprocess.model_validate({name: json.loads((folder / f"{name}.json").read_text())["spec"]})
    arrays = load_file(folder / f"{name}.safetensors")
    s, a = (x.astype(np.int64) if x.dtype.kind == "u" else x for x in (arrays["s"], arrays["a"]))
    return problem(name, getattr(spec, name)), Trajectories(s[:, :, :-1], a, arrays["r"].astype(float), s[:, :, 1:])


def truth(folder: Path, name: Name) -> dict[str, float]:
    """What `truths` found."""
    return json.loads((folder / f"{name}.json").read_text())["truth"]
