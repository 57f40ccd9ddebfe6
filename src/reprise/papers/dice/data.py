"""Logged data and truths of every environment; nothing is downloaded."""

import numpy as np
import pandas as pd
from pydantic import Field
from safetensors.numpy import load_file, save_file

from reprise.kits.offpolicy import simulate, tables
from reprise.kits.offpolicy.simulate import Trajectories
from reprise.papers.dice.environments import Name, setting
from reprise.params import Params
from reprise.stage import Stage


class Logged(Params):
    """One environment's data."""

    environment: Name = Field(description="which problem")
    size: int = Field(0, ge=0, description="side of GridWalk and Taxi; unused elsewhere")
    gamma: float = Field(ge=0, lt=1, description="discount")
    seeds: int = Field(gt=0, description="number of data sets K")
    trajectories: int = Field(gt=0, description="trajectories N in each data set")
    steps: int = Field(gt=0, description="steps T of each trajectory")
    rollouts: int = Field(0, ge=0, description="fresh trajectories behind a truth that has no table")
    horizon: int = Field(0, ge=0, description="their length; gamma^horizon should be negligible")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    environments: dict[str, Logged] = Field(description="one entry per variant")


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Simulate the behaviour policies (section 5) and find both policies' values: by a linear solve where there is a table, else
    by Monte Carlo with its standard error. Entries of one environment and equal sizes share their data."""
    rows = []
    for name, logged in params.environments.items():
        problem = setting(logged.environment, logged.size)
        n = logged.seeds * logged.trajectories
        data = simulate.rollout(problem.env, problem.behaviour, n, logged.steps, stage.rng("logged", logged.environment))
        _save(data, stage.out / f"{name}.safetensors")
        truth = {}
        for which, policy in (("target", problem.target), ("behaviour", problem.behaviour)):
            if problem.finite:
                truth |= {which: float(tables.value(problem.env, policy, logged.gamma)), f"{which}_se": 0.0}
            else:
                mean, se = simulate.monte_carlo(
                    problem.env, policy, logged.gamma, logged.rollouts, logged.horizon, stage.rng("truth", logged.environment, which)
                )
                truth |= {which: mean, f"{which}_se": se}
        rows.append({"name": name, **logged.model_dump(), **truth})
        stage.log(f"{name}: rho {truth['target']:.6f} (se {truth['target_se']:.1g}), behaviour {truth['behaviour']:.6f}")
    pd.DataFrame(rows).to_parquet(stage.out / "environments.parquet", index=False)


def _save(data: Trajectories, path) -> None:
    arrays = {name: getattr(data, name) for name in ("s", "a", "r", "s_next")}
    save_file({k: np.ascontiguousarray(v.astype(np.int32) if v.dtype.kind == "i" else v) for k, v in arrays.items()}, path)


def load(stage: Stage, name: str) -> tuple[dict, Trajectories]:
    """What `preprocess` wrote for one environment: its row of the table and the trajectories of all its data sets."""
    folder = stage.path("prepared")
    table = pd.read_parquet(folder / "environments.parquet")
    row = table[table.name == name].iloc[0].to_dict()
    arrays = load_file(folder / f"{name}.safetensors")
    return row, Trajectories(**{k: v.astype(np.int64) if v.dtype.kind == "i" else v for k, v in arrays.items()})
