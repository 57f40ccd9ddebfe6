"""The digits, split before anything is derived from them; the domains of every split; the patch."""

import gzip

import numpy as np
import torch
from pydantic import Field
from safetensors.numpy import load_file, save_file

from reprise.errors import ReproError
from reprise.papers.ntl import domains
from reprise.params import Params
from reprise.stage import Stage

SPLITS = ("train", "validation", "test")
SVHN = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
REAL = ("mnist", "usps", "svhn")


class Download(Params):
    """Parameters of `download`."""

    sets: tuple[str, ...] = Field(description="digits: 1797 real 8x8 digits that scikit-learn ships; mnist: its 10,000 test images; mnist_train: its 60,000 training images; usps, svhn: all their images")


class Preprocess(Params):
    """Parameters of `preprocess`."""

    side: int = Field(gt=0, description="height and width S of every image, pixels")
    domains: dict[str, str] = Field(description="domain -> the set of digits that it is made of")
    unseen: tuple[str, ...] = Field((), description="domains that nothing is ever trained on: no training images are made")
    shares: tuple[float, float, float] = Field(description="shares of each set's digits for train, validation, test: disjoint; a set with official test images is tested on those")
    images: tuple[int, int, int] = Field(description="images per domain for train, validation, test (at most as many as there are, for domains of real images)")


class Patch(Params):
    """The pattern of section 4.2: channel 0 of the chosen pixels is raised by `value`."""

    value: int = Field(gt=0, le=255, description="v, added to channel 0 and saturating at 255")
    rule: str = Field("or", pattern="^(or|and)$", description="or: rows or columns of even index (3/4 of all pixels); and: rows and columns of even index (1/4)")


def patched(x_NHWC: torch.Tensor, patch: Patch) -> torch.Tensor:
    """min(x + mask, 255) on uint8 images (N, H, W, 3); mask[i, j, 0] = v where i or j is even, 0 elsewhere."""
    height, width = x_NHWC.shape[1:3]
    even_i, even_j = torch.arange(height)[:, None] % 2 == 0, torch.arange(width)[None] % 2 == 0
    mask_HW = (even_i | even_j if patch.rule == "or" else even_i & even_j).to(x_NHWC.device)
    out = x_NHWC.clone()
    out[..., 0] = (x_NHWC[..., 0].int() + patch.value * mask_HW).clamp_max(255).to(torch.uint8)
    return out


def download(params: Download, stage: Stage) -> None:
    """Each set as <set>.safetensors: images (N, H, W) or (N, H, W, 3) uint8, labels (N,), held_out (N,): officially for tests."""
    for name in params.sets:
        training = None  # how many images come first that are officially for training, where others are for tests
        if name == "digits":
            from sklearn.datasets import load_digits

            digits = load_digits()
            images, labels = np.rint(digits.images * (255 / 16)), digits.target
        elif name.startswith("mnist"):
            part = "train" if name == "mnist_train" else "t10k"
            images, labels = idx(stage.fetch(f"{part}-images-idx3-ubyte.gz"), 16).reshape(-1, 28, 28), idx(stage.fetch(f"{part}-labels-idx1-ubyte.gz"), 8)
        elif name == "usps":
            import h5py

            with h5py.File(stage.fetch("usps.h5")) as file:
                parts = [(file[f"{part}/data"][:], file[f"{part}/target"][:]) for part in ("train", "test")]
            images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
            images, training = np.rint(images.reshape(-1, 16, 16) * 255), len(parts[0][1])
        elif name == "svhn":
            from scipy.io import loadmat

            parts = [loadmat(stage.fetch(file)) for file in SVHN.values()]
            images = np.concatenate([part["X"].transpose(3, 0, 1, 2) for part in parts])
            labels = np.concatenate([part["y"].ravel() for part in parts]) % 10  # the digit 0 is labelled 10
            training = len(parts[0]["y"])
        else:
            raise ReproError(f"download.sets: no set {name!r}; known: digits, mnist, mnist_train, usps, svhn")
        arrays = {"images": np.ascontiguousarray(images.astype(np.uint8)), "labels": labels.astype(np.int64)}
        save_file(arrays | {"held_out": np.arange(len(labels)) >= (training or len(labels))}, stage.out / f"{name}.safetensors")


def idx(path, header: int) -> np.ndarray:
    """The bytes after the header of a gzipped IDX file."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def preprocess(params: Preprocess, stage: Stage) -> None:
    """domains.safetensors: `<domain>.<split>.x` (N, S, S, 3) uint8, `.y` (N,) labels, `.id` (N,) the digit each image is made of."""
    raw = stage.path("raw")
    sets = {name: load_file(raw / f"{name}.safetensors") for name in sorted(set(params.domains.values()))}
    parts = {name: split(one["held_out"], params.shares, stage.rng("split", name)) for name, one in sets.items()}
    arrays = {}
    for domain, source in params.domains.items():
        if domain not in domains.PAINTERS:
            raise ReproError(f"preprocess.domains: no domain {domain!r}; known: {', '.join(domains.PAINTERS)}")
        for name, part, count in zip(SPLITS, parts[source], params.images):
            if name == "train" and domain in params.unseen:
                continue
            rng = stage.rng("images", domain, name)
            ids = choose(part, count, domain in REAL, rng)
            x = domains.paint(domain, sets[source]["images"][ids], sets[source]["labels"][ids], params.side, rng)
            arrays |= {f"{domain}.{name}.x": x, f"{domain}.{name}.y": sets[source]["labels"][ids], f"{domain}.{name}.id": ids}
    save_file(arrays, stage.out / "domains.safetensors")


def split(held_out_N: np.ndarray, shares: tuple[float, float, float], rng: np.random.Generator) -> list[np.ndarray]:
    """Disjoint random indices for train, validation and test; for test those of `held_out_N`, if there are any."""
    order = rng.permutation(len(held_out_N))
    if held_out_N.any():
        rest = order[~held_out_N[order]]
        return [*np.split(rest, [round(shares[0] / (shares[0] + shares[1]) * len(rest))]), order[held_out_N[order]]]
    ends = np.rint(np.cumsum(shares) * len(order)).astype(int)
    return np.split(order[: ends[-1]], ends[:-1])


def choose(part: np.ndarray, count: int, once: bool, rng: np.random.Generator) -> np.ndarray:
    """`count` of the digits `part`: each at most once, or with replacement where each drawing looks different."""
    return part[:count] if once else rng.choice(part, count)


class Domains:
    """The prepared images as tensors on the stage's device: `domains["plain", "train"]` is (x, y)."""

    def __init__(self, stage: Stage):
        arrays = load_file(stage.path("prepared") / "domains.safetensors")
        self.names = list(dict.fromkeys(key.split(".")[0] for key in arrays))
        self._tensors = {key: torch.from_numpy(array).to(stage.device) for key, array in arrays.items() if not key.endswith(".id")}

    def __getitem__(self, key: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
        domain, part = key
        if f"{domain}.{part}.x" not in self._tensors:
            raise ReproError(f"domain {domain!r} has no {part} images: add it to preprocess.domains, or take it out of preprocess.unseen")
        return self._tensors[f"{domain}.{part}.x"], self._tensors[f"{domain}.{part}.y"]

    @property
    def side(self) -> int:
        """S, pixels."""
        return next(tensor.shape[1] for key, tensor in self._tensors.items() if key.endswith(".x"))
