"""The classifier Omega(Phi(x)): a VGG without batch norm, cut into the feature extractor Phi and the rest Omega (section 4).

    N images   H, W = S pixels   C channels   D features   K classes
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reprise.params import Params

# Output channels of the 3x3 convolutions, "M" a 2x2 max-pooling. `mini` serves images of 16 pixels.
CONFIGURATIONS: dict[str, list[int | str]] = {
    "mini": [16, "M", 32, "M", 48, 48, "M", 64, "M"],
    "vgg11": [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "vgg13": [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    "vgg19": [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Architecture(Params):
    """The network."""

    name: str = Field(pattern=f"^({'|'.join(CONFIGURATIONS)})$", description="which VGG")
    width: int = Field(gt=0, description="units of the two hidden dense layers")
    classes: int = Field(10, gt=1, description="K")
    split: int = Field(10, gt=0, description="Phi is the first `split` modules, counted conv, ReLU, pooling: 10 as released")


class Pool(nn.Module):
    """2x2 max-pooling. On a GPU as a maximum over axes: max_pool2d's gradient there is a sum in no fixed order."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return windowed(x_NCHW) if x_NCHW.is_cuda else F.max_pool2d(x_NCHW, 2)


def windowed(x_NCHW: torch.Tensor) -> torch.Tensor:
    """The same maxima; among equal ones the gradient is shared, where max_pool2d gives it to the first."""
    return x_NCHW.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))


class VGG(nn.Module):
    """`model(x)` gives (z, logits): the flattened features of the split layer and the class scores.

    Weights start as Kaiming normal (convolutions) and as uniform in +-1/sqrt(fan_in) (dense layers), zero and uniform biases,
    all drawn from `generator`.
    """

    def __init__(self, arch: Architecture, side: int, generator: torch.Generator):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in CONFIGURATIONS[arch.name]:
            if entry == "M":
                layers.append(Pool())
                side //= 2
            else:
                layers += [nn.utils.skip_init(nn.Conv2d, channels, entry, 3, padding=1), nn.ReLU()]
                channels = entry
        self.features = nn.Sequential(*layers)
        self.split = arch.split
        sizes = [channels * side * side, arch.width, arch.width, arch.classes]
        self.head = nn.ModuleList(nn.utils.skip_init(nn.Linear, i, o) for i, o in zip(sizes, sizes[1:]))
        for layer in [*layers, *self.head]:
            reset(layer, generator)

    def forward(self, x_NHWC: torch.Tensor, dropout: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images to (z_ND, logits_NK). `dropout` draws the masks of training; without it the model evaluates."""
        z_NCHW = self.features[: self.split](normalised(x_NHWC))
        return z_NCHW.flatten(1), self.omega(z_NCHW, dropout)

    def omega(self, z_NCHW: torch.Tensor, dropout: torch.Generator | None = None) -> torch.Tensor:
        """The rest of the convolutions, then Linear ReLU Dropout(.5) twice, then Linear."""
        h = self.features[self.split :](z_NCHW).flatten(1)
        for layer in self.head[:-1]:
            h = F.relu(layer(h))
            if dropout is not None:
                h = h * (torch.rand(h.shape, generator=dropout) < 0.5).to(h) * 2
        return self.head[-1](h)


def reset(layer: nn.Module, generator: torch.Generator) -> None:
    """Draw the initial weights of a layer anew."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.Linear):
        bound = layer.in_features**-0.5
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def normalised(x_NHWC: torch.Tensor) -> torch.Tensor:
    """uint8 images as (N, C, H, W) floats with ImageNet's mean and deviation; channels stay last in memory, where convolutions are fastest."""
    mean, std = (torch.tensor(v, device=x_NHWC.device) for v in (MEAN, STD))
    return ((x_NHWC / 255 - mean) / std).permute(0, 3, 1, 2)


@torch.no_grad()
def predictions(model: VGG, x_NHWC: torch.Tensor, chunk: int = 100) -> torch.Tensor:
    """The predicted class of every image, (N,)."""
    return torch.cat([model(part)[1].argmax(1) for part in x_NHWC.split(chunk)])


def accuracy(model: VGG, x_NHWC: torch.Tensor, y_N: torch.Tensor) -> float:
    """The share of images whose predicted class is the label."""
    return (predictions(model, x_NHWC) == y_N).double().mean().item()
