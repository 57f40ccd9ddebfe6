"""Section 4 needs no data; the model of section 6 learns scikit-learn's 8x8 digits, which come with the library."""

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from reprise.params import Params
from reprise.stage import Stage


class Preprocess(Params):
    """Parameters of `preprocess`."""

    test: int = Field(gt=0, description="images held out")
    side: int = Field(gt=0, multiple_of=8, description="pixels along each side; digits are enlarged by repeating pixels")


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Scale the digits to [0, 1], enlarge and split them: images of shape (N, side, side), labels of shape (N,)."""
    digits = load_digits()
    order = stage.rng("split").permutation(len(digits.target))
    images = (digits.images[order] / 16).repeat(params.side // 8, 1).repeat(params.side // 8, 2)
    labels = digits.target[order].astype(np.int64)
    n = len(order) - params.test
    save_file(
        {"train_images": images[:n].copy(), "train_labels": labels[:n].copy(), "test_images": images[n:].copy(), "test_labels": labels[n:].copy()},
        stage.out / "digits.safetensors",
    )
