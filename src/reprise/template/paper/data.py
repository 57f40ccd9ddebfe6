"""Random quadratics f(x) = x' A x / 2 whose eigenvalues spread evenly, on a log scale, from 1 to the condition number."""

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from reprise.params import Params
from reprise.stage import Stage


class Download(Params):
    """Parameters of `download`: nothing is fetched here, the problems are generated."""

    dimension: int = Field(gt=1, description="number of unknowns d")
    condition: float = Field(gt=1, description="largest over smallest eigenvalue, L / m")
    seeds: int = Field(gt=0, description="number of problems k, one for each seed")


def download(params: Download, stage: Stage) -> None:
    """Draw the problems: eigenvectors Q_KDD and starting points x_KD."""
    rng = stage.rng("problems")
    gaussian_KDD = rng.standard_normal((params.seeds, params.dimension, params.dimension))
    x_KD = rng.standard_normal((params.seeds, params.dimension))
    spectrum_D = np.geomspace(1, params.condition, params.dimension)
    save_file({"gaussian": gaussian_KDD, "x": x_KD, "spectrum": spectrum_D}, stage.out / "problems.safetensors")


def preprocess(stage: Stage) -> None:
    """Turn the draws into matrices A = Q diag(spectrum) Q'."""
    from safetensors.numpy import load_file

    raw = load_file(stage.path("raw") / "problems.safetensors")
    q_KDD, _ = np.linalg.qr(raw["gaussian"])
    a_KDD = (q_KDD * raw["spectrum"]) @ q_KDD.transpose(0, 2, 1)
    save_file({"a": np.ascontiguousarray(a_KDD), "x": raw["x"], "spectrum": raw["spectrum"]}, stage.out / "problems.safetensors")
