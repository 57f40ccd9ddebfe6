"""Real econometric data: what is regressed on what, and the textbook's linear answers for each.

Every problem has an outcome, one endogenous variable, excluded instruments and exogenous controls: X = (endogenous,
controls), Z = (excluded instruments, controls). Sources and licences stand in data/registry.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from reprise.papers.semgame.designs import PARTS, Design, Sample
from reprise.papers.semgame.linear import first_stage_f, ols, tsls


@dataclass(frozen=True)
class Problem:
    """Outcome y_N, endogenous x_NK at the K points of the moment, excluded instruments z_NE, controls_NC without a constant."""

    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    controls: np.ndarray
    c: tuple[float, ...] = (1.0,)

    def linear(self) -> dict[str, float]:
        """The coefficient of the endogenous variable by least squares and two-stage least squares, the first stage's F, n.

        A moment whose coefficients sum to 0 has no constant in f; the constant remains an instrument.
        """
        controls_NC = np.column_stack([np.ones(len(self.y)), self.controls])
        endogenous_N = self.x @ np.array(self.c)
        x_NP = np.column_stack([endogenous_N, controls_NC * sum(self.c)] if sum(self.c) else [endogenous_N])
        z_NQ = np.column_stack([self.z, controls_NC])
        return {
            "ols": float(ols(x_NP, self.y)[0]),
            "tsls": float(tsls(x_NP, z_NQ, self.y)[0]),
            "first_stage_f": first_stage_f(endogenous_N, self.z, controls_NC),
            "n": float(len(self.y)),
        }


def problem(frame: pd.DataFrame, outcome: str, endogenous: str, instruments: list[str], controls: list[str]) -> Problem:
    """A problem from columns; rows with a missing value in one of them are left out."""
    used = frame[[outcome, endogenous, *instruments, *controls]].dropna().astype(float)
    return Problem(used[outcome].to_numpy(), used[[endogenous]].to_numpy(), used[instruments].to_numpy(), used[controls].to_numpy())


def engel(folder: Path) -> Problem:
    """Engel curve (Blundell, Duncan and Pendakur 1998): food share on log expenditure, instrument log income."""
    return problem(pd.read_csv(folder / "expendshares.csv"), "sfood", "ltotexpend", ["lincome"], ["age", "kids"])


def card(folder: Path) -> Problem:
    """Returns to schooling (Card 1995): log wage on years of schooling, instrument a four-year college nearby."""
    regions = [f"reg66{i}" for i in range(1, 9)]
    return problem(pd.read_csv(folder / "card.csv"), "lwage", "educ", ["nearc4"], ["exper", "expersq", "black", "south", "smsa", *regions, "smsa66"])


def mroz(folder: Path) -> Problem:
    """Wages of married women (Mroz 1987): log wage on schooling, instruments the parents' schooling."""
    return problem(pd.read_csv(folder / "mroz.csv"), "lwage", "educ", ["motheduc", "fatheduc"], ["exper", "expersq"])


def fish(folder: Path) -> Problem:
    """Demand at the Fulton fish market (Graddy 1995): log quantity on log price, instruments the height of the waves."""
    return problem(pd.read_csv(folder / "fish.csv"), "ltotqty", "lavgprc", ["wave2", "wave3"], ["mon", "tues", "wed", "thurs"])


def cigarettes(folder: Path) -> Problem:
    """Demand for cigarettes (Stock and Watson): log packs on log real price in 1995, instruments the real sales and cigarette taxes."""
    frame = pd.read_csv(folder / "CigarettesSW.csv").query("year == 1995")
    frame = pd.DataFrame(
        {
            "packs": np.log(frame.packs),
            "price": np.log(frame.price / frame.cpi),
            "income": np.log(frame.income / frame.population / frame.cpi),
            "sales_tax": (frame.taxs - frame.tax) / frame.cpi,
            "tax": frame.tax / frame.cpi,
        }
    )
    return problem(frame, "packs", "price", ["sales_tax", "tax"], ["income"])


def employment(folder: Path) -> Problem:
    """Employment of firms (Arellano and Bond 1991) as a dynamic panel in first differences, instruments the second and third lag.

    n_it = h(n_i,t-1) + mu_i + eps: E[dn_t - (h(n_{t-1}) - h(n_{t-2})) | n_{t-2}, n_{t-3}] = 0.
    """
    frame = pd.read_csv(folder / "EmplUK.csv").sort_values(["firm", "year"])
    frame["n"] = np.log(frame.emp)
    for lag in (1, 2, 3):  # years of a firm follow each other without a gap
        frame[f"n{lag}"] = frame.groupby("firm").n.shift(lag)
    frame = frame.dropna(subset=["n3"])
    lags = frame[["n1", "n2", "n3"]].to_numpy()
    return Problem((frame.n - frame.n1).to_numpy(), lags[:, :2], lags[:, 1:], np.zeros((len(frame), 0)), (1.0, -1.0))


FILES = {"engel": "expendshares.csv", "card": "card.csv", "mroz": "mroz.csv", "fish": "fish.csv", "cigarettes": "CigarettesSW.csv", "employment": "EmplUK.csv"}
PROBLEMS: dict[str, Callable[[Path], Problem]] = {f.__name__: f for f in (engel, card, mroz, fish, cigarettes, employment)}


class Real(Design):
    """A real data set, split at random for each seed; the truth is unknown."""

    kind: Literal["real"] = Field(description="real data, fetched by `download`")
    problem: Literal[tuple(PROBLEMS)] = Field(description="which one")

    @property
    def c(self) -> list[float]:
        return [1.0, -1.0] if self.problem == "employment" else [1.0]

    def splits(self, rng: np.random.Generator, raw: Path) -> dict[str, Sample]:
        """Shares of the rows in proportion to n, dev and test."""
        p = PROBLEMS[self.problem](raw)
        if len(p.c) > 1:
            x_NKD, z_NE = p.x[:, :, None], p.z
        else:
            x_NKD, z_NE = np.column_stack([p.x, p.controls])[:, None], np.column_stack([p.z, p.controls])
        rows = Sample(x_NKD, p.y, z_NE, np.full(len(p.y), np.nan))
        sizes = np.array([self.n, self.dev, self.test])
        cuts = np.rint(np.cumsum(sizes) / sizes.sum() * len(p.y)).astype(int)[:-1]
        return {part: rows[index] for part, index in zip(PARTS, np.split(rng.permutation(len(p.y)), cuts))}
