"""The conditional GAN of section 3.3: least squares, an auxiliary classifier and an information step; and what it is bent to.

    B batch   C channels   g width of the generator's last hidden stage   K classes   Z noise
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from reprise.papers.ntl.loss import mmd
from reprise.params import Params

LEAK, DROP = 0.2, 0.25


class Gan(Params):
    """Networks and training of the GAN."""

    noise: int = Field(gt=0, description="size Z of the noise")
    width: int = Field(gt=1, description="g: channels of the generator's last hidden stage; each earlier stage has twice as many. The discriminator begins with g/2")
    residual: int = Field(ge=0, description="residual blocks in the stage of 2g channels")
    epochs: int = Field(gt=0, description="passes over the source images")
    batch: int = Field(gt=0, description="batch size")
    rate: float = Field(gt=0, description="learning rate of Adam, beta1 = 0.5")
    classify: float = Field(ge=0, description="c, weight of the class loss on real images")
    eps: float = Field(gt=0, description="eps of the discriminator's batch norm: 0.8 as released, which mutes narrow layers for thousands of steps")
    judged: Literal["together", "apart"] = Field(description="whether D sees real and generated images in one pass or, as released, in two: apart, its batch norm hides their mean colour, and G is free in it")
    gate: tuple[float, float] = Field(description="D learns to tell real from fake only while its loss is above the first or G's is below the second")


class Residual(nn.Module):
    """Conv BN PReLU Conv BN, and the input again."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.PReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.body(x_BCHW)


class Generator(nn.Module):
    """(z, y) to images in [-1, 1]: a linear map to 2x2 pixels, then transposed convolutions that double the side."""

    def __init__(self, params: Gan, classes: int, side: int, generator: torch.Generator):
        super().__init__()
        self.classes = classes
        doublings = round(math.log2(side / 2))
        channels = [params.width * 2**i for i in reversed(range(doublings))]
        self.linear = nn.Linear(params.noise + classes, channels[0] * 4)
        stages: list[nn.Module] = []
        for i, o in zip(channels, channels[1:]):
            stages += [nn.ConvTranspose2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.ReLU()]
            if o == 2 * params.width:
                stages += [Residual(o) for _ in range(params.residual)]
        self.stages = nn.Sequential(*stages, nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1), nn.Tanh())
        initialise(self, generator)

    def forward(self, z_BZ: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        h = self.linear(torch.cat([z_BZ, F.one_hot(y_B, self.classes).to(z_BZ)], 1))
        return self.stages(h.unflatten(1, (-1, 2, 2)))


class Discriminator(nn.Module):
    """Images to (validity (B,), class scores (B, K), features D_z): four convolutions of stride 2 and two heads."""

    def __init__(self, params: Gan, classes: int, side: int, generator: torch.Generator):
        super().__init__()
        channels = [3, *(params.width // 2 * 2**i for i in range(4))]
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in zip(channels, channels[1:]))
        self.norms = nn.ModuleList([nn.Identity(), *(nn.BatchNorm2d(o, params.eps) for o in channels[2:])])
        size = channels[-1] * max(1, side // 16) ** 2
        self.validity, self.classes = nn.Linear(size, 1), nn.Linear(size, classes)
        initialise(self, generator)

    def forward(self, x_BCHW: torch.Tensor, dropout: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = x_BCHW
        for convolution, norm in zip(self.convolutions, self.norms):
            h = F.leaky_relu(convolution(h), LEAK)
            if dropout is not None:  # whole channels
                h = h * (torch.rand(h.shape[:2], generator=dropout) >= DROP).to(h)[..., None, None] / (1 - DROP)
            h = norm(h)
        z = h.flatten(1)
        return self.validity(z)[:, 0], self.classes(z), z


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Convolutions N(0, .02), scales of batch norm N(1, .02), dense layers uniform in +-1/sqrt(fan_in)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0, 0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1, 0.02, generator=generator)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            for tensor in (layer.weight, layer.bias):
                nn.init.uniform_(tensor, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)


def draw(net: Generator, count: int, noise: int, rng: torch.Generator, y_B: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and the labels they were drawn for: random ones unless given."""
    device = net.linear.weight.device
    z = torch.randn(count, noise, generator=rng).to(device)
    if y_B is None:
        y_B = torch.randint(net.classes, (count,), generator=rng).to(device)
    return net(z, y_B), y_B


class Trainer:
    """The three steps of a batch, with one Adam each."""

    def __init__(self, params: Gan, generator: Generator, discriminator: Discriminator, rng: torch.Generator):
        self.params, self.generator, self.discriminator, self.rng = params, generator, discriminator, rng
        both = [*generator.parameters(), *discriminator.parameters()]
        self.optimisers = [torch.optim.Adam(p, params.rate, betas=(0.5, 0.999), fused=True) for p in (generator.parameters(), discriminator.parameters(), both)]

    def step(self, x_BCHW: torch.Tensor, y_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """1. G towards validity 1; 2. D: real against fake, gated, and the class of real images; 3. G and D: the class of fake images."""
        p, count = self.params, len(y_B)
        adam_g, adam_d, adam_both = self.optimisers

        fake, _ = draw(self.generator, count, p.noise, self.rng)
        _, (validity, *_) = self.judge(x_BCHW, fake)
        g_loss = (validity - 1).square().mean()
        descend(adam_g, g_loss)

        (real_validity, real_classes, _), (fake_validity, *_) = self.judge(x_BCHW, fake.detach())
        d_loss = ((real_validity - 1).square().mean() + fake_validity.square().mean()) / 2
        gate = d_loss.detach() > p.gate[0] or g_loss.detach() < p.gate[1]
        descend(adam_d, d_loss * gate + p.classify * F.cross_entropy(real_classes, y_B))

        fake, labels = draw(self.generator, count, p.noise, self.rng)
        _, (_, classes, _) = self.judge(x_BCHW, fake)
        information = F.cross_entropy(classes, labels)
        descend(adam_both, information)
        return {"loss_g": g_loss.detach(), "loss_d": d_loss.detach(), "loss_information": information.detach()}

    def judge(self, real: torch.Tensor, fake: torch.Tensor) -> tuple[tuple, tuple]:
        """`judge` by this discriminator."""
        return judge(self.params, self.discriminator, real, fake, self.rng)


def judge(params: Gan, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, rng: torch.Generator) -> tuple[tuple, tuple]:
    """(validity, class scores, features) of real and of fake images, in one pass or in two."""
    if params.judged == "apart":
        return discriminator(real, rng), discriminator(fake, rng)
    both = discriminator(torch.cat([real, fake]), rng)
    return tuple(part[: len(real)] for part in both), tuple(part[len(real) :] for part in both)


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def freeze_direction(net: Generator, direction: int) -> None:
    """Zero the gradient of the first direction/4 of dimension 0 of every parameter of the convolutional stages that 4 divides."""
    for parameter in net.stages.parameters():
        if len(parameter) % 4 == 0:
            parameter.grad[: len(parameter) // 4 * direction] = 0


def augmentation_loss(params: Gan, discriminator: Discriminator, real: torch.Tensor, fake: torch.Tensor, y_B: torch.Tensor, distance: float, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """L_aug = - min(dis, MMD(D_z(x), D_z(G(z, y)))) + 0.5 CE(D_class(G(z, y)), y), and the MMD itself."""
    (*_, z_real), (_, classes, z_fake) = judge(params, discriminator, real, fake, rng)
    reached = mmd(z_real, z_fake)
    return -reached.clamp_max(distance) + 0.5 * F.cross_entropy(classes, y_B), reached.detach()
