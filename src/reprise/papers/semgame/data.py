"""Data: the real files where a scale asks for them, and every design drawn, standardised and written once for all methods."""

import json
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from safetensors.numpy import load_file, save_file

from reprise.papers.semgame.designs import PARTS, Demand, Digits, Gaussian, Market, Panel, Sample, Sigmoid, Toy
from reprise.papers.semgame.policies import CartPole, Lake
from reprise.papers.semgame.real import FILES, PROBLEMS, Real
from reprise.params import Params
from reprise.stage import Stage

AnyDesign = Annotated[Toy | Digits | Demand | Sigmoid | Gaussian | Market | Panel | Lake | CartPole | Real, Field(discriminator="kind")]


class Download(Params):
    """Parameters of `download`."""

    problems: list[str] = Field(description="real problems whose files are fetched; none: nothing is downloaded")


def download(params: Download, stage: Stage) -> None:
    """Fetch the files of the real problems, and write the list of what is there."""
    for problem in params.problems:
        stage.fetch(FILES[problem])
    (stage.out / "problems.json").write_text(json.dumps(params.problems) + "\n")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    points: int = Field(gt=1, description="points of the curves that are drawn")
    designs: dict[str, AnyDesign] = Field(description="name -> design")


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Draw every design for every seed and standardise it by its own training part; all methods read the same files.

    <design>.safetensors holds, over S seeds: x_<part> [S, N, K, D], y_<part> [S, N], z_<part> [S, N, E], g_<part> [S, N], the
    curve x_curve [S, G, D], g_curve [S, G], line [G], the moment c [K], and y_mean, y_sd [S]. linear.parquet holds the
    textbook's linear answers for the real problems.
    """
    raw = stage.path("raw")
    for name, design in params.designs.items():
        splits = [design.splits(stage.rng("design", name, seed), raw) for seed in range(design.seeds)]
        line_G, x_GD = design.curve(splits[0]["train"], params.points)
        sets = [standardise(split, design.c, x_GD, design.truth(x_GD)) for split in splits]
        tensors = {key: np.stack([s[key] for s in sets]) for key in sets[0]}
        save_file({**tensors, "line": line_G, "c": np.array(design.c)}, stage.out / f"{name}.safetensors")
    rows = [{"problem": name, **PROBLEMS[name](raw).linear()} for name in json.loads((raw / "problems.json").read_text())]
    pd.DataFrame(rows, columns=["problem", "ols", "tsls", "first_stage_f", "n"]).to_parquet(stage.out / "linear.parquet", index=False)


def standardise(split: dict[str, Sample], c: list[float], x_GD: np.ndarray, g_G: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs, instruments and outcome to mean 0 and variance 1 on the training part; indicators (0 or 1) stay as they are.

    Where the moment is not a plain regression Y is only scaled: a shift of f changes m(f; X) by (sum c) times it.
    """
    train = split["train"]
    (x_mean, x_sd), (z_mean, z_sd) = _location_and_scale(train.x[:, 0]), _location_and_scale(train.z)
    y_mean, y_sd = (train.y.mean() if c == [1.0] else 0.0), train.y.std() or 1.0
    arrays = {"x_curve": (x_GD - x_mean) / x_sd, "g_curve": (g_G - y_mean) / y_sd, "y_mean": np.array(y_mean), "y_sd": np.array(y_sd)}
    for part in PARTS:
        s = split[part]
        scaled = {"x": (s.x - x_mean) / x_sd, "y": (s.y - y_mean) / y_sd, "z": (s.z - z_mean) / z_sd, "g": (s.g - y_mean) / y_sd}
        arrays |= {f"{key}_{part}": np.ascontiguousarray(value) for key, value in scaled.items()}
    return arrays


def _location_and_scale(x_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; 0 and 1 where it holds indicators: a rare one would become huge."""
    indicator_D = np.isin(x_ND, (0, 1)).all(0)
    return np.where(indicator_D, 0.0, x_ND.mean(0)), np.where(indicator_D | (x_ND.std(0) == 0), 1.0, x_ND.std(0))


def load(stage: Stage) -> dict[str, dict[str, np.ndarray]]:
    """Every prepared design, in name order."""
    return {path.stem: load_file(path) for path in sorted(stage.path("prepared").glob("*.safetensors"))}
