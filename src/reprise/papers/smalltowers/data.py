"""Two overlapping digits in one image, one label each: composed from real digits after these were split."""

import gzip

import numpy as np
from pydantic import Field
from safetensors.numpy import load_file, save_file

from reprise.params import Params
from reprise.stage import Stage


class Download(Params):
    """Parameters of `download`."""

    source: str = Field(pattern="^(digits|mnist)$", description="digits: 1797 real 8x8 digits that scikit-learn ships; mnist: 10,000 of 28x28 from the registry")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    offset: int = Field(gt=0, description="how far right and down the second digit lies, pixels")
    sources: tuple[int, int, int] = Field(description="source digits for train, validation, test: disjoint")
    pairs: tuple[int, int, int] = Field(description="composed images for train, validation, test")


def download(params: Download, stage: Stage) -> None:
    """The source digits: images_NHW in [0, 1], labels_N."""
    if params.source == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = digits.images.astype(np.float32) / 16, digits.target
    else:
        images = idx(stage.fetch("t10k-images-idx3-ubyte.gz"), 16).reshape(-1, 28, 28).astype(np.float32) / 255
        labels = idx(stage.fetch("t10k-labels-idx1-ubyte.gz"), 8)
    save_file({"images": images, "labels": labels.astype(np.int64)}, stage.out / "digits.safetensors")


def idx(path, header: int) -> np.ndarray:
    """The bytes after the header of a gzipped IDX file."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def preprocess(params: Preprocess, stage: Stage) -> None:
    """Split the digits, compose within each split, subtract the training mean: x_ND and labels y_NT of every split."""
    digits = load_file(stage.path("raw") / "digits.safetensors")
    rng = stage.rng("split")
    parts = split(len(digits["labels"]), params.sources, rng)
    arrays = {}
    for name, part, count in zip(("train", "validation", "test"), parts, params.pairs):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = compose(digits["images"][part], digits["labels"][part], count, params.offset, stage.rng("pairs", name))
    mean_D = arrays["x_train"].mean(0)
    for name in ("train", "validation", "test"):
        arrays[f"x_{name}"] -= mean_D
    save_file(arrays, stage.out / "pairs.safetensors")


def split(total: int, sizes: tuple[int, int, int], rng: np.random.Generator) -> list[np.ndarray]:
    """Disjoint random indices of the given sizes."""
    return np.split(rng.permutation(total)[: sum(sizes)], np.cumsum(sizes)[:-1])


def compose(images_NHW: np.ndarray, labels_N: np.ndarray, count: int, offset: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` images of two digits drawn with replacement, the pixelwise maximum where they overlap.

    Returns:
        x: (count, (H + offset) * (W + offset)); y: (count, 2), the left and the right label.
    """
    left, right = rng.integers(len(labels_N), size=(2, count))
    height, width = images_NHW.shape[1:]
    canvas = np.zeros((count, height + offset, width + offset), np.float32)
    canvas[:, :height, :width] = images_NHW[left]
    region = canvas[:, offset:, offset:]
    np.maximum(region, images_NHW[right], out=region)
    return canvas.reshape(count, -1), np.stack([labels_N[left], labels_N[right]], 1)
